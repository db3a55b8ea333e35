"""Every kind of fault bites: what it promises to do to a cluster is seen in a run, and is not seen without it.

A check that nothing tries to break says little: a fault that did nothing would have every scenario hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest

from lattice.events import DatagramReceived, EquivocationProven, Notification, Restored
from lattice.types import MILLISECOND, SECOND, Level
from sim import inside
from sim.experiment import Experiment
from sim.faults import KINDS
from sim.host import Host, endpoint_of
from sim.scenario import from_table
from sim.scheduler import EPOCH
from tests.sim.runs import table

FROM, TO = 3, 7
"""A fault lasts from here to here, in seconds; something is published in between."""
PUBLISH = {"at": "4s", "do": "publish", "nodes": "node 0"}
Act = dict[str, Any]


def fault(do: str, **settings: object) -> Act:
    return {"at": f"{FROM}s", "for": f"{TO - FROM}s", "do": do, **settings}


class Seen:
    """One run, and what came to its hosts when."""

    def __init__(self, *acts: Act, nodes: int = 6, seed: str = "0", **sections: Any) -> None:
        self.run = Experiment(from_table("t", table(*acts, nodes=nodes, duration="10s", **sections)), seed)
        self.came: list[tuple[int, int, int]] = []
        """(when, from, to) of each datagram."""
        self.restored: list[tuple[int, int, int]] = []
        """(when, host, records) of each process that found something on its disk."""
        self.said: list[tuple[int, Notification]] = []
        cluster = self.run.cluster
        self._index = {endpoint_of(host.index): host.index for host in cluster.hosts}
        cluster.watchers[DatagramReceived].append(self._stepped)
        cluster.watchers[Restored].append(self._stepped)
        cluster.listeners.append(self)
        self.result = self.run.run()
        assert self.result.verdict == "held", self.result.violations

    def _stepped(self, host: Host, event: object, _: object) -> None:
        now = self.run.cluster.now - EPOCH
        if isinstance(event, DatagramReceived):
            self.came.append((now, self._index[event.source], host.index))
        elif isinstance(event, Restored):
            self.restored.append((now, host.index, len(event.records)))

    def heard(self, host: Host, notification: Notification) -> None:
        self.said.append((host.index, notification))

    def pairs(self, start: float = FROM + 1, end: float = TO) -> set[tuple[int, int]]:
        """Who heard whom in that time; what was on its way when the fault began has arrived before."""
        return {(a, b) for at, a, b in self.came if start * SECOND <= at < end * SECOND and a != b}

    def learned_after_s(self, host: int, change: int = 0) -> float:
        told = self.run.stage.changes[change]
        return (told.learned[host] - told.at) / SECOND

    def lives(self) -> list[int]:
        """How many processes each host has had."""
        return [host.life for host in self.run.cluster.hosts]

    def refused(self) -> set[str]:
        """Why engines refused what came."""
        told = self.result.figures["refused"]
        assert isinstance(told, dict)
        return set(told)


def across(pairs: Iterable[tuple[int, int]], side: set[int]) -> set[tuple[int, int]]:
    return {(a, b) for a, b in pairs if (a in side) != (b in side)}


def everybody_hears_everybody(seen: Seen) -> bool:
    nodes = range(len(seen.run.cluster.hosts))
    return seen.pairs(0, FROM) | seen.pairs(TO, 60) >= {(a, b) for a in nodes for b in nodes if a != b}


def groups(pairs: Iterable[tuple[int, int]], nodes: int) -> list[set[int]]:
    """Who is with whom, by one way or the other."""
    found = [{node} for node in range(nodes)]
    for a, b in pairs:
        one, other = (next(group for group in found if node in group) for node in (a, b))
        if one is not other:
            found.remove(other)
            one |= other
    return sorted(found, key=len)


def test_nothing_of_this_is_there_without_a_fault() -> None:
    seen = Seen(PUBLISH)
    assert everybody_hears_everybody(seen)
    assert groups(seen.pairs(), 6) == [set(range(6))]
    assert all(seen.learned_after_s(host) < 0.3 for host in range(6))
    assert seen.lives() == [1] * 6
    assert not seen.restored
    assert not seen.result.figures["refused"]
    assert not seen.result.figures["called_down"]
    assert not seen.result.figures["dropped"]


def halves() -> None:
    seen = Seen(fault("halves"), nodes=8)
    assert [len(group) for group in groups(seen.pairs(), 8)] == [4, 4]
    assert everybody_hears_everybody(seen)


def isolate() -> None:
    seen = Seen(fault("isolate", nodes="node 1"))
    assert [len(group) for group in groups(seen.pairs(), 6)] == [1, 5]
    assert not across(seen.pairs(), {1})


def region_cut() -> None:
    seen = Seen(fault("region-cut", nodes="group europe"), nodes=12)
    places = seen.run.cluster.network.topology.places
    europe = {index for index, place in enumerate(places) if place.group == "europe"}
    assert 2 <= len(europe) <= 10
    assert not across(seen.pairs(), europe)
    assert europe in groups(seen.pairs(), 12)


def one_way() -> None:
    mute = across(Seen(fault("one-way", nodes="node 1", direction="mute")).pairs(), {1})
    assert {a for a, _ in mute} == {0, 2, 3, 4, 5}, "it hears all others, who do not hear it"
    deaf = across(Seen(fault("one-way", nodes="node 1", direction="deaf")).pairs(), {1})
    assert {a for a, _ in deaf} == {1}


def bridge() -> None:
    seen = Seen(fault("bridge"), nodes=9)
    over = [host for host in range(9) if len(groups((p for p in seen.pairs() if host not in p), 9)) > 2]
    assert len(over) == 1, "without that one they are two halves, and itself"
    assert groups(seen.pairs(), 9) == [set(range(9))]


def flap() -> None:
    seen = Seen(fault("flap", nodes="node 1", every="1s"))
    for second in range(FROM, TO):
        assert not across(seen.pairs(second + 0.3, second + 0.5), {1}), "away in the first half of each second"
    assert across(seen.pairs(FROM + 0.8, TO), {1})


def clog() -> None:
    seen = Seen(PUBLISH, fault("clog", nodes="node 1", delay="1s"))
    assert 1.0 <= seen.learned_after_s(1) < 1.5
    assert seen.learned_after_s(2) < 0.3


def hold() -> None:
    seen = Seen(PUBLISH, fault("hold", nodes="node 1"))
    assert not across(seen.pairs(), {1})
    burst = [b for at, a, b in seen.came if at == TO * SECOND and 1 in (a, b)]
    assert len(burst) > 10, "all at once at its end"


def narrow() -> None:
    large = {**PUBLISH, "blocks": 60}
    assert Seen(large).learned_after_s(1) < 0.5
    seen = Seen(large, fault("narrow", nodes="node 1", bandwidth="64kbit"))
    assert seen.learned_after_s(1) > 1, "some fifteen kilobytes at eight a second"
    assert seen.learned_after_s(2) < 0.5


def loss() -> None:
    seen = Seen(fault("loss", share="50%"), nodes=12)
    lost = seen.run.cluster.network.dropped["loss burst"]
    came = sum(FROM * SECOND <= at < TO * SECOND for at, _, _ in seen.came)
    assert 0.4 < lost / (lost + came) < 0.6


def slow_links() -> None:
    few = {"at": "3s", "for": "2s", "do": "slow-links", "factor": 5}
    least = min(at for at in (Seen(PUBLISH, few).learned_after_s(host) for host in range(1, 6)))
    assert least > 3 * min(Seen(PUBLISH).learned_after_s(host) for host in range(1, 6))


def crash() -> None:
    found = {}
    for disk in ("intact", "empty", "torn"):
        seen = Seen({**PUBLISH, "at": "1s"}, fault("crash", nodes="node 1", disk=disk))
        assert not across(seen.pairs(FROM, TO), {1})
        assert seen.lives() == [1, 2, 1, 1, 1, 1]
        found[disk] = seen.restored
    assert not found["empty"]
    ((at, host, records),) = found["intact"]
    assert (at, host, records > 1) == (TO * SECOND, 1, True)
    assert found["torn"] == [(at, host, records - 1)], "one lost, and one half written"
    gone = Seen({"at": f"{FROM}s", "do": "crash", "nodes": "node 1"})
    assert not gone.run.cluster.hosts[1].alive, "without an end for good"


def crash_loop() -> None:
    seen = Seen(fault("crash-loop", nodes="node 1", every="1s"))
    assert [at // SECOND for at, host, _ in seen.restored] == [FROM + 1, FROM + 3]
    assert seen.lives() == [1, 3, 1, 1, 1, 1]


def rolling_restart() -> None:
    seen = Seen({"at": "1s", "do": "rolling-restart", "every": "1s", "down": "500ms"})
    again = [(at, host) for at, host, _ in seen.restored]
    assert again == [((1 + host) * SECOND + SECOND // 2, host) for host in range(6)], "one after the other"


def pause() -> None:
    seen = Seen(fault("pause", nodes="node 1"))
    handled = [at for at, _, b in seen.came if b == 1]
    assert not [at for at in handled if FROM * SECOND < at < TO * SECOND]
    assert handled.count(TO * SECOND) > 5, "what has come meanwhile is handled then"
    assert seen.lives() == [1] * 6, "nobody started anew"


def slow() -> None:
    seen = Seen(fault("slow", nodes="node 1", cost="200ms"))
    handled = [at for at, _, b in seen.came if b == 1 and FROM * SECOND <= at < TO * SECOND]
    assert 5 < len(handled) <= (TO - FROM) * 5 + 1
    assert min(b - a for a, b in pairwise(handled)) >= 200 * MILLISECOND


def clock() -> None:
    def ahead_s(*acts: Act) -> float:
        """How far the clock is ahead by which node 1 issues its row when it starts again after six seconds."""
        restart: Act = {"at": "5s", "for": "1s", "do": "crash", "nodes": "node 1"}
        seen = Seen(*acts, restart, regions={"watchers": "all"})
        own = inside.row_of(seen.run.cluster.hosts[1].engine)
        assert own is not None
        return (own.row.issued_ms * MILLISECOND - EPOCH) / SECOND - 6

    def wrong(**settings: object) -> Act:
        return {"at": "3s", "do": "clock", "nodes": "node 1", **settings}

    assert ahead_s() == 0
    assert ahead_s(wrong(ahead="1h")) == 3_600
    assert ahead_s(wrong(behind="1h")) == -3_600, "a jump back shows at the next start"
    assert ahead_s(wrong(behind="1h"), {**wrong(), "at": "4s"}) == 0, "it was set right before that"
    assert ahead_s(wrong(drift_ppm=500_000)) == 1.5


def lie_health() -> None:
    seen = Seen(fault("lie-health", nodes="node 1", region="ashburn") | {"for": "20s"}, regions={"watchers": "all"})
    honest = seen.run.cluster.hosts[0].engine.view()
    (region,) = [region for region in honest.regions if region.region == "ashburn"]
    liar = seen.run.cluster.hosts[1].node
    assert [witness.node for witness in region.witnesses if witness.level == Level.DOWN] == [liar]


def lie_equivocation() -> None:
    seen = Seen(fault("lie-equivocation", nodes="node 1"))
    assert {host for host, n in seen.said if isinstance(n, EquivocationProven)} >= {0, 2, 3, 4, 5}


def refused(reason: str, do: str, times: int = 5, **sections: Any) -> Callable[[], None]:
    def see() -> None:
        seen = Seen(PUBLISH, fault(do, nodes="node 1"), **sections)
        told = seen.result.figures["refused"]
        assert isinstance(told, dict)
        assert told.get(reason, 0) >= times, told

    return see


def version_mix() -> None:
    assert Seen(fault("version-mix", nodes="node 1")).refused() == {"unknown message", "bad shape"}
    apart = Seen(fault("version-mix", nodes="node 1, 2", speaks="another"))
    assert apart.refused() == {"wrong version"}
    assert [host for _, host, _ in apart.restored][:2] == [1, 2], "one after the other"


BITES: dict[str, Callable[[], None]] = {
    "halves": halves, "isolate": isolate, "region-cut": region_cut, "one-way": one_way, "bridge": bridge, "flap": flap,
    "clog": clog, "narrow": narrow, "hold": hold, "loss": loss, "slow-links": slow_links, "crash": crash,
    "crash-loop": crash_loop, "rolling-restart": rolling_restart, "pause": pause, "slow": slow, "clock": clock,
    "lie-health": lie_health, "lie-equivocation": lie_equivocation, "version-mix": version_mix,
    "lie-forged": refused("bad row signature", "lie-forged"),
    "lie-invented": refused("not granted", "lie-invented", protocol={"certified": True}),
    "lie-replayed": refused("replayed", "lie-replayed", protocol={"seal": "sealed"}),
    "lie-garbage": refused("not msgpack", "lie-garbage"),
    "lie-overfull": refused("overfull filter", "lie-overfull"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BITES)
def test_a_fault_bites(kind: str) -> None:
    BITES[kind]()


def test_every_fault_is_seen_to_bite() -> None:
    assert set(BITES) == {name for name, kind in KINDS.items() if kind.is_fault}


def test_who_leaves_is_gone_and_who_joins_was_not_there() -> None:
    left = Seen({"at": "3s", "do": "leave", "nodes": "node 1"})
    assert not across(left.pairs(FROM + 1, 10), {1})
    assert {host for host, n in left.said if getattr(n, "state", "") == "left"} == {0, 2, 3, 4, 5}
    came = Seen({"at": "3s", "do": "join", "over": "2s"}, nodes=6, topology={"late": 2})
    assert came.lives() == [1] * 6
    first = {host: min(at for at, a, _ in came.came if a == host) / SECOND for host in (4, 5)}
    assert 3 < first[4] < 3.5
    assert 4 < first[5] < 4.5


def test_keys_that_rotate_are_others_in_the_end() -> None:
    acts: list[Act] = [{"at": "1s", "do": "key-rotation", "over": "1s"}]
    rotated = Seen(*acts, protocol={"seal": "sealed"}).run.stage.seals
    before = Seen(protocol={"seal": "sealed"}).run.stage.seals
    for host in range(6):
        (key,) = rotated.ring_of(host).keys
        assert key.id not in {one.id for one in before.ring_of(host).keys}


def test_what_only_a_lost_disk_held_is_lost_and_no_promise_is_broken() -> None:
    """By chance a swarm did so: whoever had heard of the last version lost its disk before it told others."""
    cut: Act = {"at": "2s", "for": "4s", "do": "isolate", "nodes": "node 0"}
    first, last = ({"at": f"{at}s", "do": "publish", "nodes": "node 0"} for at in (1, 3))
    for disk, serves in (("empty", "v1"), ("intact", "v2")):
        seen = Seen(first, cut, last, {"at": "4s", "for": "1s", "do": "crash", "nodes": "node 0", "disk": disk})
        names = {change.key: change.name for change in seen.run.stage.changes}
        served = {names[host.engine.policy.policies()[0].version] for host in seen.run.cluster.hosts}
        assert served == {f"policy default {serves}"}


def test_what_an_author_does_wrong_is_seen() -> None:
    poison = Seen({"at": "3s", "do": "poison-op", "nodes": 2})
    assert poison.refused() == {"update of several clients"}
    acts: list[Act] = [{"at": f"{at}s", "do": "publish", "nodes": "node 0"} for at in (1, 2)]
    again = Seen(*acts, {"at": "3s", "do": "resubmit", "nodes": 2})
    assert again.result.acts[-1][3] == "version 1 again, at 2 nodes"
    assert [change.name for change in again.run.stage.changes] == ["policy default v1", "policy default v2"]
