"""From "send" to "it arrives, then, so often, or never": paths, their faults, and the rules that a scenario adds.

A packet's way: the sender's uplink (bandwidth, a queue that drops its tail), then the rules, of which the first that
does not pass decides, then the link's own luck: loss (each alone, or in bursts after Gilbert and Elliott), jitter,
reordering, duplication, corruption. A stream frame is delivered once, whole, after one more round trip, or not at all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import floor
from struct import Struct
from typing import Final, Protocol, TypeAlias

from lattice.record import Record
from lattice.types import MILLISECOND
from sim.draws import PPM, QUANTILES, exponential, happens, luck, seed30
from sim.signing import altered
from sim.topology import Topology

_burst_name: Final = Struct("<IIQ?").pack


class Packet(Record):
    """Something on its way between two hosts, by index."""

    source: int
    target: int
    data: bytes
    stream: bool
    at: int
    delay_us: int
    """How long it takes when nothing interferes."""
    bits: int
    """64 bits of luck, this packet's own."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The rule has no opinion."""


class Deliver(Record):
    """It arrives after this delay, whatever the link's luck."""

    delay_us: int


class Drop(Record):
    """It is lost; `reason` is counted."""

    reason: str


Verdict: TypeAlias = Pass | Deliver | Drop
PASS = Pass()


class Rule(Protocol):
    """A fault on the wire."""

    def judge(self, packet: Packet) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How every link is. Chances are parts per million; the default is a wide-area path on a good day."""

    jitter_us: int = MILLISECOND
    """Mean of an exponential extra delay."""
    jitter_ppm: int = 20_000
    """The same as a share of the path's delay: 2 %, a bad path. Between cloud regions (Skyplane, 2022-04) mean
    deviation over round trip is 0.3 % at the median and 0.9 % at p90."""
    loss_ppm: int = 0
    burst_loss_ppm: int = 0
    """Share of the time in which a link is in its bad state and loses half of what it carries."""
    burst_us: int = 500 * MILLISECOND
    """Mean length of such a state."""
    duplicate_ppm: int = 0
    reorder_ppm: int = 0
    """Chance that a packet is held back by up to four times the path's delay."""
    corrupt_ppm: int = 0
    """Chance that a byte is altered."""
    bandwidth_bit_s: int = 0
    """Each node's uplink; 0 is unlimited."""
    queue_bytes: int = 256 * 1024
    """What the uplink holds before it drops."""


class Network:
    """All links of a run."""

    def __init__(self, topology: Topology, settings: LinkSettings, seed: str) -> None:
        self.topology = topology
        self._base_us = topology.delay_us
        self.settings = settings
        self.dropped: Counter[str] = Counter()
        self.rules: list[Rule] = []
        self._seed = seed30(f"{seed}/link")
        self._jitter_us = float(settings.jitter_us)
        self._jitter_share = settings.jitter_ppm / PPM
        self._bursts: dict[tuple[int, int], tuple[bool, int]] = {}
        self._uplink_free: dict[int, int] = {}
        self._calm = not (settings.duplicate_ppm or settings.reorder_ppm or settings.corrupt_ppm)
        lossy = settings.loss_ppm or settings.burst_loss_ppm
        self.faultless = self._calm and not lossy and not settings.bandwidth_bit_s
        """Whether nothing befalls a packet but its delay, unless a rule says so."""

    def delay_us(self, source: int, target: int, data: bytes) -> int:
        """How long a datagram takes when nothing interferes."""
        base_us = self._base_us(source, target)
        quantile = QUANTILES[luck(data, self._seed + target)[0]]  # `exponential`, for every packet
        return base_us + floor(quantile * (self._jitter_us + base_us * self._jitter_share))

    def send(self, source: int, target: int, data: bytes, stream: bool, at: int) -> list[tuple[int, bytes]]:
        """(delay, bytes) of each copy that arrives, none when it is lost."""
        settings = self.settings
        base_us = self._base_us(source, target)
        delay_us = self.delay_us(source, target, data)
        drawn = luck(data, self._seed + target)
        one, other = int.from_bytes(drawn[:8], "big"), int.from_bytes(drawn[8:], "big")
        queued_us = 0
        if settings.bandwidth_bit_s:
            waited = self._queue(source, len(data), at)
            if waited is None:
                self.dropped["queue full"] += 1
                return []
            queued_us = waited
        if stream:
            delay_us += 2 * base_us
        if self.rules:
            packet = Packet(source, target, data, stream, at, delay_us, other)
            for rule in self.rules:
                verdict = rule.judge(packet)
                if isinstance(verdict, Deliver):
                    return [(verdict.delay_us + queued_us, data)]
                if isinstance(verdict, Drop):
                    self.dropped[verdict.reason] += 1
                    return []
        if settings.loss_ppm and happens(one >> 16, settings.loss_ppm):
            self.dropped["loss"] += 1
            return []
        if settings.burst_loss_ppm and self._is_bad(source, target, at) and one >> 48 & 1:
            self.dropped["burst loss"] += 1
            return []
        delay_us += queued_us
        if self._calm or stream:
            return [(delay_us, data)]
        return self._disturbed(delay_us, base_us, data, one, other)

    def _disturbed(self, delay_us: int, base_us: int, data: bytes, one: int, other: int) -> list[tuple[int, bytes]]:
        settings = self.settings
        if happens(other, settings.reorder_ppm):
            delay_us += (one & 0xFFFF) * 4 * base_us >> 16  # not the bits by which it is sent twice
        if happens(other >> 16, settings.corrupt_ppm) and data:
            data = altered(data, (one >> 20) % len(data), 1 + (one >> 12) % 255)
        copies = [(delay_us, data)]
        if happens(other >> 32, settings.duplicate_ppm):
            copies.append((delay_us + exponential(other >> 8 & 0xFF, base_us + MILLISECOND), data))
        return copies

    def _queue(self, source: int, size: int, at: int) -> int | None:
        """How long until the last bit has left; None when the queue is full."""
        rate = self.settings.bandwidth_bit_s
        free = max(self._uplink_free.get(source, 0), at)
        if (free - at) * rate // 8_000_000 > self.settings.queue_bytes:
            return None
        free += size * 8_000_000 // rate
        self._uplink_free[source] = free
        return free - at

    def _is_bad(self, source: int, target: int, at: int) -> bool:
        """The link's state after Gilbert and Elliott: alternately good and bad, each for an exponential time."""
        settings = self.settings
        good_us = settings.burst_us * (PPM - settings.burst_loss_ppm) // settings.burst_loss_ppm
        bad, until = self._bursts.get((source, target), (True, 0))
        if until == 0:
            until = at - at % max(1, settings.burst_us)  # begin in the past, so that a first packet is nothing special
        while until <= at:
            bad = not bad
            drawn = luck(_burst_name(source, target, until, bad), self._seed)
            until += 1 + exponential(drawn[0], settings.burst_us if bad else good_us)
        self._bursts[source, target] = (bad, until)
        return bad
