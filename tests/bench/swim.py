"""`python -m tests.bench swim [--json] [--quick]`: how soon crashes are found, and how often nobody crashed.

Real engines, converged from the start (as the simulator starts them), over links with delay and loss, in virtual time:
the figures depend on the seed alone, not on the machine.

Two workloads. *Crash*: members are stopped one after the other; the time until every other member calls each of them
down. *Slow members*: that of the Lifeguard paper (arXiv:1707.00788, section V): C members at once are blocked for D and
then run for I, again and again; a blocked member handles nothing, and what arrives queues up (a socket's buffer). A
false positive is a healthy member, not one of the C, that somebody calls down.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from lattice.config import Config
from lattice.engine import Engine
from lattice.events import (
    DatagramReceived,
    Effect,
    Input,
    MemberChanged,
    Notify,
    SendDatagram,
    SendStream,
    StreamFrameReceived,
    TimerFired,
)
from lattice.prng import Prng
from lattice.seal import Seal
from lattice.types import MILLISECOND, SECOND, AuthorId, Endpoint, Micros
from sim import inside
from sim.signing import KeyedSigner, KeyedVerifier, TaggedSeal

EPOCH = Micros(1_800_000_000 * SECOND)
CLUSTER = "bench"
QUEUE_MAX = 4_096
"""What a blocked member's inbox holds, as the driver's."""

LIFEGUARD = Config()
PLAIN = replace(LIFEGUARD, lifeguard=False, swim_interval_us=SECOND, ack_timeout_us=500 * MILLISECOND)
"""memberlist's LAN defaults without Lifeguard; `plain_for` adds the suspicion."""


def plain_for(count: int) -> Config:
    """4 × log10(n) × 1 s, and no shorter: memberlist's suspicion before Lifeguard."""
    log10_milli = {16: 1_204, 32: 1_505, 64: 1_806, 100: 2_000, 128: 2_107, 1_000: 3_000}
    return replace(PLAIN, suspicion_us=4 * log10_milli[count] * MILLISECOND)


@dataclass(frozen=True, slots=True)
class Link:
    """Every datagram takes `least_us` to `most_us`, and of a million `loss_ppm` are lost."""

    least_us: int = MILLISECOND
    most_us: int = 60 * MILLISECOND
    loss_ppm: int = 0


