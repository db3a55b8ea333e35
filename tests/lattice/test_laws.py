"""The laws everything rests on: of the join, and that health table and membership are joins in disguise."""

from __future__ import annotations

from itertools import combinations
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from lattice.equivocation import contradict
from lattice.health import SignedRow
from lattice.health_table import HealthTable, Placement
from lattice.membership import Member, Membership, MemberState, MemberUpdate
from lattice.types import Endpoint, Micros, NodeId
from tests.lattice.join import delta, join, leq
from tests.lattice.strategies import claims, row_maps, signed_row, signed_rows

Rows: TypeAlias = "dict[NodeId, SignedRow]"
NOW = Micros(1_000_000)
HERE: Endpoint = ("10.0.0.1", 1)

# --- the join of health maps, equivocators included


@given(row_maps, row_maps, row_maps)
def test_join_is_associative(one: Rows, two: Rows, three: Rows) -> None:
    assert join(join(one, two), three) == join(one, join(two, three))


@given(row_maps, row_maps)
def test_join_is_commutative(one: Rows, two: Rows) -> None:
    assert join(one, two) == join(two, one)


@given(row_maps)
def test_join_is_idempotent_and_the_empty_map_is_bottom(one: Rows) -> None:
    assert join(one, one) == one
    assert join(one, {}) == one == join({}, one)
    assert leq({}, one)


@given(row_maps, row_maps)
def test_join_is_the_least_upper_bound(one: Rows, two: Rows) -> None:
    both = join(one, two)
    assert leq(one, both)
    assert leq(two, both)
    assert all(value in (one.get(key), two.get(key)) for key, value in both.items()), "nothing was invented"


@given(row_maps, row_maps, row_maps)
def test_leq_is_a_partial_order_that_agrees_with_join(one: Rows, two: Rows, three: Rows) -> None:
    assert leq(one, one)
    if leq(one, two) and leq(two, one):
        assert one == two
    if leq(one, two) and leq(two, three):
        assert leq(one, three)
    assert leq(one, two) == (join(one, two) == two)


@given(row_maps, row_maps)
def test_the_delta_does_what_the_whole_would_and_no_part_of_it_is_spare(mine: Rows, theirs: Rows) -> None:
    news = delta(mine, theirs)
    assert leq(news, mine)
    assert join(theirs, news) == join(theirs, mine)
    for key in news:
        fewer = {other: row for other, row in news.items() if other != key}
        assert join(theirs, fewer) != join(theirs, mine)
    assert delta(mine, join(theirs, mine)) == {}


@given(signed_rows(versions_max=1), signed_rows(versions_max=1))
def test_two_rows_of_one_version_are_in_a_definite_order(one: SignedRow, two: SignedRow) -> None:
    if one.observer == two.observer:
        assert (one.order == two.order) == (one.data == two.data)
        assert join({one.observer: one}, {one.observer: two}) == join({one.observer: two}, {one.observer: one})


# --- the health table


def _joined(rows: list[SignedRow]) -> Rows:
    known: Rows = {}
    for row in rows:
        known = join(known, {row.observer: row})
    return known


@given(st.lists(signed_rows(), max_size=8), st.data())
def test_a_health_table_is_the_join_of_what_it_was_offered(rows: list[SignedRow], data: st.DataObject) -> None:
    heard = data.draw(
        st.permutations(rows + data.draw(st.lists(st.sampled_from(rows), max_size=4) if rows else st.just([])))
    )
    table = HealthTable()
    for row in heard:
        before = table.get(row.observer)
        offer = table.offer(row, 0, NOW)
        held = table.get(row.observer)
        assert held is not None
        assert held.signed.order >= (before.signed.order if before else (0, 0, b"")), "rows only go up"
        assert offer.taken == (before is None or row.order > before.signed.order)
    expected = _joined(rows)
    assert {row.observer: row for row in table.rows()} == expected
    other = HealthTable()
    for row in expected.values():
        other.offer(row, 0, NOW)
    assert table.rows() == other.rows()
    for region in sorted({report.region for row in rows for report in row.row.reports}):
        assert table.tally(region).witnesses() == other.tally(region).witnesses()
        assert table.tally(region).verdict() == other.tally(region).verdict()


@given(signed_rows(versions_max=1), signed_rows(versions_max=1))
def test_whoever_signs_two_rows_of_one_version_is_noticed_in_either_order(one: SignedRow, two: SignedRow) -> None:
    if one.observer != two.observer or one.data == two.data:
        return
    for first, second in ((one, two), (two, one)):
        table = HealthTable()
        assert table.offer(first, 0, NOW).placement is Placement.NEW
        assert table.offer(second, 0, NOW).placement is Placement.EQUIVOCATION
        assert [row.data for row in table.rows()] == [max(one, two, key=lambda row: row.order).data]


