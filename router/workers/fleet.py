"""A node's workers: started, told what the node knows, listened to, replaced when they die (edge).

All of them accept from the same listening sockets, which the node opened and keeps. So a connection that waits to be
accepted belongs to none of them: whoever is free takes it, and a worker that dies takes nothing along but what it was
serving. (With SO_REUSEPORT it would belong to one worker from its SYN on: see `docs/decisions.md`.)

A fleet may be empty: then somebody else serves, and there is nobody to tell anything.

What a worker must know is kept here as its newest state, not as a queue: a feeder sends what it has not sent yet, in
the order in which it can be used, however far behind a worker was.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import msgspec
import trio

from lattice.types import Endpoint, Level
from router.decision.decide import Attempt
from router.errors import StartError
from router.journal import Journal
from router.traffic.steering import Judge, Outcome
from router.workers.messages import (
    Admitted,
    Configure,
    Counted,
    Deframer,
    Drain,
    Forget,
    Masked,
    Observed,
    Planned,
    Ready,
    Reported,
    ToNode,
    ToWorker,
    Tried,
    Waiting,
    decode_to_node,
    encode,
)

log = logging.getLogger("edgelattice.workers")

RESTART_SECONDS: Final = 1.0
"""Before a worker that died within this time of its start is replaced, else it is at once; and before it is tried again
when there was not enough for a process."""
START_SECONDS: Final = 60.0
"""Within which a worker serves: Python, policy and a location database are loaded. systemd gives a start 90 s."""
GRACE_US: Final = 60_000_000
"""What a worker that was replaced has to finish: nobody waits for it."""
SILENT_SECONDS: Final = 10.0
"""A worker that serves says something twice a second, even if it is only what it counted."""
WAITING_SECONDS: Final = 1.5
"""How long a worker's word on who waits holds: it speaks twice a second."""
KILL_SECONDS: Final = 1.0
"""Beyond its grace, a worker that drains has."""


class FleetError(StartError):
    """Workers that were asked for do not start; those before them go on."""


class _Member:
    """One worker process, from the node's side."""

    def __init__(self, number: int, process: trio.Process, link: trio.SocketStream) -> None:
        self.number = number
        self.process = process
        self.link = link
        self.began = self.heard = trio.current_time()
        self.silent = False
        """That it hangs was said."""
        self.ready = trio.Event()
        self.gone = trio.Event()
        self.news = trio.Event()
        self.counters: Counter[str] = Counter()
        self.oldest: dict[tuple[str, Endpoint], int] = {}
        """By its last `Waiting`."""
        self.planned = -1
        """The `Planned` it steers by."""
        self.seen = 0
        """Of its `Observed`, the newest that was taken."""
        self.drain: Drain | None = None
        self.ends = math.inf
        """When it is to have ended."""
        self.sent: dict[type, ToWorker] = {}
        self.purges: list[Forget] = []
        """Not sent yet. A worker that begins has nothing to forget."""

    def leave(self, drain: Drain) -> None:
        """Finish what is under way; a shorter grace than said before counts."""
        if self.drain is None or drain.grace_us < self.drain.grace_us:
            self.drain = drain
            self.ends = min(self.ends, trio.current_time() + drain.grace_us / 1e6)
            self.news.set()


