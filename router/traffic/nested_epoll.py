"""Coroutines on one epoll descriptor inside trio's: the fast driver of the data plane.

A request's life is written once, as a coroutine (`exchange`, `proxy`). Two drivers can run it:

    fiber   Our own: `coro.send` whenever one of its sockets is ready. All sockets of the data plane live in one epoll
            descriptor, which is one readable file to trio. One trio task waits for it, resumes whoever is ready, for a
            bounded time, and goes back to trio. A wait costs about a microsecond.
    task    An ordinary trio task. A wait costs ten times that, but nurseries, cancel scopes and everything else of
            trio work in it.

A fiber turns into a task and back in the middle of its life (`become_task`, `become_fiber`): the coroutine with all
that it knows simply gets another driver. So what is slow by nature (uploads, WebSocket) needs no copy of the rules.
A fiber must not await anything of trio's: it waits with `park`, and steps aside with `pause`.

Sockets are registered once, edge-triggered. `Member.ready` says that bytes, or the end, may wait in the kernel since
the last read that emptied it, so a reader first reads and parks only when it is not set. A spurious `ready` costs one
read; a lost one would hang a connection, so only a read that came back short clears it, and after a peer's close only
one that found nothing. (An event may be late: its socket was closed by another fiber of the same batch, and its
descriptor is a new socket's now.)

Who brings what it has begun a little at a time (a header line every few seconds, a body by drops, frames of a
WebSocket) costs a resumption for each drop, and a thousand of them on one timer would make a request wait for all, and
whoever else wants this processor too. So a `patient` member stands behind: what comes for it is noted, and so many a
millisecond are resumed. Tasks that read from one wait here as well (`wait_behind`): trio would run all at once.

Deadlines lie in one heap, lazily: a fiber has at most one entry that counts, which moves when it is met too early. The
usual deadline is far away and never met, and costs nothing while an earlier entry of the same fiber stands.
"""

from __future__ import annotations

import enum
import errno
import heapq
import math
import select
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

import trio

BATCH_SECONDS: Final = 0.002
"""How long fibers run before other trio tasks (gossip, probes, control) get their turn."""
EVENTS_MAX: Final = 32
"""Sockets looked at between two looks at the clock."""
PATIENT_MAX: Final = 16
"""How many patient ones are resumed in `PATIENT_SECONDS`: a fifth of the time for fibers, more for tasks."""
PATIENT_SECONDS: Final = 0.001
"""As short as trio can sleep."""

_READ: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_OVER: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_OVER_OR_WRITABLE: Final = _OVER | select.EPOLLOUT
_NOT_WRITABLE: Final = ~select.EPOLLOUT

FiberBody = Coroutine[Any, Any, None]


class Wake(enum.Enum):
    """Why a parked fiber goes on."""

    READY = "ready"
    LATE = "late"
    NUDGED = "nudged"
    """Somebody called `nudge`: look around."""


class _Move(enum.Enum):
    PARK = enum.auto()
    TO_TASK = enum.auto()
    TO_FIBER = enum.auto()


_READY: Final = Wake.READY
_PARK: Final = _Move.PARK


class Member:
    """A socket's part in the nested epoll."""

    __slots__ = ("over", "patient", "read_waiter", "ready", "write_waiter")

    def __init__(self) -> None:
        self.ready = False
        self.patient = False  # it brings by and by what it has begun: others who are ready come first
        self.over = False  # the peer has closed, or the connection is lost
        self.read_waiter: Fiber | Sleeper | None = None
        self.write_waiter: Fiber | None = None


class Sleeper:
    """A trio task that waits for a member as a fiber does."""

    __slots__ = ("_task", "tick")

    def __init__(self) -> None:
        self._task = trio.lowlevel.current_task()
        self.tick = 0  # 1 once its wait is over

    async def sleep(self) -> None:
        """Until resumed. Like every wait of trio's it can be cancelled."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self.tick += 1
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def nudge(self) -> None:
        """Tasks are called off by trio's own means."""

    def resume(self, wake: Wake | None) -> None:
        self.resume_if_still(0, wake)

    def resume_if_still(self, tick: int, wake: Wake | None) -> None:
        if tick == self.tick:
            self.tick += 1
            trio.lowlevel.reschedule(self._task)


