"""One machine of the simulation: an engine, its disk, its clock, and how busy the machine is.

A host takes inputs at virtual time and has its engine's effects performed. It adds no protocol: what a process does
when it starts, stops or is stopped is all there is here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Protocol

from lattice.canonical import Value
from lattice.config import Config
from lattice.dissemination import Strategy
from lattice.engine import Engine
from lattice.events import Input
from lattice.identity import Signer, Verifier
from lattice.prng import Prng
from lattice.seal import Seal
from lattice.timers import NEVER_COMES
from lattice.types import AuthorId, Endpoint, Micros, NodeId
from sim.draws import PPM
from sim.envelopes import Seals
from sim.scheduler import EPOCH
from sim.signing import CA, KeyedSigner, KeyedVerifier
from sim.topology import Place

PORT: Final = 7_946
STREAM_PORT: Final = 49_152
"""Streams come from a port on which nobody listens, as in life."""
INBOX_MAX: Final = 2_048
"""Datagrams that wait for a busy or stopped process; the kernel drops the rest. Linux holds some 280 of 750 bytes by
default (`rmem_default` 212,992), servers are set to hold ten times that."""

Disk = dict[tuple[str, bytes], bytes]


class EngineMaker(Protocol):
    """`Engine`, or something with the same constructor."""

    def __call__(
        self,
        *,
        config: Config,
        site: str,
        endpoint: Endpoint,
        signer: Signer,
        verifier: Verifier,
        seal: Seal,
        authors: Sequence[AuthorId],
        prng: Prng,
        now: Micros,
        area: str = "",
        ca_key: bytes | None = None,
        strategy: Strategy | None = None,
    ) -> Engine: ...


@dataclass(slots=True)
class ClockFault:
    """How a host's clock is wrong. It never goes back: a jump back shows at the next start, as with a real process,
    which reads the wall clock once and a monotonic one from then on."""

    offset_us: int = 0
    drift_ppm: int = 0
    since: int = EPOCH
    """When the drift began."""

    def read(self, at: int) -> Micros:
        return Micros(at + self.offset_us + (at - self.since) * self.drift_ppm // PPM)

    def when(self, reading: int) -> int:
        """The first moment at which the clock shows `reading`, or later."""
        elapsed = reading - self.offset_us - self.since
        if not self.drift_ppm:
            return reading - self.offset_us
        rate = PPM + self.drift_ppm
        return self.since + -(-elapsed * PPM // rate)


class NotHere:
    """In place of an engine that another process has, or that is not made yet: a question for it is a mistake."""

    def __getattr__(self, name: str) -> NoReturn:
        raise LookupError(f"asked for {name} of an engine that this process does not have")


NOT_HERE: Final[Any] = NotHere()
RIGHT: Final = ClockFault()
"""The clock of a host whose clock never was wrong."""


@dataclass(slots=True)
class Shard:
    """Hosts that one process runs together (`sim.shards`)."""

    take: Callable[[tuple[int, int, Value]], object]
    """Keeps what one of them takes, before it is handled (`Journal.taking`)."""
    until_look: int = 0
    """How many of their steps are left until a whole host is looked at; below 0, nobody looks."""


@dataclass(slots=True)
class Stepping:
    """What every step reads of a host. CPython sorts the slots of a class by name, and puts those of a subclass behind
    them: so these are in two lines of the processor's caches instead of four."""

    index: int
    endpoint: Endpoint
    engine: Engine
    shard: Shard
    order: int
    """Of the last thing that it brought about (`Scheduler.give`)."""
    clock: ClockFault = field(default_factory=lambda: RIGHT)
    alive: bool = False
    deadline: int = NEVER_COMES
    """When, in virtual time, its timer is over. That may be before its engine is due."""
    paused: bool = False
    cost_us: int = 0
    """How long this machine works on one input; 0 is not at all."""
    sent: int = 0
    """The bytes of all that it has sent since the run began."""


@dataclass(slots=True, kw_only=True)
class Host(Stepping):
    """A machine and what runs on it."""

    site: str
    signer: KeyedSigner
    node: NodeId
    disk: Disk = field(default_factory=dict)
    life: int = 0
    """Which process this is: one more at each start."""
    busy_until: int = 0
    inbox: deque[Input] = field(default_factory=deque)
    """What waits while the process is stopped or busy."""
    last_read: int = 0
    """What its clock showed when it was last asked; one that is right shows the time, and need not be."""
    disk_whole: bool = True
    """Whether the disk is what the last process left, rather than damaged since."""
    began_whole: bool = True
    """The same, of the disk that this process started on."""
    ever_damaged: bool = False
    here: bool = True
    """Whether this process has its engine: only then does it take anything (`sim.company`)."""

    def next_order(self) -> int:
        """For one more thing that it brings about."""
        self.order += 1
        return self.order

    def read_clock(self, at: int) -> Micros:
        """What the process's clock shows; never less than before."""
        self.last_read = at if self.clock is RIGHT else max(self.last_read, self.clock.read(at))
        return Micros(self.last_read)


def endpoint_of(index: int) -> Endpoint:
    """Each host has an address of its own."""
    return (f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}", PORT)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the engines of a run."""

    config: Config
    seed: str
    authors: tuple[AuthorId, ...]
    verifier: Verifier = field(default_factory=KeyedVerifier)
    engine_type: EngineMaker = Engine
    strategy: Callable[[], Strategy] | None = None
    seal: Seals = field(default_factory=Seals)
    certified: bool = False
    """The cluster has a CA, and every host its grant."""

    def signer(self, index: int, place: Place) -> KeyedSigner:
        return KeyedSigner(f"{self.seed}/node {index}", place.name if self.certified else None)

    def engine(self, index: int, life: int, place: Place, signer: KeyedSigner, now: Micros) -> Engine:
        return self.engine_type(
            config=self.config,
            site=place.name,
            endpoint=endpoint_of(index),
            signer=signer,
            verifier=self.verifier,
            seal=self.seal(index),
            authors=self.authors,
            prng=Prng.seeded(f"{self.seed}/node/{index}/{life}"),
            now=now,
            area=place.area,
            ca_key=KeyedSigner(CA).public_key if self.certified else None,
            strategy=self.strategy() if self.strategy else None,
        )