class Fleet:
    """`run` it; tell it what changes by `configure`, `plan` and `mask`."""

    def __init__(
        self,
        site_toml: Path,
        journal: Journal,
        observed: Callable[[Attempt, Outcome, int, float], None],
        admitted: Callable[[Endpoint], None],
        reported: Callable[[Attempt, int], None],
    ) -> None:
        self._site_toml = site_toml
        self._journal = journal
        self._observed = observed
        self._admitted = admitted
        self._reported = reported
        self._http: Sequence[trio.SocketListener] = ()
        self._https: Sequence[trio.SocketListener] = ()
        self._configure: Configure | None = None
        self._trial: Judge | None = None
        self._trials = 0
        """How many there were."""
        self._planned = Planned({}, {}, {}, 0)
        self._out: tuple[Endpoint, ...] = ()
        self._suspected: tuple[Endpoint, ...] = ()
        self._members: dict[int, _Member] = {}  # those that serve, or will, by number
        self._all: set[_Member] = set()  # also those that leave, or are not ready yet
        self._retired: Counter[str] = Counter()  # of those that ended
        self._leaving = trio.Event()
        self._nursery: trio.Nursery | None = None

    # --- what they should know

    def configure(self, text: str, trial: Judge | None = None) -> None:
        """A policy is in force, and perhaps on trial; `plan` follows before anything is awaited."""
        if trial is not None and trial is not self._trial:
            self._trials += 1
        self._trial = trial
        self._configure = Configure(text) if trial is None else Configure(text, trial.label, self._trials)

    def plan(
        self,
        levels: dict[str, int],
        saturation_ppm: dict[str, int],
        rtt_us: dict[str, int],
        away_ppm: dict[str, int],
        now: int,
    ) -> None:
        """The arguments of `router.decision.plan.plan`."""
        self._planned = Planned(levels, saturation_ppm, rtt_us, now, self._planned.number + 1, away_ppm)
        self._tell()

    def purge(self, host: str, path: str) -> None:
        for member in self._all:
            member.purges.append(Forget(host, path))
        self._tell()

    def mask(self, out: AbstractSet[Endpoint], suspected: AbstractSet[Endpoint]) -> None:
        """These are out of use; some on a suspicion alone."""
        listed = tuple(sorted(out)), tuple(sorted(suspected))
        if listed != (self._out, self._suspected):
            self._out, self._suspected = listed
            self._tell()

    def _tell(self) -> None:
        for member in self._all:
            member.news.set()

    # --- what they did

    @property
    def counters(self) -> Counter[str]:
        """The sums over all workers, those that ended included; and how many of those that serve steer by what this
        node knows now. A copy."""
        total = self._retired.copy()
        if self._members:
            total["workers current"] = sum(each.planned == self._planned.number for each in self._members.values())
        for member in self._all:
            total.update(member.counters)
        return total

    def oldest(self) -> dict[tuple[str, Endpoint], int]:
        """For how many microseconds the oldest request has waited at endpoints where a worker finds that too long."""
        found: dict[tuple[str, Endpoint], int] = {}
        now = trio.current_time()
        for member in self._all:
            if now - member.heard < WAITING_SECONDS:  # who says nothing knows nothing of now
                for where, waited_us in member.oldest.items():
                    found[where] = max(waited_us, found.get(where, 0))
        return found

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(self._members[number].process.pid for number in sorted(self._members))

    # --- their lives

    async def run(
        self,
        count: int,
        http: Sequence[trio.SocketListener],
        https: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep so many workers on these listening sockets, or as `replace` says, until `drain` is through. Started when
        all of them serve. Closes the sockets. Raises `FleetError`."""
        try:
            async with trio.open_nursery() as self._nursery:
                await self._start(count, http, https)
                task_status.started()
                await self._watch()
        finally:
            self._close(http, https, self._http, self._https)

    async def replace(
        self, count: int, http: Sequence[trio.SocketListener], https: Sequence[trio.SocketListener]
    ) -> None:
        """Start so many workers, which read the site file anew and accept from these sockets; those that serve now
        drain once the new ones listen. Raises `FleetError`: then nothing has changed, and the sockets stay open."""
        before = len(self._members)
        await self._start(count, http, https)
        if before:
            self._say(f"{before} workers were replaced by {count or 'the node itself'}")
        elif count:
            self._say(f"the node itself was replaced by {count} workers")

    async def _start(
        self, count: int, http: Sequence[trio.SocketListener], https: Sequence[trio.SocketListener]
    ) -> None:
        fresh: dict[int, _Member] = {}
        try:
            for number in range(count):
                fresh[number] = await self._spawn(number, http, https)
            with trio.move_on_after(START_SECONDS):
                for member in fresh.values():
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_first, member.ready, nursery.cancel_scope)
                        nursery.start_soon(_first, member.gone, nursery.cancel_scope)
            for member in fresh.values():
                if member.gone.is_set():
                    raise FleetError(f"http.workers: {count} processes do not start: one ended, {_how(member.process)}")
            late = [member for member in fresh.values() if not member.ready.is_set()]
            for member in late:
                member.process.kill()
            if late:
                pid = late[0].process.pid
                raise FleetError(
                    f"http.workers: {count} processes do not start: process {pid} does not serve after"
                    f" {START_SECONDS:g} s"
                )
            if self._leaving.is_set():
                raise FleetError("http.workers: nobody is replaced in a node that leaves")
        except BaseException as error:
            for member in fresh.values():
                member.leave(Drain(GRACE_US))  # who is ready has accepted users already
            if isinstance(error, OSError):
                raise FleetError(f"http.workers: {count} processes do not start: {error}") from None
            raise
        before = self._http, self._https
        self._http, self._https = http, https
        replaced, self._members = self._members, fresh
        for old in replaced.values():
            old.leave(Drain(GRACE_US))
        self._close(*before)

    @staticmethod
    def _close(*listening: Sequence[trio.SocketListener]) -> None:
        for listeners in listening:
            for listener in listeners:
                listener.socket.close()

    async def drain(self, grace_us: int) -> None:
        """Let all of them finish what they serve; then `run` ends."""
        self._leaving.set()
        self._close(self._http, self._https)
        members = list(self._all)
        for member in members:
            member.leave(Drain(grace_us))
        with trio.move_on_after(grace_us / 1e6 + KILL_SECONDS):
            for member in members:
                await member.gone.wait()
        for member in members:
            if not member.gone.is_set():
                member.process.kill()

    async def _spawn(
        self, number: int, http: Sequence[trio.SocketListener], https: Sequence[trio.SocketListener]
    ) -> _Member:
        assert self._nursery is not None
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as failed:
            failed.callback(ours.close)
            listening = [[each.socket.fileno() for each in listeners] for listeners in (http, https)]
            fds = [",".join(map(str, numbers)) for numbers in listening]
            level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
            process = await trio.lowlevel.open_process(
                [
                    *(sys.executable, "-P", "-m", "router.workers.worker"),
                    *(str(self._site_toml), str(theirs.fileno()), *fds, level),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *listening[0], *listening[1]],
            )
            if self._leaving.is_set():  # nobody would attend to it
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
                raise FleetError("http.workers: nobody is replaced in a node that leaves")
            failed.pop_all()
        member = _Member(number, process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        self._all.add(member)
        self._nursery.start_soon(self._attend, member)
        return member

    async def _attend(self, member: _Member) -> None:
        """From its start to its end, and its replacement if nobody asked it to end."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._feed, member)
                await self._hear(member)
                nursery.cancel_scope.cancel()
            await member.process.wait()
        finally:
            with trio.CancelScope(shield=True):  # reaped, whatever ends us
                if member.process.returncode is None:
                    member.process.kill()
                await member.process.wait()
                await member.link.aclose()
            self._retired.update(member.counters)
            member.counters.clear()
            self._all.discard(member)
            member.gone.set()
        if self._leaving.is_set() or not self._counts(member):
            return
        self._say(f"worker {member.number} (process {member.process.pid}) died: {_how(member.process)}; replaced")
        self._retired["workers replaced"] += 1
        if trio.current_time() - member.began < RESTART_SECONDS:
            await trio.sleep(RESTART_SECONDS)
        await self._succeed(member)

    async def _succeed(self, member: _Member) -> None:
        """Another takes the place of one that died, unless all of them are replaced meanwhile."""
        while self._counts(member) and not self._leaving.is_set():
            try:
                fresh = await self._spawn(member.number, self._http, self._https)
            except FleetError:
                return
            except OSError as error:
                self._say(f"worker {member.number} does not start: {error}; tried again")
                await trio.sleep(RESTART_SECONDS)
                continue
            if self._counts(member):
                self._members[member.number] = fresh
            else:
                fresh.leave(Drain(0))

    def _counts(self, member: _Member) -> bool:
        """It serves, or should, and was not asked to leave."""
        return member.drain is None and self._members.get(member.number) is member

    async def _watch(self) -> None:
        """Until all leave, say who hangs: new users are served by the others, but its own wait. Who has none of them
        any more, or none yet, is ended."""
        pause = SILENT_SECONDS / 4
        while not self._leaving.is_set():
            due = trio.current_time() + pause
            with trio.move_on_at(due):
                await self._leaving.wait()
            now = trio.current_time()
            if now - due > pause:
                continue  # we did not listen ourselves
            for member in list(self._all):
                if now > member.ends + KILL_SECONDS:
                    self._end(member, "did not end in its time")
            for member in self._members.values():
                if not member.ready.is_set() and now - member.began > START_SECONDS:
                    self._end(member, f"does not serve after {START_SECONDS:g} s")
                    continue
                silent = now - member.heard > SILENT_SECONDS
                if silent and not member.silent:
                    self._say(
                        f"worker {member.number} (process {member.process.pid}) has said nothing for"
                        f" {SILENT_SECONDS:g} s: it hangs, and whoever it serves; killed, it is replaced"
                    )
                member.silent = silent

    def _end(self, member: _Member, why: str) -> None:
        """It will not end by itself."""
        self._say(f"worker {member.number} (process {member.process.pid}) {why}; killed")
        member.process.kill()

    async def _feed(self, member: _Member) -> None:
        """Send whatever the worker does not know yet, in the order in which it can use it. Who is to leave is told only
        that: by a plan it would begin to serve."""
        while True:
            member.news = trio.Event()
            masked = Masked(list(self._out), member.seen, list(self._suspected))
            purges, member.purges = member.purges, []
            known = (self._configure, self._planned, masked) if member.drain is None else (member.drain,)
            newest = [each for each in known if each is not None]
            fresh = [each for each in newest if not _known(member.sent.get(type(each)), each)]
            member.sent |= {type(each): each for each in fresh}
            try:
                for message in (*purges, *fresh):
                    await member.link.send_all(encode(message))
            except trio.BrokenResourceError:
                return  # it died, which the reader notices
            await member.news.wait()

    async def _hear(self, member: _Member) -> None:
        deframer = Deframer()
        try:
            async for data in member.link:
                for message in deframer.feed(bytes(data)):
                    self._take(member, decode_to_node(message))
        except trio.BrokenResourceError:
            pass  # killed
        except (ValueError, msgspec.MsgspecError) as error:  # of another version, if its files were changed under us
            self._say(f"worker {member.number} (process {member.process.pid}) is not understood: {error}; killed")
            member.process.kill()

    def _take(self, member: _Member, message: ToNode) -> None:
        member.heard = trio.current_time()
        match message:
            case Ready(number):
                member.planned = number
                member.ready.set()
            case Observed(number, outcomes):
                member.seen = number
                for each in outcomes:
                    attempt = Attempt(each.region, each.tier, Level.UNKNOWN, each.endpoint)
                    self._observed(attempt, Outcome(each.outcome), each.latency_us, trio.current_time())
                member.news.set()
            case Admitted(endpoint):
                self._admitted(endpoint)
            case Reported(region, tier, endpoint, saturation_ppm):
                self._reported(Attempt(region, tier, Level.UNKNOWN, endpoint), saturation_ppm)
            case Tried(number, endings, without_route):
                for route, ending, status in endings:
                    if self._trial is not None and number == self._trials:
                        self._trial.ended(route, ending, status)
                for host, path in without_route:
                    if self._trial is not None and number == self._trials:
                        self._trial.found_no_route(host, path)
            case Waiting(oldest):
                member.oldest = {(region, endpoint): waited_us for region, endpoint, waited_us in oldest}
            case Counted(counters):
                member.counters = Counter(counters)

    def _say(self, text: str) -> None:
        self._journal.note("worker", text)
        log.warning("%s", text)


def _known(sent: ToWorker | None, message: ToWorker) -> bool:
    """Whether a worker that was sent the one would learn nothing from the other."""
    if isinstance(sent, Masked) and isinstance(message, Masked):
        # That more was seen matters together with what it says.
        return (sent.out, sent.suspected) == (message.out, message.suspected)
    return sent is message or sent == message


async def _first(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _how(process: trio.Process) -> str:
    code = process.returncode
    return f"signal {-code}" if code is not None and code < 0 else f"status {code}"
