"""What can go wrong between hosts: cuts of every shape, packets held back, delayed or lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lattice.prng import Prng
from sim.draws import PPM, happens, luck, seed30
from sim.network import PASS, Deliver, Drop, Packet, Verdict
from sim.quantities import NotExpected, Section, bandwidth, choice, factor, share, size, some_duration
from sim.stage import Selector, Stage, selector

BOTH = 2
"""The side of a host that both sides reach."""
HEADERS_BYTES = 28
_CUT = Drop("cut")


class Severed:
    """Nothing passes from one side to the other; with a period, only during every first half of it."""

    def __init__(self, sides: Sequence[int], one_way: bool = False, period_us: int = 0, since: int = 0) -> None:
        """`sides` by host. One-way: what side 1 sends to side 0 is lost, the other direction works."""
        self._sides = sides
        self._one_way = one_way
        self._period_us = period_us
        self._since = since

    def judge(self, packet: Packet) -> Verdict:
        source, target = self._sides[packet.source], self._sides[packet.target]
        if source == target or BOTH in (source, target) or (self._one_way and source == 0):
            return PASS
        if self._period_us and (packet.at - self._since) % self._period_us >= self._period_us // 2:
            return PASS
        return _CUT


class Held:
    """What the chosen hosts send or are sent waits, and arrives all at once at the end."""

    def __init__(self, chosen: frozenset[int], until: int) -> None:
        self._chosen = chosen
        self._until = until

    def judge(self, packet: Packet) -> Verdict:
        if packet.source in self._chosen or packet.target in self._chosen:
            return Deliver(max(self._until - packet.at, packet.delay_us))
        return PASS


class Worse:
    """Paths of the chosen hosts are slower by a factor, and lose a share."""

    def __init__(self, chosen: frozenset[int], seed: str, factor_ppm: int, loss_ppm: int, extra_us: int) -> None:
        self._chosen = chosen
        self._seed = seed30(seed)
        self._factor_ppm = factor_ppm
        self._loss_ppm = loss_ppm
        self._extra_us = extra_us

    def judge(self, packet: Packet) -> Verdict:
        if packet.source not in self._chosen and packet.target not in self._chosen:
            return PASS
        if self._loss_ppm:
            drawn = luck(packet.bits.to_bytes(8, "big"), self._seed)
            if happens(int.from_bytes(drawn[:4], "big"), self._loss_ppm):
                return Drop("loss burst")
        if self._factor_ppm == PPM and not self._extra_us:
            return PASS
        return Deliver(packet.delay_us * self._factor_ppm // PPM + self._extra_us)


class Narrow:
    """Links of the chosen hosts carry so little, each way, and drop what their queue does not hold; what IP and UDP put
    before a datagram counts, for most of ours are short. What goes by stream is sent again until it is there: it waits
    instead."""

    def __init__(self, chosen: frozenset[int], bit_s: int, queue_bytes: int) -> None:
        self._chosen = chosen
        self._bit_s = bit_s
        self._queue_bytes = queue_bytes
        self._free: dict[tuple[int, bool], int] = {}
        """When each link, out or in, has carried what it holds."""

    def judge(self, packet: Packet) -> Verdict:
        delay_us = packet.delay_us
        for link in ((packet.source, True), (packet.target, False)):
            if link[0] not in self._chosen:
                continue
            free = max(self._free.get(link, 0), packet.at)
            if not packet.stream and (free - packet.at) * self._bit_s // 8_000_000 > self._queue_bytes:
                return Drop("narrow link full")
            self._free[link] = free + (len(packet.data) + HEADERS_BYTES) * 8_000_000 // self._bit_s
            delay_us += self._free[link] - packet.at
        return Deliver(delay_us) if delay_us > packet.delay_us else PASS


def _split(stage: Stage, side: Sequence[int]) -> list[int]:
    sides = [0] * len(stage.cluster.hosts)
    for index in side:
        sides[index] = 1
    return sides


@dataclass(slots=True)
class Cut:
    """Two sides that do not hear each other."""

    shape: str
    which: Selector | None
    period_us: int = 0
    one_way: str = ""
    _rule: Severed | None = None

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        hosts = stage.cluster.hosts
        if self.which is not None:
            side = [host.index for host in stage.chosen(self.which, prng)]
        else:
            side = sorted(prng.sample(range(len(hosts)), len(hosts) // 2))
        sides = _split(stage, side)
        said = f"{len(side)} nodes against {len(hosts) - len(side)}"
        if self.shape == "bridge":
            bridge = prng.sample([index for index in range(len(hosts)) if index not in set(side)], 1)[0]
            sides[bridge] = BOTH
            said = f"{len(side)} against {len(hosts) - len(side) - 1}, {hosts[bridge].site} reaches both"
        if self.one_way == "deaf":
            sides = [1 - one for one in sides]
            said = f"{len(side)} nodes hear nothing of the others, who hear them"
        elif self.one_way:
            said = f"{len(side)} nodes are not heard by the others, whom they hear"
        self._rule = Severed(sides, bool(self.one_way), self.period_us, stage.cluster.now)
        stage.disturb_wire(self._rule)
        return said

    def end(self, stage: Stage) -> None:
        if self._rule is not None:
            stage.mend_wire(self._rule)
            self._rule = None


@dataclass(slots=True)
class Paths:
    """Packets held, delayed or lost around some hosts."""

    shape: str
    which: Selector
    factor_ppm: int = PPM
    loss_ppm: int = 0
    extra_us: int = 0
    bit_s: int = 0
    queue_bytes: int = 0
    _rule: Held | Worse | Narrow | None = None

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        chosen = frozenset(host.index for host in stage.chosen(self.which, prng))
        if self.shape == "hold":
            self._rule = Held(chosen, until)
        elif self.shape == "narrow":
            self._rule = Narrow(chosen, self.bit_s, self.queue_bytes)
        else:
            self._rule = Worse(chosen, str(prng.token()), self.factor_ppm, self.loss_ppm, self.extra_us)
        stage.disturb_wire(self._rule)
        return f"{len(chosen)} nodes"

    def end(self, stage: Stage) -> None:
        if self._rule is not None:
            stage.mend_wire(self._rule)
            self._rule = None


def read_halves(section: Section) -> Cut:
    return Cut("halves", None)


def read_isolate(section: Section) -> Cut:
    return Cut("isolate", section.take("nodes", selector, Selector("count", 1)))


def read_region_cut(section: Section) -> Cut:
    return Cut("region-cut", section.require("nodes", selector, Selector("count", 1)))


def read_one_way(section: Section) -> Cut:
    direction = section.take("direction", choice("mute", "deaf"), "mute")
    return Cut("one-way", section.take("nodes", selector, Selector("count", 1)), 0, direction)


def read_bridge(section: Section) -> Cut:
    return Cut("bridge", None)


def read_flap(section: Section) -> Cut:
    which = section.take("nodes", selector, Selector("count", 1))
    return Cut("flap", which, section.take("every", some_duration, 1_000_000))


def read_clog(section: Section) -> Paths:
    which = section.take("nodes", selector, Selector("count", 1))
    return Paths("clog", which, extra_us=section.take("delay", some_duration, 1_000_000))


def read_hold(section: Section) -> Paths:
    return Paths("hold", section.take("nodes", selector, Selector("count", 1)))


def read_narrow(section: Section) -> Paths:
    which = section.take("nodes", selector, Selector("count", 1))
    bit_s, queue_bytes = section.take("bandwidth", _limited, 64_000), section.take("queue", size, 3_200)
    return Paths("narrow", which, bit_s=bit_s, queue_bytes=queue_bytes)


def _limited(value: object) -> int:
    bit_s = bandwidth(value)
    if not bit_s:
        raise NotExpected('a bandwidth, as "64kbit"', "a narrow link is one that has a limit")
    return bit_s


def read_loss(section: Section) -> Paths:
    which = section.take("nodes", selector, Selector("all"))
    return Paths("loss", which, loss_ppm=section.take("share", share, 200_000))


def read_slow_links(section: Section) -> Paths:
    which = section.take("nodes", selector, Selector("all"))
    return Paths("slow-links", which, factor_ppm=section.take("factor", factor, 10 * PPM))
