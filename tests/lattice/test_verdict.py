"""The verdict: one vote per site, a quorum, and what fewer than half can not do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations, product

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


@given(st.lists(st.tuples(witnesses, st.sampled_from(["speaks", "doubts", "goes"])), max_size=30))
def test_the_tally_kept_is_the_verdict_defined(moves: list[tuple[Witness, str]]) -> None:
    tally, voices, doubting = Tally(), dict[NodeId, Witness](), dict[NodeId, str]()
    for move, does in moves:
        voices.pop(move.node, None)
        doubting.pop(move.node, None)
        if does == "speaks":
            tally.hear(move.node, move.site, move.level, move.since_ms)
            voices[move.node] = move
        elif does == "doubts":
            tally.doubt(move.node, move.site)
            doubting[move.node] = move.site
        else:
            tally.forget(move.node)
        heard = [witness for witness in voices.values() if witness.level != Level.UNKNOWN]
        isolated = set(doubting.values()) - {witness.site for witness in heard}
        assert tally.verdict() == verdict_of(votes_of(voices), len(isolated))
        assert tally.is_agreed() == (tally.verdict() == verdict_of(votes_of(voices)))
    assert sorted(heard if moves else [], key=lambda w: (-w.level, w.site, w.node)) == list(tally.witnesses())
    assert len(tally) == len(tally.witnesses()) + len(doubting)


@given(st.lists(levels, max_size=9), st.permutations(range(9)))
def test_votes_have_no_order_and_abstentions_no_weight(votes: list[Level], order: list[int]) -> None:
    shuffled = [votes[index] for index in order if index < len(votes)]
    assert verdict_of(shuffled) == verdict_of(votes) == verdict_of([*votes, Level.UNKNOWN, Level.UNKNOWN])


@given(opinions, st.data())
def test_fewer_than_half_can_not_push_a_verdict_past_the_honest(honest: list[Level], data: st.DataObject) -> None:
    lies = data.draw(st.lists(levels, max_size=len(honest) - 1))
    isolated = data.draw(st.integers(min_value=0, max_value=len(honest) - 1 - len(lies)))
    verdict = verdict_of([*honest, *lies], isolated)
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


def found_lost(lost_last: Sequence[bool], order: Sequence[int]) -> Iterator[tuple[Level, bool]]:
    """Every site loses all of its regions, each at its turns in `order`: verdict after verdict on one of them, and
    whether those who vote agree on it. `lost_last` says by site whether this region is the one that it loses last."""
    votes: dict[int, Level | None] = dict.fromkeys(range(len(lost_last)), Level.HEALTHY)
    yield Level.HEALTHY, True
    for site in order:
        votes[site] = Level.DOWN if votes[site] is Level.HEALTHY and not lost_last[site] else None
        voting = [vote for vote in votes.values() if vote is not None]
        verdict = verdict_of(voting, len(votes) - len(voting))
        yield verdict, verdict is verdict_of(voting)


def turns(lost_last: Sequence[bool]) -> list[int]:
    return [site for site, last in enumerate(lost_last) for _ in range(1 if last else 2)]


def check_nothing_gets_well(verdicts: Sequence[Level]) -> None:
    assert verdicts[-1] is Level.UNKNOWN
    assert all(now is Level.UNKNOWN for was, now in pairwise(verdicts) if was is Level.UNKNOWN)
    better = [(was, now) for was, now in pairwise(verdicts) if Level.UNKNOWN < now < was]
    assert all(now is Level.DEGRADED for _, now in better), "nothing that nobody sees well is made well"
    assert len(better) <= len(verdicts) // 4, "and between two that agreed on DOWN there is one who takes it back"


def test_what_fails_everywhere_is_voted_worse_until_nobody_knows_and_never_well_again() -> None:
    """Three sites, two regions; whoever has lost both is isolated. Each order in which they can be found lost."""
    lasts, dips = set(), 0
    for lost_last in product([False, True], repeat=3):
        for order in set(permutations(turns(lost_last))):
            verdicts, agreed = zip(*found_lost(lost_last, order), strict=True)
            check_nothing_gets_well(verdicts)
            changes = [now for was, now in pairwise(verdicts) if was is not now]
            dips += changes[:3] == [Level.DOWN, Level.DEGRADED, Level.DOWN]
            lasts.add([verdict for verdict, held in zip(verdicts, agreed, strict=True) if verdict and held][-1])
    assert lasts == {Level.HEALTHY, Level.DOWN}, "what isolated sites go by was said, not come to by silence"
    assert dips == 24, "decision 41 says why they are left"


@given(st.lists(st.booleans(), min_size=2, max_size=7), st.data())
def test_nor_does_anything_get_well_where_more_sites_lose_all(lost_last: list[bool], data: st.DataObject) -> None:
    order = data.draw(st.permutations(turns(lost_last)))
    check_nothing_gets_well([verdict for verdict, _ in found_lost(lost_last, order)])


def test_an_isolated_minority_neither_votes_nor_makes_anything_well() -> None:
    healthy, down = Level.HEALTHY, Level.DOWN
    assert verdict_of([healthy, healthy], 1) == Level.HEALTHY
    assert verdict_of([healthy, down], 1) == Level.DEGRADED, "two of three would say DOWN; two did, before one doubted"
    assert verdict_of([healthy, healthy, down], 1) == Level.HEALTHY
    assert verdict_of([down, down], 1) == Level.DOWN
    assert verdict_of([down], 1) == Level.UNKNOWN


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