class Fiber:
    """One coroutine, driven by the nested epoll or, for a while, by a trio task."""

    __slots__ = ("_body", "_nest", "alarm_at", "deadline", "hosted", "tick")

    def __init__(self, nest: NestedEpoll, body: FiberBody) -> None:
        self._nest = nest
        self._body = body
        self.tick = 0  # of waits: what was meant for an earlier one is void
        self.deadline = math.inf
        self.alarm_at = math.inf  # of the one heap entry that counts
        self.hosted = False

    @types.coroutine
    def park(self, deadline: float = math.inf) -> Generator[_Move, Wake, Wake]:
        """Wait to be resumed, by a socket that names this fiber as its reader or writer, or otherwise."""
        self.deadline = deadline
        if deadline < self.alarm_at:
            self._nest.arm(self, deadline)
        return (yield _PARK)

    def nudge(self) -> None:
        """Resume soon, if still in the wait that it is in now. Not for hosted fibers."""
        if not self.hosted:
            self._nest.enqueue(self, self.tick, Wake.NUDGED)

    async def pause(self) -> None:
        """Let the others run first."""
        self._nest.enqueue(self, self.tick, Wake.READY)
        await self.park()

    def resume(self, wake: Wake | None) -> None:
        nest = self._nest
        outer, nest.current = nest.current, self  # a fiber may start another
        self.tick += 1
        try:
            move = self._body.send(wake)
        except StopIteration:
            nest.ended(self)
            return
        except BaseException:
            nest.ended(self)
            raise
        finally:
            nest.current = outer
        if move is not _PARK:
            if move is _Move.TO_TASK:
                nest.host(self)
            else:
                self._fail(move)

    def resume_if_still(self, tick: int, wake: Wake) -> None:
        if tick == self.tick and not self.hosted and self in self._nest.fibers:
            self.resume(wake)

    def close(self) -> None:
        self._body.close()

    def _fail(self, trap: object) -> None:
        """A bug of ours: tell the coroutine where it happened, which is to clean up and end."""
        try:
            self._body.throw(RuntimeError(f"a fiber awaited something of trio's: {trap!r}"))
        except StopIteration:
            pass
        finally:
            self._nest.ended(self)

    @types.coroutine
    def drive(self) -> Generator[Any, Any, bool]:
        """Run as the current trio task, until the end (True) or until it becomes a fiber again (False)."""
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                trap = self._body.send(value) if error is None else self._body.throw(error)
            except StopIteration:
                return True
            if trap is _Move.TO_FIBER:
                return False
            value = error = None
            try:
                value = yield trap
            except BaseException as thrown:  # noqa: BLE001 -- all of them are the coroutine's to handle
                error = thrown


