"""The verdict: one vote per site, a quorum, and what fewer than half can not do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.types import Level, NodeId
from lattice.verdict import SITES_MIN, Tally, quorum, verdict_of
from lattice.view import Witness
from tests.lattice.strategies import levels, witnesses

opinions = st.lists(st.sampled_from([level for level in Level if level]), min_size=1, max_size=9)


def votes_of(voices: dict[NodeId, Witness]) -> list[Level]:
    """By definition: the worst voice of each site."""
    sites: dict[str, Level] = {}
    for witness in voices.values():
        if witness.level != Level.UNKNOWN:
            sites[witness.site] = max(witness.level, sites.get(witness.site, Level.UNKNOWN))
    return list(sites.values())


@given(st.lists(st.one_of(witnesses, witnesses.map(lambda witness: witness.node)), max_size=30))
def test_the_tally_kept_is_the_verdict_defined(moves: list[Witness | NodeId]) -> None:
    tally, voices = Tally(), dict[NodeId, Witness]()
    for move in moves:
        if isinstance(move, Witness):
            tally.hear(move.node, move.site, move.level, move.since_ms)
            voices[move.node] = move
        else:
            tally.forget(move)
            voices.pop(move, None)
        assert tally.verdict() == verdict_of(votes_of(voices))
    heard = [witness for witness in voices.values() if witness.level != Level.UNKNOWN]
    assert sorted(heard, key=lambda w: (-w.level, w.site, w.node)) == list(tally.witnesses())
    assert len(tally) == len(heard)


@given(st.lists(levels, max_size=9), st.permutations(range(9)))
def test_votes_have_no_order_and_abstentions_no_weight(votes: list[Level], order: list[int]) -> None:
    shuffled = [votes[index] for index in order if index < len(votes)]
    assert verdict_of(shuffled) == verdict_of(votes) == verdict_of([*votes, Level.UNKNOWN, Level.UNKNOWN])


@given(opinions, st.data())
def test_fewer_than_half_can_not_push_a_verdict_past_the_honest(honest: list[Level], data: st.DataObject) -> None:
    lies = data.draw(st.lists(levels, max_size=len(honest) - 1))
    verdict = verdict_of([*honest, *lies])
    if len(honest) >= SITES_MIN:
        assert min(honest) <= verdict <= max(honest)


@given(opinions, st.data())
def test_the_quorum_says_so_or_worse(votes: list[Level], data: st.DataObject) -> None:
    verdict = verdict_of(votes)
    if len(votes) >= SITES_MIN and verdict > Level.HEALTHY:
        assert sum(vote >= verdict for vote in votes) >= quorum(len(votes))
    worse = [Level(min(vote + data.draw(st.integers(min_value=0, max_value=1)), Level.DOWN)) for vote in votes]
    assert verdict_of(worse) >= verdict, "no site's worse opinion makes a verdict better"


@given(st.sampled_from(Level))
def test_a_lone_voice_is_never_worse_than_degraded(level: Level) -> None:
    assert verdict_of([level]) == min(level, Level.DEGRADED)


def test_a_site_is_one_vote_however_many_nodes_it_runs() -> None:
    tally = Tally()
    for number in range(9):
        tally.hear(NodeId(bytes([number]) * 16), "ams", Level.DOWN, 0)
    assert tally.verdict() == Level.DEGRADED
    tally.hear(NodeId(b"x" * 16), "bos", Level.HEALTHY, 0)
    assert tally.verdict() == Level.HEALTHY
    tally.hear(NodeId(b"y" * 16), "cpt", Level.DOWN, 0)
    assert tally.verdict() == Level.DOWN


def test_a_majority_and_two_at_least() -> None:
    assert [quorum(voters) for voters in range(1, 8)] == [2, 2, 2, 3, 3, 4, 4]
    assert verdict_of([]) == Level.UNKNOWN
    assert verdict_of([Level.DOWN, Level.HEALTHY]) == Level.HEALTHY
    assert verdict_of([Level.DOWN, Level.FAILING]) == Level.FAILING
    assert verdict_of([Level.DOWN, Level.DOWN, Level.HEALTHY]) == Level.DOWN
    assert verdict_of([Level.DOWN, Level.FAILING, Level.DEGRADED, Level.HEALTHY, Level.HEALTHY]) == Level.DEGRADED
