"""What a run is measured by: who learned what when, what it cost, and what was announced wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import TypeVar

from lattice import wire
from lattice.events import MemberChanged, Notification, PolicyChanged, RegionChanged, Rejected
from lattice.types import NodeId
from sim.changes import Change
from sim.host import Host
from sim.signing import MESSAGES
from sim.stage import Stage

N = TypeVar("N", int, float)
CARRIERS = frozenset(wire.NUMBERS[kind] for kind in (wire.Ping, wire.Ack, wire.Rumour, wire.Delta))
"""The numbers of the messages that spread cells."""
SPREADING = ("Rumour", "IHave", "Graft", "Delta")
CARRIED_MAX = 4
"""Copies are counted of so many of the latest changes; each costs a search of every frame."""


@dataclass(slots=True)
class Flips:
    """How often nodes changed their mind about a region."""

    by_region: Counter[str] = field(default_factory=Counter)
    last_at: int = 0


class Metrics:
    """Listens to a cluster, and keeps count."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.false_positives = 0
        self.refused: Counter[str] = Counter()
        """Frames, rows and ops that engines refused, by why."""
        self.down_announced: dict[NodeId, dict[int, int]] = {}
        self.flips = Flips()
        self.timeline: list[tuple[int, int, str, str]] = []
        """(when, host, kind, text) of what nodes announced."""
        self.idle_from = 0
        self.idle_until: int | None = None
        self._idle_bytes: int | None = None
        stage.cluster.listeners.append(self)
        stage.cluster.carriers.append(self._carried)
        stage.cluster.company.on("needle", self._found)

    # --- as it happens

    def _carried(self, host: Host, kind: int, frame: bytes) -> None:
        if kind not in CARRIERS:
            return
        for change in self._stage.changes[-CARRIED_MAX:]:
            if not change.needle and change.region:
                self._find(change, host)
            if change.needle and change.needle in frame:
                change.copies += 1

    def _find(self, change: Change, host: Host) -> None:
        """Its needle, if it is in the frame that is being sent."""
        needle = self._row_sent(host, change)
        if needle:
            watchers = self._stage.world.regions[change.region].watchers
            change.needle, change.found = needle, (self._stage.cluster.now, watchers.index(host.index))
            number = self._stage.changes.index(change)
            self._stage.cluster.company.tell("needle", number, needle, *change.found)

    def _found(self, number: int, needle: bytes, at: int, watcher: int) -> None:
        """In another process one of the watchers said it. If it was the first, no copy of its row can have been sent
        here so far, and what was counted here were copies of a row that does not count."""
        change = self._stage.changes[number]
        if not change.needle or (at, watcher) < change.found:
            change.needle, change.found, change.copies = needle, (at, watcher), 0

    def _row_sent(self, host: Host, change: Change) -> bytes:
        """The signature of the row just issued, if it is the first to say what changed."""
        seeing = self._stage.world.seeing
        if seeing is None or seeing[:3] != (host.index, change.region, change.level):
            return b""
        return host.signer.signed_last if host.signer.signed_last != seeing[3] else b""

    def heard(self, host: Host, notification: Notification) -> None:
        now = self._stage.cluster.now
        match notification:
            case RegionChanged(region, _, new, _):
                self.flips.by_region[region] += 1
                self.flips.last_at = now
                self.timeline.append((now, host.index, "region", f"{region} {new.name}"))
                self._learn("health", (region, new), host.index, now)
            case PolicyChanged(_, version):
                self.timeline.append((now, host.index, "policy", version[:4].hex()))
                self._learn("policy", version, host.index, now)
            case Rejected():
                self.refused[notification.reason.partition(":")[0]] += 1
            case MemberChanged(node, site, state):
                self.timeline.append((now, host.index, "member", intern(f"{site} {state}")))
                if state == "down":
                    self._announced_down(host, node, now)
                    self._learn("member", (node, "down"), host.index, now)

    def _learn(self, kind: str, key: object, host: int, now: int) -> None:
        for change in self._stage.changes:
            if change.kind == kind and change.key == key:
                change.learn(host, now)

    def _announced_down(self, host: Host, node: NodeId, now: int) -> None:
        self.down_announced.setdefault(node, {}).setdefault(host.index, now)
        subject = self._stage.cluster.by_node[node]
        if self._stage.sound(subject) and self._stage.sound(host):
            self.false_positives += 1

    def called_down(self) -> dict[str, int]:
        """By site, how many nodes called it down at one time or another: the most first."""
        told = {self._stage.cluster.by_node[node].site: len(by) for node, by in self.down_announced.items()}
        return dict(sorted(told.items(), key=lambda one: (-one[1], one[0])))

    def merge(self) -> None:
        """Have every process know what each has seen at its own hosts."""
        stage = self._stage
        hosts = stage.cluster.hosts
        changes = [(change.learned, change.copies) for change in stage.changes]
        timeline = [one for one in self.timeline if hosts[one[1]].here]
        own = (changes, timeline, self.flips, self.false_positives, self.down_announced, self.refused)
        said = stage.cluster.company.gather(own)
        for change, each in zip(stage.changes, zip(*(one[0] for one in said), strict=True), strict=True):
            change.copies = sum(copies for _, copies in each)
            change.learned = {host: when for learned, _ in each for host, when in learned.items()}
        self.timeline = [entry for one in said for entry in one[1]]
        self.flips = Flips(sum((one[2].by_region for one in said), Counter()), max(one[2].last_at for one in said))
        self.false_positives = sum(one[3] for one in said)
        self.refused = sum((one[5] for one in said), Counter())
        self.down_announced = {}
        for one in said:
            for node, told in one[4].items():
                self.down_announced.setdefault(node, {}).update(told)

    # --- idle cost

    def begin_idle(self, now: int) -> None:
        """From here on nothing happens but the protocol's own upkeep."""
        self.idle_from = now
        self._idle_bytes = -self.total_bytes()

    def end_idle(self, now: int) -> None:
        if self._idle_bytes is not None and self.idle_until is None:
            stage = self._stage
            self.idle_until = now
            self._idle_bytes = sum(stage.cluster.company.gather(self._idle_bytes + self.total_bytes()))
            stage.idle_us = now - self.idle_from
            stage.idle_bytes_per_node_s = self.idle_bytes_per_node_s(len(stage.cluster.hosts))

    @property
    def messages(self) -> dict[str, int]:
        """Frames sent, by message type; types that were never sent are left out."""
        return {name: count for name, count in zip(MESSAGES, self._stage.cluster.frames, strict=True) if count}

    @property
    def bytes(self) -> dict[str, int]:
        """The same in bytes."""
        return {name: count for name, count in zip(MESSAGES, self._stage.cluster.bytes, strict=True) if count}

    def total_bytes(self) -> int:
        return sum(host.sent for host in self._stage.cluster.hosts)

    def spreading_bytes(self) -> int:
        """What rumours, announcements and repairs cost: all but pings, acks and the comparisons that ride on them."""
        return sum(self.bytes.get(name, 0) for name in SPREADING)

    def idle_bytes_per_node_s(self, nodes: int) -> int | None:
        """Bytes a node and second while nothing happened; None when there was no such time."""
        if self._idle_bytes is None or self.idle_until is None or self.idle_until - self.idle_from < 500_000:
            return None
        return self._idle_bytes * 1_000_000 // (self.idle_until - self.idle_from) // max(1, nodes)


