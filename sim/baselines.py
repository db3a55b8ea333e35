"""What others do to spread one small change, on the same links and seeds: the yardsticks beside our own engine.

Each is the bare idea without membership, failure detection or signatures, so its bytes are a lower bound of what a real
system would send. One item of `ITEM_BYTES` is known to one node; who has it when, and what was sent until everybody has
it (or patience ends)?

* ``push-all``: every second each node sends its whole state to a random peer (the anti-entropy of Demers et al., 1987).
* ``random``: memberlist's way. Every 200 ms to three random peers, no two the same (`kRandomNodes`), each item
  ``4 × ceil(log10(n + 1))`` times.
* ``scuttlebutt``: every second each node compares version vectors with a random peer and ships what is newer (van
  Renesse et al., 2008, as Cassandra and chitchat do it).
* ``flood``: whoever hears it first tells everybody else. n² messages.
* ``bare-tree``: a tree of degree six from the origin, once, without repair: n - 1 messages, and what a loss cuts off
  stays so.
* ``unicast``: the origin sends to everybody, once: n - 1 messages from one uplink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from lattice.prng import Prng
from lattice.types import MILLISECOND, SECOND
from sim.network import LinkSettings, Network
from sim.topology import Topology

ITEM_BYTES: Final = 450
"""A signed row or op in its envelope, as our engine sends it."""
ENTRY_BYTES: Final = 20
"""One entry of a version vector: a node's id in 16 bytes, a version in four."""
HEAD_BYTES: Final = 45
DATAGRAM_BYTES: Final = 1_200
PATIENCE_US: Final = 60 * SECOND
DEGREE: Final = 6


@dataclass(slots=True)
class Spread:
    """How one item spread."""

    name: str
    nodes: int
    reached_us: dict[int, int] = field(default_factory=dict)
    messages: int = 0
    copies: int = 0
    """Messages that carried the item."""
    bytes: int = 0

    def delays_us(self) -> list[int]:
        return sorted(self.reached_us.values())


class Baseline:
    """The wire and the clock of one baseline run; a subclass is the protocol."""

    name = ""
    interval_us = 0

    def __init__(self, topology: Topology, link: LinkSettings, seed: str) -> None:
        self.nodes = len(topology)
        self.spread = Spread(self.name, self.nodes)
        self._network = Network(topology, link, seed)
        self._prng = Prng.seeded(f"{seed}/baseline/{self.name}")
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._seq = 0
        self.now = 0

    def run(self, origin: int) -> Spread:
        """Until everybody has it, or for a minute."""
        if self.interval_us:
            for node in range(self.nodes):
                self._later(self._prng.below(self.interval_us), self._ticker(node))
        self.learn(origin, origin)
        while self._queue and len(self.spread.reached_us) < self.nodes:
            at, _, do = heappop(self._queue)
            if at > PATIENCE_US:
                break
            self.now = at
            do()
        return self.spread

    def learn(self, node: int, came_from: int) -> None:
        if node not in self.spread.reached_us:
            self.spread.reached_us[node] = self.now
            self.learned(node, came_from)

    def learned(self, node: int, came_from: int) -> None:
        """The node has it now for the first time."""

    def tick(self, node: int) -> None:
        """Every interval, at a phase of the node's own."""

    def peer_of(self, node: int) -> int:
        return self.peers_of(node, 1)[0]

    def peers_of(self, node: int, count: int) -> list[int]:
        """So many different ones, or all there are."""
        return [other + (other >= node) for other in self._prng.sample(range(self.nodes - 1), count)]

    def send(self, source: int, target: int, size: int, item: bool, then: Callable[[], None] | None = None) -> None:
        """Send `size` bytes in as many datagrams as it takes; all must arrive for it to count."""
        parts = max(1, -(-size // (DATAGRAM_BYTES - HEAD_BYTES)))
        self.spread.messages += parts
        self.spread.copies += item
        self.spread.bytes += size + parts * HEAD_BYTES
        latest = 0
        for _ in range(parts):
            self._seq += 1
            copies = self._network.send(source, target, self._seq.to_bytes(8, "big"), False, self.now)
            if not copies:
                return
            latest = max(latest, copies[0][0])
        self._later(latest, then or (lambda: self.learn(target, source)))

    def has(self, node: int) -> bool:
        return node in self.spread.reached_us

    def _ticker(self, node: int) -> Callable[[], None]:
        def turn() -> None:
            self.tick(node)
            self._later(self.interval_us, turn)

        return turn

    def _later(self, delay_us: int, do: Callable[[], None]) -> None:
        self._seq += 1
        heappush(self._queue, (self.now + delay_us, self._seq, do))


class PushAll(Baseline):
    name = "push-all"
    interval_us = SECOND

    def tick(self, node: int) -> None:
        peer = self.peer_of(node)
        item = self.has(node)
        self.send(node, peer, ITEM_BYTES * self.nodes, item, None if item else lambda: None)


class RandomFanout(Baseline):
    name = "random"
    interval_us = 200 * MILLISECOND
    fanout = 3

    def __init__(self, topology: Topology, link: LinkSettings, seed: str) -> None:
        super().__init__(topology, link, seed)
        self._left: dict[int, int] = {}

    def learned(self, node: int, came_from: int) -> None:
        self._left[node] = 4 * len(str(self.nodes))

    def tick(self, node: int) -> None:
        if self._left.get(node, 0) > 0:
            for peer in self.peers_of(node, min(self.fanout, self._left[node])):
                self._left[node] -= 1
                self.send(node, peer, ITEM_BYTES, item=True)


class Scuttlebutt(Baseline):
    name = "scuttlebutt"
    interval_us = SECOND

    def tick(self, node: int) -> None:
        peer = self.peer_of(node)
        digest = ENTRY_BYTES * self.nodes
        self.send(node, peer, digest, item=False, then=lambda: self._answer(peer, node, digest))

    def _answer(self, peer: int, node: int, digest: int) -> None:
        news = self.has(peer) and not self.has(node)
        wants = self.has(node) and not self.has(peer)

        def heard() -> None:
            if news:
                self.learn(node, peer)
            if wants:
                self.send(node, peer, ITEM_BYTES, item=True)

        self.send(peer, node, digest + ITEM_BYTES * news, item=news, then=heard)


class FloodAll(Baseline):
    name = "flood"

    def learned(self, node: int, came_from: int) -> None:
        for peer in range(self.nodes):
            if peer not in (node, came_from):
                self.send(node, peer, ITEM_BYTES, item=True)


class BareTree(Baseline):
    name = "bare-tree"

    def run(self, origin: int) -> Spread:
        others = [node for node in range(self.nodes) if node != origin]
        self._order = [origin, *self._prng.shuffled(others)]
        self._place = {node: place for place, node in enumerate(self._order)}
        return super().run(origin)

    def learned(self, node: int, came_from: int) -> None:
        first = self._place[node] * DEGREE + 1
        for place in range(first, min(first + DEGREE, self.nodes)):
            self.send(node, self._order[place], ITEM_BYTES, item=True)


class Unicast(Baseline):
    name = "unicast"

    def learned(self, node: int, came_from: int) -> None:
        if node == came_from:
            for peer in range(self.nodes):
                if peer != node:
                    self.send(node, peer, ITEM_BYTES, item=True)


BASELINES: Final[Mapping[str, type[Baseline]]] = {
    kind.name: kind for kind in (PushAll, RandomFanout, Scuttlebutt, FloodAll, BareTree, Unicast)
}
