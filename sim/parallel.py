"""One run by several processes: each runs some shards, as far as the others' clocks and the lookahead let it.

A conservative parallel simulation (Chandy and Misra, 1979; Bryant, 1977). One process builds what all must know, who
the hosts are and where, and forks before any engine is made: each makes those of its own hosts. From then on each lets
time pass a piece at a time, a part of the lookahead. After each piece it tells every other how far it is, and what it
has sent there; and it goes no further than the least of the others' clocks plus the lookahead between them, for until
then nothing can come that it has not got. Frames wait in the queue of the process that will take them, under the time
and the order that they would have in one process (`sim.scheduler`), so it does not matter when they came. All else
that processes say to each other is in `sim.company`.

Whatever goes wrong in one of them (a broken promise, an engine that raises, a question for somebody else's engine) ends
all, and is said as `Apart`: one process then does the run again, and that result counts. So a result of several
processes is always one of a run that broke nothing on its way, and a violation is reported as one process saw it.

An edge: this module forks, and talks through sockets. Frames are plain bytes: a `marshal` of how far the sender is, of
what is on its way and of facts, or a pickle of what it says to a question of all.
"""

from __future__ import annotations

import marshal
import os
import pickle
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from heapq import heappush
from select import POLLIN, poll, select
from struct import Struct
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from lattice.events import DatagramReceived, StreamFrameReceived
from sim.cluster import Cluster
from sim.company import Company
from sim.experiment import Experiment, Result, uncollected
from sim.host import STREAM_PORT
from sim.obstacles import obstacle
from sim.scheduler import ORDER_BITS, OnItsWay
from sim.shards import Shards

T = TypeVar("T")
PIECES: Final = 3
"""So often within the lookahead a process says how far it is: the oftener, the less another waits for one that just now
has more to do."""
LOOKS: Final = 200
"""So often a process looks whether something has come before it sleeps, where each has a processor: about as long as
most waits are, and as long as to be woken takes twice."""
_HEAD: Final = Struct("<cI")
"""What kind of frame, and how many bytes follow."""
_PASSED, _SAID, _FAILED = b"t", b"q", b"x"
_READ_BYTES: Final = 1 << 16
"""Of a buffer of twice that and more, which is memory from the system each time, a read takes six times as long."""
_PLAIN: Final = 2
"""The version of `marshal` that does not look whether it has written an object before."""


class Apart(Exception):  # noqa: N818  (no error of anybody's)
    """These processes do not come to an end together; why, in a few words."""


def _gone(why: object) -> Apart:
    return Apart(f"one of the processes is gone: {why}")


class Peer:
    """Another process, as one sees it."""

    def __init__(self, end: socket.socket, lookahead_us: int, clock: int) -> None:
        self.lookahead_us = lookahead_us
        self.clock = clock
        """Until then it has said all that it sends here."""
        self.box: list[OnItsWay] = []
        """What is on its way there."""
        self.said: list[Any] = []
        """What it said to questions that have not been asked here yet."""
        self.end = end
        end.setblocking(False)
        self._in = bytearray()
        self._out = bytearray()

    def send(self, kind: bytes, body: bytes) -> None:
        """Never waits for the other to read unless it reads meanwhile itself: both may have much to say. Raises
        `Apart` when the other is gone."""
        self._out += _HEAD.pack(kind, len(body)) + body
        self._write()
        while self._out:
            readable, _, _ = select([self.end], [self.end], [])
            if readable:
                self._read()
            self._write()

    def _write(self) -> None:
        try:
            del self._out[: self.end.send(self._out)]
        except BlockingIOError:
            return
        except OSError as error:
            raise _gone(error) from error

    def frames(self) -> list[tuple[bytes, bytes]]:
        """Kind and body of all that have come in whole. Raises `Apart` when the other is gone."""
        self._read()
        found = []
        data, at = self._in, 0
        while len(data) - at >= _HEAD.size:
            kind, length = _HEAD.unpack_from(data, at)
            ends = at + _HEAD.size + length
            if len(data) < ends:
                break
            found.append((kind, bytes(data[at + _HEAD.size : ends])))
            at = ends
        del data[:at]
        return found

    def _read(self) -> None:
        try:
            while part := self.end.recv(_READ_BYTES):
                self._in += part
                if len(part) < _READ_BYTES:
                    return
        except BlockingIOError:
            return
        except OSError as error:
            raise _gone(error) from error
        raise _gone("it has closed its end")