def percentile(values: Sequence[N], percent: int) -> N | None:
    """The nearest-rank percentile of sorted values."""
    return values[max(0, -(-len(values) * percent // 100) - 1)] if values else None


def seconds(value_us: int | None) -> float | None:
    return None if value_us is None else round(value_us / 1_000_000, 6)


def _is_counted(change: Change, stage: Stage) -> bool:
    """Whether copies of its payload are seen: nobody looks into a frame under a real seal."""
    return bool(change.needle) and not stage.seals.sealed


def summary(change: Change, stage: Stage) -> dict[str, object]:
    """A change's figures, over the nodes that are up."""
    hosts = [host.index for host in stage.cluster.living() if host.index not in stage.liars]
    delays = change.delays_us(hosts)
    floor = change.floor_us(stage.cluster.network.topology, hosts)
    complete = len(delays) == len(hosts)
    floor_p99, p99 = percentile(floor, 99), percentile(delays, 99)
    return {
        "change": change.name,
        "kind": change.kind,
        "reached": len(delays),
        "of": len(hosts),
        "p50_s": seconds(percentile(delays, 50)) if len(delays) * 2 >= len(hosts) else None,
        "p90_s": seconds(percentile(delays, 90)) if len(delays) * 10 >= len(hosts) * 9 else None,
        "p99_s": seconds(p99) if len(delays) * 100 >= len(hosts) * 99 else None,
        "p100_s": seconds(delays[-1]) if complete and delays else None,
        "floor_s": seconds(floor_p99),
        "stretch_p99": round(p99 / floor_p99, 2) if complete and p99 is not None and floor_p99 else None,
        "copies_per_node": round(change.copies / len(hosts), 3) if _is_counted(change, stage) and hosts else None,
    }