class World:
    """Engines that know each other, and the wire between them."""

    def __init__(
        self,
        count: int,
        config: Config,
        link: Link,
        seed: str,
        seal: Callable[[], Seal] = lambda: TaggedSeal(CLUSTER),
        authors: Sequence[AuthorId] = (),
    ) -> None:
        self.now = EPOCH
        self.link = link
        self.prng = Prng.seeded(f"{seed}/wire")
        self.alive = [True] * count
        self.blocked = [False] * count
        self.bytes = 0
        self.datagrams = 0
        self.changes: list[tuple[Micros, int, int, str]] = []
        """(when, who says so, of whom, state)"""
        self._queue: list[tuple[int, int, int, Input]] = []
        self._waiting: dict[int, list[Input]] = {}
        self._deadlines: list[Micros | None] = [None] * count
        self._seq = 0
        verifier = KeyedVerifier()
        self.engines = [
            Engine(
                config=config,
                site=f"site-{index}",
                area=f"{index % 4},0",
                endpoint=self.endpoint(index),
                signer=KeyedSigner(f"node {index}"),
                verifier=verifier,
                seal=seal(),
                authors=authors,
                prng=Prng.seeded(f"{seed}/{index}"),
                now=self.now,
            )
            for index in range(count)
        ]
        self.index = {engine.node: index for index, engine in enumerate(self.engines)}
        self._converge(seed)

    @staticmethod
    def endpoint(index: int) -> Endpoint:
        return (f"10.0.{index >> 8}.{index & 255}", 1)

    def _converge(self, seed: str) -> None:
        members = [
            inside.member_record(engine.node, f"site-{index}", f"{index % 4},0", self.endpoint(index), self.now)
            for index, engine in enumerate(self.engines)
        ]
        crowd = inside.Crowd(members)
        starts = Prng.seeded(f"{seed}/start")
        for engine in self.engines:
            crowd.introduce(engine)
            engine.handle(TimerFired(), self.now)  # what it sends so early, everybody is about to know anyway
        rows = [row for engine in self.engines if (row := inside.row_of(engine)) is not None]
        base = inside.Base(rows, self.now, Micros(self.now + 3_600 * SECOND))
        for index, engine in enumerate(self.engines):
            inside.graft(engine, base, Micros(self.now + starts.below(3_600 * SECOND)))
            crowd.gather(engine)
            self._arm(index)

    # --- time

    def run(self, duration_us: int) -> None:
        until = self.now + duration_us
        while self._queue and self._queue[0][0] <= until:
            at, _, index, event = heappop(self._queue)
            self.now = Micros(at)
            if not self.alive[index]:
                continue
            timer = isinstance(event, TimerFired)
            if timer and self._deadlines[index] != at:
                continue
            if self.blocked[index]:
                waiting = self._waiting.setdefault(index, [])
                if not timer and len(waiting) < QUEUE_MAX:
                    waiting.append(event)
                continue
            self.give(index, event)
        self.now = Micros(until)

    def give(self, index: int, event: Input) -> None:
        self._perform(index, self.engines[index].handle(event, self.now))
        self._arm(index)

    def _arm(self, index: int) -> None:
        due = self.engines[index].due
        if due != self._deadlines[index]:
            self._deadlines[index] = due
            self._push(due, index, TimerFired())

    def block(self, index: int) -> None:
        self.blocked[index] = True

    def unblock(self, index: int) -> None:
        """Its timers first, as in the driver, then all that waited."""
        self.blocked[index] = False
        deadline = self._deadlines[index]
        if deadline is not None and deadline <= self.now:
            self.give(index, TimerFired())
        for event in self._waiting.pop(index, []):
            self.give(index, event)

    def _perform(self, index: int, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram(data, target):
                    self._send(target, DatagramReceived(data, self.endpoint(index)), len(data), 1)
                case SendStream(data, target):
                    self._send(target, StreamFrameReceived(data, (self.endpoint(index)[0], 9)), len(data), 2)
                case Notify(MemberChanged(node, _, state)):
                    self.changes.append((self.now, index, self.index[node], state))

    def _send(self, target: Endpoint, event: Input, size: int, trips: int) -> None:
        self.bytes += size
        self.datagrams += 1
        octets = target[0].split(".")
        index = int(octets[2]) << 8 | int(octets[3])
        if index < len(self.engines) and self.prng.below(1_000_000) >= self.link.loss_ppm:
            spread = self.link.most_us - self.link.least_us
            self._push(self.now + trips * (self.link.least_us + self.prng.below(spread + 1)), index, event)

    def _push(self, at: int, index: int, event: Input) -> None:
        self._seq += 1
        heappush(self._queue, (at, self._seq, index, event))


def percentile_ms(samples: Sequence[int], per_mille: int) -> int | None:
    """Microseconds in, milliseconds out; None without samples."""
    if not samples:
        return None
    return sorted(samples)[min(len(samples) - 1, len(samples) * per_mille // 1_000)] // 1_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run showed."""

    first_us: list[int]
    """Crash to the first that calls it down, one each crash."""
    all_us: list[int]
    """Crash to each that calls it down."""
    after_first_us: list[int]
    """The first that calls it down to each that does."""
    missed: int
    """(member, crash) pairs without a verdict when the run ended."""
    false_events: int
    """(member, healthy member) pairs: wrongly called down."""
    suspicions: int
    """Healthy members wrongly suspected, counted once each time at each member."""
    bytes_per_node_s: int


def crashes(
    count: int, config: Config, link: Link, seed: str, victims: int, gap_us: int = SECOND, tail_us: int = 12 * SECOND
) -> Outcome:
    """Stop `victims` members one after the other."""
    world = World(count, config, link, seed)
    world.run(10 * SECOND)
    order = Prng.seeded(f"{seed}/victims").shuffled(range(count))[:victims]
    crashed: dict[int, Micros] = {}
    world.bytes = 0
    began = world.now
    for victim in order:
        world.alive[victim] = False
        crashed[victim] = world.now
        world.run(Prng.seeded(f"{seed}/gap {victim}").jitter(gap_us))
    world.run(tail_us)
    return judge(world, crashed, frozenset(), world.now - began)


def slow_members(
    count: int,
    config: Config,
    link: Link,
    seed: str,
    slow: int,
    blocked_us: int,
    free_us: int,
    lasting_us: int = 120 * SECOND,
) -> Outcome:
    """The paper's Interval workload: two minutes there, ended whole cycles later."""
    world = World(count, config, link, seed)
    world.run(10 * SECOND)
    chosen = Prng.seeded(f"{seed}/slow").shuffled(range(count))[:slow]
    began, end = world.now, world.now + lasting_us
    world.bytes = 0
    while world.now < end:
        for index in chosen:
            world.block(index)
        world.run(blocked_us)
        for index in chosen:
            world.unblock(index)
        world.run(free_us)
    return judge(world, {}, frozenset(chosen), world.now - began)


def judge(world: World, crashed: dict[int, Micros], slow: frozenset[int], took_us: int) -> Outcome:
    seen: dict[tuple[int, int], int] = {}
    false_events = suspicions = 0
    for at, by, of, state in world.changes:
        true = (of in crashed and at >= crashed[of]) or of in slow
        if state == "suspect" and not true:
            suspicions += 1
        if state == "down":
            if of in crashed and at >= crashed[of]:
                seen.setdefault((of, by), at - crashed[of])
            elif not true:
                false_events += 1
    living = [index for index in range(len(world.engines)) if world.alive[index]]
    pairs = [(of, by) for of in crashed for by in living]
    times = {of: [took for (whom, _), took in seen.items() if whom == of] for of in crashed}
    firsts = {of: min(took) for of, took in times.items() if took}
    return Outcome(
        list(firsts.values()),
        [seen[pair] for pair in pairs if pair in seen],
        [took - firsts[of] for of in firsts for took in times[of]],
        sum(pair not in seen for pair in pairs),
        false_events,
        suspicions,
        world.bytes * SECOND // max(1, took_us) // len(world.engines),
    )


def crash_figures(count: int, config: Config, loss_ppm: int, victims: int, seed: str = "0") -> dict[str, object]:
    outcome = crashes(count, config, Link(loss_ppm=loss_ppm), seed, victims)
    return {
        "n": count,
        "loss_pct": loss_ppm / 10_000,
        "crashes": victims,
        "samples": len(outcome.all_us),
        "first_median_ms": percentile_ms(outcome.first_us, 500),
        "first_max_ms": percentile_ms(outcome.first_us, 999),
        "median_ms": percentile_ms(outcome.all_us, 500),
        "p99_ms": percentile_ms(outcome.all_us, 990),
        "after_first_p99_ms": percentile_ms(outcome.after_first_us, 990),
        "missed": outcome.missed,
        "false_positives": outcome.false_events,
        "suspicions": outcome.suspicions,
        "bytes_per_node_s": outcome.bytes_per_node_s,
    }


GRID = [(4, 4, 1), (16, 4, 1), (32, 4, 1), (16, 16, 1), (32, 16, 64), (32, 32, 1_024)]
"""(C, D in seconds, I in milliseconds): corners of the paper's grid."""


def slow_figures(count: int, grid: Sequence[tuple[int, int, int]], seed: str = "0") -> list[dict[str, object]]:
    configs = {
        "plain": plain_for(count),
        "plain_at_our_speed": replace(LIFEGUARD, lifeguard=False),
        "lifeguard_paper": replace(LIFEGUARD, stall_us=0),
        "lifeguard": LIFEGUARD,
    }
    lines: list[dict[str, object]] = []
    for slow, blocked_s, free_ms in grid:
        line: dict[str, object] = {"n": count, "c": slow, "d_s": blocked_s, "i_ms": free_ms}
        for name in sorted(configs):
            outcome = slow_members(count, configs[name], Link(), seed, slow, blocked_s * SECOND, free_ms * MILLISECOND)
            line[name] = outcome.false_events
        lines.append(line)
    return lines


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench swim", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--quick", action="store_true", help="N = 100 only, and half the grid")
    parser.add_argument("--seed", default="0")
    told = parser.parse_args(argv)
    sizes = [(100, 20)] if told.quick else [(100, 20), (1_000, 20)]
    figures = {
        "crash": [
            crash_figures(count, LIFEGUARD, loss, victims, told.seed)
            for count, victims in sizes
            for loss in (0, 10_000, 50_000)
        ],
        "slow": slow_figures(128, GRID[: 3 if told.quick else len(GRID)], told.seed),
    }
    if told.json:
        print(json.dumps(figures))
    else:
        for part, lines in figures.items():
            for line in lines:
                print(part, *(f"{key}={value}" for key, value in line.items()))
    return 0
