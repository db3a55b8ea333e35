"""Promises about cost and caution: what nodes send when nothing happens, when much happens, and when noise comes in.

Each is proven by a planted mistake that trips it (`tests/sim/test_mutants.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from lattice import wire
from lattice.cells import shard_of
from lattice.digest import Bloom
from lattice.errors import WireError
from lattice.events import (
    DatagramReceived,
    Effect,
    Input,
    Notification,
    Notify,
    Rejected,
    SendDatagram,
    SendStream,
    StreamFrameReceived,
)
from lattice.prng import Prng
from lattice.seal import HEADER_BYTES, OVERHEAD_BYTES, TAG_BYTES, VERSION, cluster_tag, sender_in
from lattice.types import SECOND, CellId
from sim import inside
from sim.checks import Check
from sim.host import Host
from sim.signing import CLUSTER
from sim.stage import Stage

STORM_BYTES_MAX: Final = 4_000_000
"""What a node may send in one second, whatever happens: sixty whole answers of `delta_bytes_max`."""
QUIET_BYTES_MAX: Final = 2_000
"""What upkeep may cost a node a second (the goal for any size of cluster; Serf's calculator gives 41,000)."""
QUIET_US: Final = 2 * SECOND
"""Less than so long a quiet time says nothing."""
QUIET_LOSS_PPM_MAX: Final = 10_000
FALSE_PPM_MAX: Final = 9_200
"""Twice the share of absent cells that `lattice.digest` is made for: 0.46 %."""
STRANGERS: Final = 64
"""So many ids that no node holds are looked up in each filter; the same ones, for each has a salt of its own."""
STRANGERS_MIN: Final = 20_000
"""With fewer of them the share is chance."""
_FRAMES: Final = (DatagramReceived, StreamFrameReceived)
_TAG: Final = cluster_tag(CLUSTER)
_CLUSTER_ENDS: Final = 1 + len(_TAG)


class NoStorm(Check):
    name = "no-storm"
    promise = f"no node sends more than {STORM_BYTES_MAX // 1_000_000} MB within a second, in whatever trouble"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._since = start
        self._before = [0] * len(stage.cluster.hosts)
        """By host, what it had sent by then."""

    def elapsed(self) -> None:
        if self.stage.cluster.now - self._since >= SECOND:
            self._look()

    def finished(self) -> None:
        self._look()

    def _look(self) -> None:
        """What came of this second, or of a little more or less."""
        cluster, before = self.stage.cluster, self._before
        self._before = [host.sent for host in cluster.hosts]
        length_us, self._since = max(SECOND, cluster.now - self._since), cluster.now
        for host in cluster.hosts:
            sent = self._before[host.index] - before[host.index]
            if sent * SECOND > STORM_BYTES_MAX * length_us:
                raise self.broken(host, f"{sent} bytes in {length_us / SECOND:.1f} s")


class Quiet(Check):
    name = "quiet-when-idle"
    promise = (
        f"while nothing happens, a node sends {QUIET_BYTES_MAX} bytes a second at most (links that lose up to 1 %)"
    )

    def finished(self) -> None:
        idle, length_us = self.stage.idle_bytes_per_node_s, self.stage.idle_us
        link = self.stage.cluster.network.settings
        if idle is None or length_us < QUIET_US or link.loss_ppm + link.burst_loss_ppm > QUIET_LOSS_PPM_MAX:
            return
        if idle > QUIET_BYTES_MAX:
            raise self.broken(None, f"{idle} bytes a node and second over {length_us / SECOND:.1f} s")


class SilentToNoise(Check):
    name = "silent-to-noise"
    promise = "a frame that is refused is answered with nothing: no byte out for a byte that nobody vouches for"
    inputs = _FRAMES
    when_told = True

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._refused = False
        """Whether what the step that goes on just now took was refused."""

    def heard(self, host: Host, notification: Notification) -> None:
        if isinstance(notification, Rejected) and notification.what in {"datagram", "frame"}:
            self._refused = True

    def stepped(self, host: Host, event: Input, effects: Sequence[Effect]) -> None:
        if not self._refused:
            return
        self._refused = False
        sent = [effect for effect in effects if isinstance(effect, SendDatagram | SendStream)]
        if sent:
            raise self.broken(host, f"{sum(len(one.data) for one in sent)} bytes in answer to a refused frame")


class DigestsShowAll(Check):
    name = "digest-shows-all"
    promise = (
        "a filter shows every cell its sender holds in the shards it names (one that asks for another may leave out "
        f"whole shards, where its reader had nothing), and {FALSE_PPM_MAX / 10_000:.2f} % of others at most"
    )

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        if not stage.seals.sealed:  # what is sealed for good only its reader sees into
            stage.cluster.sniffers[wire.NUMBERS[wire.Digest]].append(self._sent)
        prng = Prng.seeded("digest strangers")
        self._strangers = [CellId(prng.token().to_bytes(8, "big") * 2) for _ in range(STRANGERS)]
        self._filters: list[tuple[Bloom, int]] = []
        """Until there are enough of them to say anything."""
        self.asked = 0
        self.shown = 0

    def _sent(self, host: Host, frame: bytes) -> None:
        if sender_in(frame) != host.node:
            return  # another's, sent again by who caught it: that one's cells are not these
        try:
            digest = wire.decode(frame[HEADER_BYTES:-TAG_BYTES], len(frame))
        except WireError:
            return  # a lie in its name: no engine makes such a frame
        assert isinstance(digest, wire.Digest)
        held = inside.cells_in(host.engine, digest.shards)
        hidden = set(digest.bloom.missing(held, digest.salt))
        if hidden and digest.answer_salt:
            hidden -= self._left_out(held, hidden, digest.shards.of)
        if hidden:
            raise self.broken(host, f"{len(hidden)} cells that it holds are not in its filter")
        self._filters.append((digest.bloom, digest.salt))
        if self.asked + len(self._filters) * STRANGERS >= STRANGERS_MIN:
            self._ask()

    @staticmethod
    def _left_out(held: Sequence[CellId], hidden: set[CellId], of: int) -> set[CellId]:
        """Those in shards that are not in the filter at all, but for what looks so by chance: of two cells, one may."""
        shards = Counter(shard_of(cell, of) for cell in held)
        unseen = Counter(shard_of(cell, of) for cell in hidden)
        return {cell for cell in hidden if unseen[shard_of(cell, of)] * 2 >= shards[shard_of(cell, of)]}

    def _ask(self) -> None:
        for bloom, salt in self._filters:
            self.asked += STRANGERS
            self.shown += STRANGERS - len(bloom.missing(self._strangers, salt))
        self._filters.clear()

    def finished(self) -> None:
        gather = self.stage.cluster.company.gather
        if sum(gather(self.asked + len(self._filters) * STRANGERS)) >= STRANGERS_MIN:
            self._ask()
        asked, shown = map(sum, zip(*gather((self.asked, self.shown)), strict=True))
        if shown * 1_000_000 > self.asked * FALSE_PPM_MAX:
            raise self.broken(None, f"{shown} of {asked} absent cells look present")


class KeysOpen(Check):
    name = "keys-open"
    promise = "while keys rotate in order, no frame is refused for its key"

    def heard(self, host: Host, notification: Notification) -> None:
        if not isinstance(notification, Rejected) or not notification.reason.startswith("unknown key"):
            return
        in_order = self.stage.keys_in_order and self.stage.wire_is_sound
        if in_order and not self.stage.cluster.network.settings.corrupt_ppm:
            raise self.broken(host, f"a frame from {notification.source}: {notification.reason}")


class VersionsApart(Check):
    name = "versions-apart"
    promise = "a frame of another protocol version is refused for that, and for nothing that stands behind it"

    def __init__(self, stage: Stage, start: int) -> None:
        super().__init__(stage, start)
        self._versions = stage.seals.versions
        if stage.cluster.network.settings.corrupt_ppm:
            self._watch()
        else:  # there is no such frame until somebody speaks another version
            stage.seals.mixed.append(self._watch)

    def _watch(self) -> None:
        for kind in _FRAMES:
            self.stage.cluster.watchers[kind].append(self._taken)

    def _taken(self, host: Host, event: Input, effects: Sequence[Effect]) -> None:
        frame: bytes = event.data  # type: ignore[union-attr]  # only frames are given
        ours = self._versions.get(host.index, VERSION)
        if len(frame) < OVERHEAD_BYTES or frame[0] & 0x7F == ours or frame[1:_CLUSTER_ENDS] != _TAG:
            return
        if not any(
            isinstance(effect, Notify)
            and isinstance(effect.notification, Rejected)
            and effect.notification.reason.startswith("wrong version")
            for effect in effects
        ):
            raise self.broken(host, f"a frame of version {frame[0] & 0x7F} was read by a node of version {ours}")


FRUGALITY: tuple[type[Check], ...] = (NoStorm, Quiet, SilentToNoise, DigestsShowAll, KeysOpen, VersionsApart)
