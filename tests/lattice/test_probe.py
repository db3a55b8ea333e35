"""One probe cycle, and the probes carried for others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.prng import Prng
from lattice.probe import RELAYS_MAX, ProbeCycle, Relay
from lattice.types import Endpoint, NodeId

NODES = [NodeId(bytes([number]) * 16) for number in range(9)]
HERE: Endpoint = ("10.0.0.1", 1)


@given(st.integers(min_value=1, max_value=9), st.text(max_size=4), st.integers(min_value=0, max_value=8))
def test_everybody_is_probed_within_two_rounds(count: int, seed: str, skipped: int) -> None:
    cycle, present = ProbeCycle(Prng.seeded(seed)), NODES[:count]
    for _ in range(skipped):
        cycle.begin(present)
    assert {cycle.begin(present) for _ in range(2 * count - 1)} == set(present)


@given(st.lists(st.sets(st.sampled_from(NODES)), max_size=12), st.text(max_size=4))
def test_only_who_is_present_is_probed(rounds: list[set[NodeId]], seed: str) -> None:
    cycle = ProbeCycle(Prng.seeded(seed))
    for present in rounds:
        target = cycle.begin(sorted(present))
        assert (target in present) if present else (target is None)
        assert cycle.unanswered() == target
        helpers = cycle.helpers(sorted(present), 3)
        assert len(helpers) == min(3, max(0, len(present) - 1))
        assert target not in helpers


def test_only_the_right_ack_ends_the_cycle() -> None:
    cycle = ProbeCycle(Prng.seeded("x"))
    target = cycle.begin(NODES[:1])
    assert target is not None
    old = cycle.nonce
    cycle.acked(old + 1, target)
    cycle.acked(old, NODES[1])
    assert cycle.unanswered() == target
    cycle.begin(NODES[:1])
    cycle.acked(old, target)
    assert cycle.unanswered() == target, "a late ack answers no later ping"
    assert cycle.acked(cycle.nonce, target) is None
    assert cycle.unanswered() is None


def test_a_carried_probe_is_passed_on_once_and_carriage_is_bounded() -> None:
    cycle = ProbeCycle(Prng.seeded("x"))
    relay = Relay(HERE, 7, NODES[1])
    nonce = cycle.carry(relay)
    assert nonce is not None
    assert cycle.acked(nonce, NODES[2]) is None
    assert cycle.acked(nonce, NODES[1]) == relay
    assert cycle.acked(nonce, NODES[1]) is None
    assert [cycle.carry(relay) is None for _ in range(RELAYS_MAX + 1)] == [False] * RELAYS_MAX + [True]
    cycle.drop_relays()
    assert cycle.carry(relay) is not None