@given(st.lists(st.builds(signed_row, st.just(0), st.integers(1, 2), st.integers(1, 2), st.integers(0, 2)), max_size=8))
def test_of_the_three_greatest_words_heard_no_two_contradict_unnoticed(heard: list[SignedRow]) -> None:
    """Whichever came last, and whatever else came in between."""
    table, noticed = HealthTable(), set[tuple[int, int]]()
    for row in heard:
        offer = table.offer(row, 0, NOW)
        assert (offer.against is not None) == (offer.placement is Placement.EQUIVOCATION)
        if offer.against is not None:
            assert contradict(offer.against, row)
            noticed.add(row.order[:2])
    greatest = sorted({row.order: row for row in heard}.values(), key=lambda row: row.order)[-3:]
    for one, two in combinations(greatest, 2):
        assert not contradict(one, two) or one.order[:2] in noticed


# --- membership


def _introduced() -> Membership:
    members = Membership(NodeId(bytes(15) + b"u"), "", members_max=16)
    for index in range(3):
        members.introduce(NodeId(bytes([index]) * 16), "site", "", HERE, 3, NOW)
    return members


def _claims_of(members: Membership) -> list[tuple[NodeId, MemberState, int]]:
    return [(member.node, member.state, member.incarnation) for member in members.all()]


@given(st.lists(claims, max_size=12), st.data())
def test_claims_in_any_order_make_the_same_membership(heard: list[MemberUpdate], data: st.DataObject) -> None:
    one, two = _introduced(), _introduced()
    for claim in heard:
        one.hear(claim, NOW)
    for claim in data.draw(st.permutations(heard + heard[:3])):
        two.hear(claim, NOW)
    assert _claims_of(one) == _claims_of(two)
    assert one.everybody.places == two.everybody.places
    there = {member.node for member in one.all() if member.present}
    assert {*one.everybody.nodes} == {NodeId(bytes(15) + b"u"), *there}


@given(
    st.lists(
        st.tuples(
            st.integers(min_value=0, max_value=2),
            st.integers(min_value=0, max_value=5),
            st.sampled_from(("row", "frame", "forget")),
        ),
        max_size=25,
    )
)
def test_who_is_at_an_address_is_found_without_a_look_at_all(steps: list[tuple[int, int, str]]) -> None:
    members = Membership(NodeId(bytes(15) + b"u"), "", members_max=16)
    addresses: list[Endpoint] = [("", 0), *[(f"10.0.0.{number}", 7946) for number in range(4)]]
    for number, (who, where, what) in enumerate(steps):
        node = NodeId(bytes([who]) * 16)
        known = members.get(node)
        incarnation = 3 if known is None else known.incarnation
        if where == len(addresses):
            members.hear(MemberUpdate(node, MemberState.DOWN, incarnation), NOW)
        elif what == "forget":
            members.forget(node)
        elif what == "frame":
            members.reached_at(node, addresses[where])
        else:
            members.introduce(node, "site", "", addresses[where], incarnation, NOW, number)
        found = members.at(addresses)
        assert found == {
            address: there
            for address in addresses
            if (
                there := [
                    member
                    for member in members.all()
                    if address in ((member.endpoint,) if member.present else member.addresses)
                ]
            )
        }


@given(st.lists(claims, max_size=12))
def test_a_claim_is_news_exactly_if_it_changes_the_record_and_records_only_go_up(heard: list[MemberUpdate]) -> None:
    members = _introduced()
    for claim in heard:
        before = members.get(claim.node)
        news = members.hear(claim, NOW)
        after = members.get(claim.node)
        assert before is not None
        assert after is not None
        assert news == (before != after)
        assert _rank(after) >= _rank(before)


@given(st.lists(claims, max_size=6), st.integers(min_value=1, max_value=9))
def test_a_members_own_row_of_a_later_incarnation_lifts_every_claim(heard: list[MemberUpdate], later: int) -> None:
    members = _introduced()
    for claim in heard:
        members.hear(claim, NOW)
    node = NodeId(bytes(16))
    before = members.get(node)
    members.introduce(node, "site", "", HERE, later, NOW)
    after = members.get(node)
    assert before is not None
    assert after is not None
    assert after.present == (before.present or later > before.incarnation)
    assert after.incarnation == max(before.incarnation, later)


def test_a_later_row_of_the_same_incarnation_lifts_a_claim_of_death_and_no_other() -> None:
    node = NodeId(bytes(16))
    for state in (MemberState.SUSPECT, MemberState.DOWN, MemberState.LEFT):
        for seq in (0, 7, 8):  # 0: a row that shall not lift
            members = _introduced()
            members.hear(MemberUpdate(node, state, 3, seq=7), NOW)
            lifted = members.introduce(node, "site", "", HERE, 3, NOW, seq)
            assert lifted == (state == MemberState.DOWN and seq == 8)
            member = members.get(node)
            assert member is not None
            assert member.state == (MemberState.ALIVE if lifted else state)


def _rank(member: Member) -> tuple[int, int]:
    return (member.incarnation, int(member.state))
