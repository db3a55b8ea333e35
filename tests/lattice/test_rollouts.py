"""The laws of rollouts: what is written, who is in a stage, what is served, and what sites' words amount to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lattice.errors import MalformedError, OpError
from lattice.rollouts import (
    STAGES,
    Entry,
    Progress,
    Rollout,
    RolloutId,
    Saying,
    Served,
    Start,
    Word,
    check_rollout_write,
    fault_of,
    first_sites,
    has_passed,
    is_condemned,
    parse_entry,
    parse_start,
    progress_of,
    serve,
    stand,
    words_of,
)
from lattice.types import AuthorId, VersionId

AUTHOR, OTHER = AuthorId(b"a" * 16), AuthorId(b"b" * 16)
VERSIONS = [VersionId(bytes([number]) * 16) for number in range(4)]
SITES = [f"site{number}" for number in range(12)]
START = Start("p", VERSIONS[1], VERSIONS[0], STAGES, ("ams",), AUTHOR, 10)

entries = st.builds(
    Entry,
    rollout=st.just(START.id),
    stage=st.one_of(st.none(), st.integers(1, 5)),
    author=st.sampled_from([AUTHOR, OTHER]),
    seq=st.integers(1, 3),
    hlc=st.integers(11, 14),
    policy=st.just("p"),
    started=st.just(10),
)
progresses = st.lists(entries, max_size=4).map(lambda said: joined(*map(progress_of, said)))
rollouts = st.builds(
    lambda version, base, hlc, stage, aborted: Rollout(
        Start("p", version, base, (5, 50, 100), (), AUTHOR, hlc),
        Progress(stage, frozenset({Entry(START.id, None, AUTHOR, 1, 1, "p", 1)}) if aborted else frozenset()),
    ),
    version=st.sampled_from(VERSIONS[1:]),
    base=st.sampled_from(VERSIONS),
    hlc=st.integers(1, 6),
    stage=st.integers(0, 3),
    aborted=st.booleans(),
).filter(lambda rollout: fault_of(rollout.start) is None)
histories = st.lists(rollouts, max_size=5, unique_by=lambda rollout: rollout.id)


def joined(*progresses: Progress) -> Progress:
    whole = Progress()
    for progress in progresses:
        whole = whole.join(progress)
    return whole


# --- the join


@given(progresses, progresses, progresses)
def test_progress_is_a_join_semilattice(one: Progress, two: Progress, three: Progress) -> None:
    assert one.join(two) == two.join(one)
    assert one.join(two.join(three)) == one.join(two).join(three)
    assert one.join(one) == one == one.join(Progress())


@given(progresses, progresses)
def test_a_stage_only_rises_and_no_stage_outweighs_an_abort(one: Progress, two: Progress) -> None:
    both, before = Rollout(START, one.join(two)), Rollout(START, one)
    assert both.stage >= before.stage
    if before.abort is not None:
        assert both.abort is not None
        assert serve(VERSIONS[0], 1, [both], "ams", ()).version == VERSIONS[0]


# --- membership


@given(st.text(min_size=1, max_size=8), st.integers(1, 99), st.integers(0, 5))
def test_who_is_in_a_stage_stays_in_the_next_and_the_last_holds_everybody(site: str, share: int, number: int) -> None:
    start = replace(START, stages=(share, 100) if number else (100,), hlc=number)
    inside = [start.includes(site, stage) for stage in range(len(start.stages))]
    assert inside == sorted(inside), "nobody leaves"
    assert inside[-1]
    assert inside.index(True) == start.first_stage_of(site)


def test_a_stage_holds_about_its_share_and_another_rollout_begins_elsewhere() -> None:
    many = [f"site{number}" for number in range(4_000)]
    held = {site for site in many if START.includes(site, 2)}
    assert 900 < len(held) < 1_100, "25 percent of 4,000"
    again = replace(START, hlc=11)
    assert len({site for site in held if again.includes(site, 2)}) < 320, "of those, a quarter"


@given(st.sets(st.sampled_from(SITES), min_size=1), st.integers(0, 30))
def test_the_first_stage_is_never_empty(sites: set[str], hlc: int) -> None:
    bare = replace(START, first=(), hlc=hlc)
    start = replace(bare, first=first_sites(bare, sites))
    assert any(start.includes(site, 0) for site in sites)
    assert first_sites(replace(bare, first=("site3",)), sites | {"site3"}) == ("site3",), "whoever is named is enough"


# --- what is written


def test_what_is_written_reads_as_it_was() -> None:
    assert parse_start(START.packed()) == START
    for entry in (Entry(START.id, 2, AUTHOR, 7, 11, "p", 10), Entry(START.id, None, OTHER, 1, 12, "p", 10, "bad: é")):
        assert parse_entry(entry.key, entry.packed()) == entry


@pytest.mark.parametrize(
    "wrong",
    [
        {"stages": ()}, {"stages": (1, 50)}, {"stages": (5, 1, 100)}, {"stages": (5, 5, 100)}, {"stages": (0, 100)},
        {"stages": (50, 101)}, {"stages": tuple(range(84, 101))}, {"first": ("b", "a")}, {"first": ("a", "a")},
        {"first": tuple(f"s{n:02}" for n in range(33))}, {"version": VERSIONS[0]},
    ],
    ids=repr,
)  # fmt: skip
def test_a_start_out_of_shape_is_refused(wrong: dict[str, object]) -> None:
    start = replace(START, **wrong)  # type: ignore[arg-type]
    with pytest.raises(MalformedError):
        parse_start(start.packed())


@pytest.mark.parametrize("key", ["", "x", "0" * 16 + "/0/" + "a" * 32 + "/1", "0" * 16 + "/16/" + "a" * 32 + "/1"])
def test_an_entry_under_no_good_key_is_refused(key: str) -> None:
    with pytest.raises(MalformedError):
        parse_entry(key, Entry(START.id, 1, AUTHOR, 1, 11, "p", 10).packed())


def test_a_write_must_be_its_own_ops_or_restate_what_its_author_said() -> None:
    start, entry = START, Entry(START.id, 1, AUTHOR, 7, 20, "p", 10)
    check_rollout_write(start.id.hex(), start.packed(), AUTHOR, 3, 10, 1)
    check_rollout_write(start.id.hex(), start.packed(), AUTHOR, 9, 30, 9)
    check_rollout_write(entry.key, entry.packed(), AUTHOR, 7, 20, 1)
    check_rollout_write(entry.key, entry.packed(), AUTHOR, 12, 30, 9)
    for key, value, author, seq, hlc, base in [
        (start.id.hex(), start.packed(), OTHER, 3, 10, 1),
        (start.id.hex(), start.packed(), AUTHOR, 3, 11, 1),
        (start.id.hex(), start.packed(), AUTHOR, 3, 9, 9),
        ("0" * 16, start.packed(), AUTHOR, 3, 10, 1),
        (entry.key, entry.packed(), OTHER, 7, 20, 1),
        (entry.key, entry.packed(), AUTHOR, 8, 20, 1),
        (entry.key, entry.packed(), AUTHOR, 7, 21, 1),
        (entry.key, entry.packed(), AUTHOR, 12, 19, 9),
    ]:
        with pytest.raises(OpError):
            check_rollout_write(key, value, author, seq, hlc, base)


# --- what is served


@given(histories, st.sampled_from(SITES), st.integers(0, 6))
def test_what_is_served_has_no_order_and_is_the_heads_or_a_rollouts(found: list[Rollout], site: str, hlc: int) -> None:
    served = serve(VERSIONS[0], hlc, found, site, ())
    assert serve(VERSIONS[0], hlc, found[::-1], site, ()) == served
    if served.rollout is None:
        assert served == Served(VERSIONS[0])
    else:
        by = next(rollout for rollout in found if rollout.id == served.rollout)
        assert (served.version, served.base) == (by.start.version, by.start.base)
        assert by.holds(site)
        assert by.abort is None
        assert by.start.hlc > hlc, "what the head has ended"
        assert serve(VERSIONS[0], hlc, found, site, {by.id}).rollout != by.id


@given(histories, st.integers(0, 6))
def test_whoever_is_in_no_stage_serves_what_everybody_else_does(found: list[Rollout], hlc: int) -> None:
    standing = stand(VERSIONS[0], hlc, found, ())
    for site in SITES:
        served = serve(VERSIONS[0], hlc, found, site, ())
        inside = standing.current is not None and standing.current.holds(site)
        assert (served == standing.served) != inside


def test_a_rollout_that_reached_everybody_is_the_base_of_the_next_and_a_publish_ends_both() -> None:
    first = Rollout(START, Progress(3))
    second = Rollout(Start("p", VERSIONS[2], VERSIONS[1], (100,), (), AUTHOR, 20))
    assert serve(VERSIONS[0], 1, [first], "fra", ()) == Served(VERSIONS[1], first.id, 3, VERSIONS[0])
    assert serve(VERSIONS[0], 1, [first, second], "fra", ()).version == VERSIONS[2]
    assert serve(VERSIONS[0], 1, [first, second], "fra", {second.id}).version == VERSIONS[1]
    assert serve(VERSIONS[0], 1, [first, second], "fra", {first.id}).version == VERSIONS[0]
    assert serve(VERSIONS[0], 25, [first, second], "fra", ()).version == VERSIONS[0], "published once more, and plainly"


def test_of_two_on_one_base_the_one_that_is_through_counts_then_the_later() -> None:
    early = Rollout(replace(START, first=("ams",)))
    late = Rollout(replace(START, version=VERSIONS[2], hlc=11, first=("ams",)))
    assert serve(VERSIONS[0], 1, [early, late], "ams", ()).version == VERSIONS[2]
    through = Rollout(early.start, Progress(3))
    assert serve(VERSIONS[0], 1, [through, late], "ams", ()).version == VERSIONS[1]


# --- what sites' words amount to

WHOLE = Rollout(replace(START, stages=(100,), first=()))
"""Everybody is in."""
words = st.dictionaries(st.sampled_from(SITES), st.sampled_from(Word))


@given(words, st.integers(0, 20))
@example({"a": Word.CONDEMNED, "b": Word.PASSED}, 0)
def test_fewer_than_half_of_the_verdicts_condemn_nothing_and_more_do(said: dict[str, Word], hlc: int) -> None:
    bad = sum(word >= Word.ROLLED_BACK for word in said.values())
    decided = sum(word is not Word.UNDECIDED for word in said.values())
    expected = 2 * bad > decided and bad >= min(2, len(said))
    assert is_condemned(WHOLE, said) == expected
    assert not (is_condemned(WHOLE, said) and has_passed(WHOLE, said))


def test_one_site_is_enough_only_where_the_stage_holds_no_other() -> None:
    alone = Rollout(replace(START, stages=(1, 100), first=("ams",)))
    outside = [site for site in SITES if not alone.holds(site)]
    said = dict.fromkeys(outside, Word.UNDECIDED)
    assert is_condemned(alone, {**said, "ams": Word.CONDEMNED})
    assert not is_condemned(alone, {**said, "ams": Word.UNDECIDED, outside[0]: Word.CONDEMNED}), "it is not in"
    both = Rollout(replace(START, stages=(1, 100), first=("ams", outside[0])))
    assert not is_condemned(both, {**said, "ams": Word.CONDEMNED})
    assert is_condemned(both, {**said, "ams": Word.CONDEMNED, outside[0]: Word.ROLLED_BACK})


def test_it_stays_condemned_when_the_first_witnesses_are_gone() -> None:
    alone = Rollout(replace(START, stages=(1, 100), first=("ams",)))
    outside = [site for site in SITES if not alone.holds(site)]
    said = dict.fromkeys(outside, Word.ROLLED_BACK)
    assert is_condemned(alone, {**said, "new": Word.UNDECIDED})
    assert not is_condemned(alone, {outside[0]: Word.ROLLED_BACK}), "all whom we know, and one voice"
    few = {site: Word.ROLLED_BACK if number < 5 else Word.UNDECIDED for number, site in enumerate(outside[:10])}
    assert not is_condemned(alone, few), "half of all sites, and none of them in the stage, may be liars"


def test_no_word_is_none_for_it_and_an_earlier_stage_says_nothing_of_this_one() -> None:
    rollout = Rollout(replace(START, stages=(50, 100), first=()), Progress(1))
    assert not has_passed(rollout, {})
    assert not has_passed(rollout, dict.fromkeys(SITES, Word.UNDECIDED))
    assert not has_passed(rollout, {"a": Word.PASSED, "b": Word.UNDECIDED})
    assert has_passed(rollout, {"a": Word.PASSED, "b": Word.UNDECIDED, "c": Word.PASSED})
    before, now = Saying(rollout.id, 0, Word.PASSED), Saying(rollout.id, 1, Word.PASSED)
    bad, elsewhere = Saying(rollout.id, 0, Word.CONDEMNED), Saying(RolloutId(bytes(8)), 1, Word.CONDEMNED)
    said = words_of(rollout, {"a": [before], "b": [now], "c": [now, bad], "d": [elsewhere], "e": []})
    assert said == {
        "a": Word.UNDECIDED, "b": Word.PASSED, "c": Word.CONDEMNED, "d": Word.UNDECIDED, "e": Word.UNDECIDED,
    }  # fmt: skip


def test_a_rollout_as_old_as_what_it_builds_on_does_not_count_so_none_goes_round_in_circles() -> None:
    there, back = (
        Rollout(Start("p", version, base, (100,), (), AUTHOR, 7))
        for version, base in ((VERSIONS[1], VERSIONS[0]), (VERSIONS[0], VERSIONS[1]))
    )
    assert stand(VERSIONS[0], 7, [there], ()).served.rollout is None
    found = stand(VERSIONS[0], 6, [there, back], ())
    assert (found.served, found.reached) == (Served(VERSIONS[1], there.id, 0, VERSIONS[0]), (there.id,))


def test_of_several_aborts_the_first_that_was_said_is_shown() -> None:
    first, later = (Entry(START.id, None, author, 1, hlc, "p", 10) for author, hlc in ((OTHER, 11), (AUTHOR, 12)))
    for said in ((first, later), (later, first)):
        assert Rollout(START, joined(*map(progress_of, said))).abort == first