class NestedEpoll:
    """All fibers of a process, and their sockets. Use on the trio thread only, from inside `trio.run`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._members: dict[int, Member] = {}
        self._queue: deque[tuple[Fiber, int, Wake]] = deque()
        self._behind: deque[tuple[Fiber | Sleeper, int]] = deque()  # whose members are patient
        self._behind_due = 0.0
        self._behind_left = 0  # how many may be resumed until then
        self._alarms: list[tuple[float, int, Fiber]] = []
        self._alarms_set = 0
        self._alarm = trio.CancelScope()
        self._serving = False  # one of our own tasks runs, and will look at the queue before it sleeps
        self._tasks: trio.Nursery | None = None
        self.clock: Callable[[], float] = trio.current_time
        """Now, in trio's seconds; `time` may be a little older, and costs less."""
        self.now = 0.0
        """When the nest last looked at its sockets or alarms: the time of fibers. One reading serves all who are
        resumed by one look."""
        self._look = select.poll()
        self._look.register(self._epoll.fileno(), select.POLLIN)
        self._emptied_at = 0.0
        self.current: Fiber | None = None
        """The fiber that runs now; None when whoever asks is run by trio."""
        self.fibers: set[Fiber] = set()

    def time(self) -> float:
        """Now, in trio's seconds; for a fiber, the moment of the look that resumed it."""
        return self.clock() if self.current is None else self.now

    def heard_until(self) -> float:
        """Whatever arrived before was seen by whoever waits for it. Behind `clock` only while we are."""
        if self._look.poll(0):  # something lies there
            return self._emptied_at
        return self.clock()

    # --- who takes part

    def join(self, fd: int, member: Member) -> None:
        """Watch a socket until it is closed. Raises OSError when the kernel has no room."""
        try:
            self._epoll.register(fd, _READ)
        except ValueError:  # `run` has ended
            raise OSError(errno.EBADF, "no more sockets are watched") from None
        self._members[fd] = member

    def watch_writing(self, fd: int) -> None:
        """From now on resume `member.write_waiter` when the kernel takes bytes again."""
        self._epoll.modify(fd, _READ | select.EPOLLOUT)

    def leave(self, fd: int) -> None:
        """To be called before the descriptor is closed."""
        self._members.pop(fd, None)

    def start(self, body: FiberBody) -> None:
        """Run a new fiber up to its first wait."""
        fiber = Fiber(self, body)
        self.fibers.add(fiber)
        self.now = self.time()
        fiber.resume(None)

    def start_task(self, body: FiberBody) -> None:
        """The same in a task of its own, which may become a fiber later."""
        fiber = Fiber(self, body)
        self.fibers.add(fiber)
        self.host(fiber)

    def ended(self, fiber: Fiber) -> None:
        self.fibers.discard(fiber)

    # --- from one driver to the other; called by the coroutine itself

    @types.coroutine
    def become_task(self) -> Generator[_Move, object, None]:
        """Go on as a trio task of the nursery that `run` has."""
        if self.current is not None:
            yield _Move.TO_TASK

    @types.coroutine
    def become_fiber(self) -> Generator[_Move, object, None]:
        """Go on as a fiber. No nursery or cancel scope of the task may be open."""
        if self.current is None:
            yield _Move.TO_FIBER

    async def wait_behind(self, member: Member) -> None:
        """Have a task wait until a patient member is ready."""
        assert self.current is None, "fibers park"
        member.read_waiter = sleeper = Sleeper()
        try:
            await sleeper.sleep()
        finally:
            if member.read_waiter is sleeper:
                member.read_waiter = None

    async def pause(self) -> None:
        """A checkpoint for whichever driver."""
        if self.current is None:
            await trio.lowlevel.checkpoint()
        else:
            await self.current.pause()

    def host(self, fiber: Fiber) -> None:
        assert self._tasks is not None, "fibers are driven by `run`"
        fiber.hosted = True
        self._tasks.start_soon(self._host, fiber)

    async def _host(self, fiber: Fiber) -> None:
        ended = True
        try:
            ended = await fiber.drive()
        finally:
            if ended:
                self.ended(fiber)
        if not ended:
            fiber.hosted = False
            self.now = self.clock()
            fiber.resume(None)

    # --- running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive fibers until cancelled; whatever still lives then is closed, as if cancelled."""
        self.clock = trio.lowlevel.current_clock().current_time
        try:
            async with trio.open_nursery() as self._tasks:
                self._tasks.start_soon(self._keep_time)
                task_status.started()
                await self._keep_polling()
        finally:
            for fiber in list(self.fibers):
                fiber.close()
            self.fibers.clear()
            self._members.clear()
            self._epoll.close()

    async def _keep_polling(self) -> None:
        poll, fd, members, behind = self._epoll.poll, self._epoll.fileno(), self._members, self._behind
        more = False
        while True:
            if more or self._queue:
                await trio.lowlevel.checkpoint()
            elif behind:
                with trio.CancelScope(deadline=self._behind_due):
                    await trio.lowlevel.wait_readable(fd)
            else:
                await trio.lowlevel.wait_readable(fd)
            self._serving = True
            now = self.now = self.clock()
            until = now + BATCH_SECONDS
            while True:
                if self._queue:
                    self._run_queue()
                events = poll(0, EVENTS_MAX)
                for number, mask in events:
                    member = members.get(number)
                    if member is None:
                        continue
                    if mask & _NOT_WRITABLE:
                        member.ready = True
                        if mask & _OVER:
                            member.over = True
                        if (fiber := member.read_waiter) is not None:
                            member.read_waiter = None
                            if member.patient:
                                behind.append((fiber, fiber.tick))
                            else:
                                fiber.resume(_READY)
                    if member.write_waiter is not None and mask & _OVER_OR_WRITABLE:
                        fiber, member.write_waiter = member.write_waiter, None
                        fiber.resume(_READY)
                if len(events) < EVENTS_MAX:
                    self._emptied_at = now
                if behind:
                    self._run_behind()
                now = self.now = self.clock()
                more = bool(events)
                if not (more or self._queue) or now >= until:
                    break
            self._serving = False

    def enqueue(self, fiber: Fiber, tick: int, wake: Wake) -> None:
        self._queue.append((fiber, tick, wake))
        if not self._serving:
            self._alarm.deadline = -math.inf  # both tasks of ours may be asleep

    # --- time

    def arm(self, fiber: Fiber, deadline: float) -> None:
        fiber.alarm_at = deadline
        self._alarms_set += 1
        heapq.heappush(self._alarms, (deadline, self._alarms_set, fiber))
        if deadline < self._alarm.deadline:
            self._alarm.deadline = deadline

    async def _keep_time(self) -> None:
        """Wakes the late, and serves the queue while the poller is asleep."""
        while True:
            with trio.CancelScope(deadline=self._alarms[0][0] if self._alarms else math.inf) as self._alarm:
                if self._queue:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.sleep_forever()
            self._serving = True
            self.now = self.clock()
            self._run_queue()
            self._wake_late()
            self._serving = False

    def _run_queue(self) -> None:
        for _ in range(len(self._queue)):
            fiber, tick, wake = self._queue.popleft()
            fiber.resume_if_still(tick, wake)

    def _run_behind(self) -> None:
        if self.now >= self._behind_due:
            self._behind_due = self.now + PATIENT_SECONDS
            self._behind_left = PATIENT_MAX
        count = min(self._behind_left, len(self._behind))
        self._behind_left -= count
        for _ in range(count):
            fiber, tick = self._behind.popleft()
            fiber.resume_if_still(tick, _READY)

    def _wake_late(self) -> None:
        now = self.now
        while self._alarms and self._alarms[0][0] <= now:
            at, _, fiber = heapq.heappop(self._alarms)
            if at != fiber.alarm_at or fiber not in self.fibers:
                continue
            fiber.alarm_at = math.inf
            if fiber.hosted:
                continue
            if fiber.deadline <= now:
                fiber.deadline = math.inf
                fiber.resume(Wake.LATE)
            elif fiber.deadline < math.inf:
                self.arm(fiber, fiber.deadline)