class Together(Company):
    """Several processes, as one of them sees it."""

    alone = False

    def __init__(self, cluster: Cluster, number: int, shards: Shards, ends: Sequence[socket.socket | None]) -> None:
        super().__init__()
        self._number = number
        self.hearers = cluster.company.hearers
        self._events: dict[int, int] = {}
        """How many inputs each other took."""
        self.on("events", self._events.__setitem__)
        self._cluster = cluster
        self._peers = {
            other: Peer(end, shards.lookahead_us[other][number], cluster.now)
            for other, end in enumerate(ends)
            if end is not None
        }
        self._each = list(self._peers.values())
        self._incoming = poll()
        for peer in self._each:
            self._incoming.register(peer.end, POLLIN)
        self._looks = LOOKS if shards.count <= len(os.sched_getaffinity(0)) else 0
        self._clock = cluster.now
        """How far this process is, and how far it has said that it is."""
        self._told = -1
        self._piece_us = max(1, min(peer.lookahead_us for peer in self._each) // PIECES)
        self._facts: list[tuple[object, ...]] = []
        self._endpoints = [host.endpoint for host in cluster.hosts]
        for host in cluster.hosts:
            owner = shards.of[host.index]
            host.here = owner == number
            if not host.here:
                cluster.scheduler.elsewhere[host.index] = self._peers[owner].box.append

    # --- time

    def pass_time(self, cluster: Cluster, until: int) -> None:
        while self._clock < until:
            # One less: at the very time of its clock another may still send, when it heals.
            safe = min([peer.clock + peer.lookahead_us for peer in self._each]) - 1
            ends = min(until, safe, self._clock + self._piece_us)
            if ends <= self._clock:
                self._wait()
                continue
            cluster.run_until(ends)
            self._clock = ends
            if ends == until:
                self.tell("events", self._number, cluster.journal.events)
            self._say(ends)
            self._listen()

    def _say(self, clock: int) -> None:
        """How far this process is, what it has sent, and what it has found out."""
        facts, self._facts = self._facts, []
        for peer in self._each:
            peer.send(_PASSED, marshal.dumps((clock, peer.box, facts), _PLAIN))
            peer.box.clear()
        self._told = clock

    def _wait(self) -> None:
        look = self._incoming.poll
        for _ in range(self._looks):
            if look(0):
                break
        else:
            look()
        self._listen()

    def _listen(self) -> None:
        for peer in self._each:
            for kind, body in peer.frames():
                if kind == _PASSED:
                    peer.clock, sent, facts = marshal.loads(body)  # noqa: S302  (our own child's, or our parent's)
                    self._take(sent)
                    for fact, *what in facts:
                        self.hearers[fact](*what)
                elif kind == _SAID:
                    peer.said.append(pickle.loads(body))  # noqa: S301  (the same)
                else:
                    raise Apart(body.decode())

    def _take(self, sent: list[OnItsWay]) -> None:
        queue, endpoints, now = self._cluster.scheduler.queue, self._endpoints, self._cluster.now
        for at, order, host, stream, data in sent:
            if at <= now:
                raise Apart("a frame was on its way for less than the lookahead")
            source = endpoints[(order >> ORDER_BITS) - 1]
            if stream:
                heappush(queue, (at, order, host, StreamFrameReceived(data, (source[0], STREAM_PORT))))
            else:
                heappush(queue, (at, order, host, DatagramReceived(data, source)))

    # --- words

    def gather(self, value: T) -> list[T]:
        now = self._cluster.now
        if self._told < now - 1:  # amid a piece, in an act: nothing else of this microsecond has happened yet
            self._say(now - 1)
        body = pickle.dumps(value)
        for peer in self._each:
            peer.send(_SAID, body)
        while not all(peer.said for peer in self._each):
            self._wait()
        said = {other: peer.said.pop(0) for other, peer in self._peers.items()}
        said[self._number] = value
        return [said[number] for number in sorted(said)]

    def tell(self, kind: str, *fact: object) -> None:
        self._facts.append((kind, *fact))

    def events(self, own: int) -> int:
        return own + sum(self._events.values())

    def fail(self, why: str) -> None:
        """Tell the others that this process cannot go on."""
        for peer in self._each:
            with suppress(OSError, Apart):
                peer.send(_FAILED, why.encode())


def run_by(make: Callable[[], Experiment], jobs: int) -> tuple[Result, str | None]:
    """Do a run by so many processes, or by as many as it has shards; with why it was done by one, if it was.

    Raises what `Experiment.run` raises. `make` is called once more when the processes do not come to an end together.
    """
    experiment = make()
    shards = experiment.cluster.cut.joined(jobs)
    why = obstacle(experiment.timeline, shards) if jobs > 1 else "one processor"
    if why is None:
        try:
            with uncollected(len(experiment.cluster.hosts)):
                return _fork(experiment, shards), None
        except Exception as error:  # noqa: BLE001  (one process will come to it, too, and say so as it does)
            why = f"{error}"
        experiment = make()
    return experiment.run(), why


Pairs: TypeAlias = dict[tuple[int, int], tuple[socket.socket, socket.socket]]
"""By two processes, the first the greater: the ends of each."""


def _fork(experiment: Experiment, shards: Shards) -> Result:
    pairs: Pairs = {(a, b): socket.socketpair() for a in range(shards.count) for b in range(a)}
    children: list[int] = []
    try:
        for number in range(1, shards.count):
            child = os.fork()
            if not child:
                _be(experiment, number, shards, pairs)
            children.append(child)
        return _together(experiment, 0, shards, pairs)
    finally:
        for pair in pairs.values():
            for end in pair:
                end.close()
        for child in children:
            os.kill(child, signal.SIGKILL)  # whatever it is about: nobody waits for it any more
            os.waitpid(child, 0)


def _be(experiment: Experiment, number: int, shards: Shards, pairs: Pairs) -> NoReturn:
    """Be a child, to the end. Nothing of the parent's is flushed or freed: that is the parent's to do."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends this one
        experiment.progress = None  # the parent tells of it
        _together(experiment, number, shards, pairs)
        parent = pairs[number, 0][0]
        parent.setblocking(True)
        while parent.recv(_READ_BYTES):
            pass  # others may still read what this one said: until the parent ends it, or is gone
    finally:
        os._exit(0)


def _together(experiment: Experiment, number: int, shards: Shards, pairs: Pairs) -> Result:
    ends: list[socket.socket | None] = [None] * shards.count
    for (a, b), (left, right) in pairs.items():
        if number == a:
            ends[b] = left
        elif number == b:
            ends[a] = right
        for process, end in ((a, left), (b, right)):
            if process != number:
                end.close()
    together = experiment.cluster.company = Together(experiment.cluster, number, shards, ends)
    try:
        experiment.begin()
        experiment.go_on()
        return experiment.result("held", [])
    except Apart:
        raise
    except Exception as error:
        together.fail(f"{type(error).__name__}: {error}")
        raise
