"""The mask is what its stages say, terms double, and a half-open endpoint gets one request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.types import SECOND, Endpoint, Micros
from router.health.ejection import QUIET_US, TERM_US_MAX, TRIAL_WAIT_US, EjectionMask, Stage, term_us

ONE, TWO = ("192.0.2.1", 80), ("192.0.2.2", 80)
ENDPOINTS = (ONE, TWO, ("2001:db8::1", 80))
ACTIONS = ("eject", "lift", "expire", "admit", "retain")
histories = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.sampled_from(ENDPOINTS), st.integers(0, 40 * SECOND)), max_size=60
)


def at(seconds: int) -> Micros:
    return Micros(seconds * SECOND)


@given(histories)
def test_the_mask_holds_what_is_ejected_or_on_trial(history: list[tuple[str, Endpoint, int]]) -> None:
    mask, now = EjectionMask(), 0
    live = mask.ejected
    for action, endpoint, delay_us in history:
        now += delay_us
        before = mask.stage(endpoint)
        match action:
            case "eject":
                assert mask.eject(endpoint, Micros(now), "refused") == (before is not Stage.EJECTED)
                assert endpoint in live
            case "lift":
                assert mask.lift(endpoint) == (before is not Stage.IN_USE)
                assert endpoint not in live
            case "expire":
                assert endpoint not in mask.expire(Micros(now)) or mask.stage(endpoint) is Stage.HALF_OPEN
                due = mask.next_expiry()
                assert due is None or now < due <= now + TERM_US_MAX
            case "admit":
                assert mask.admit(endpoint, Micros(now)) == (before is Stage.HALF_OPEN)
                assert not mask.admit(endpoint, Micros(now))  # one trial at a time
            case _:
                mask.retain([other for other in ENDPOINTS if other != endpoint])
                assert mask.stage(endpoint) is Stage.IN_USE
        assert mask.ejected is live
        assert live == {e for e in ENDPOINTS if mask.stage(e) in (Stage.EJECTED, Stage.ON_TRIAL)}
        assert all(bool(mask.why(e)) == (mask.stage(e) is not Stage.IN_USE) for e in ENDPOINTS)
    assert mask.counters["lifted"] <= mask.counters["ejected"]
    assert mask.counters["trials"] <= mask.counters["half_opened"]


def test_a_failed_trial_doubles_the_term_up_to_a_limit() -> None:
    mask, now, terms = EjectionMask(), 0, []
    for _ in range(7):
        assert mask.eject(ONE, Micros(now), "reset")
        due = mask.next_expiry()
        assert due is not None
        terms.append((due - now) // SECOND)
        assert mask.expire(Micros(due - 1)) == ()
        assert mask.expire(due) == (ONE,)
        assert mask.admit(ONE, due)
        now = due
    assert terms == [1, 2, 4, 8, 8, 8, 8]
    assert mask.counters["trials_failed"] == 6


def test_failures_of_requests_under_way_change_no_term() -> None:
    mask = EjectionMask()
    assert mask.eject(ONE, at(0), "refused")
    for _ in range(100):
        assert not mask.eject(ONE, Micros(SECOND // 2), "refused")
    assert mask.next_expiry() == at(1)
    assert mask.counters["repeated"] == 100


def test_a_lifted_endpoint_that_fails_again_does_not_start_over_until_it_was_quiet() -> None:
    mask = EjectionMask()
    mask.eject(ONE, at(0), "refused")
    mask.lift(ONE)
    mask.eject(ONE, at(10), "refused")
    assert mask.next_expiry() == at(12)
    mask.lift(ONE)
    much_later = Micros(at(10) + QUIET_US + term_us(2))
    assert mask.expire(much_later) == ()
    mask.eject(ONE, much_later, "refused")
    assert mask.next_expiry() == much_later + SECOND


def test_a_trial_is_one_request_and_one_that_never_ends_is_replaced() -> None:
    mask = EjectionMask()
    mask.eject(ONE, at(0), "refused")
    mask.eject(TWO, at(0), "refused")
    assert mask.expire(at(1)) == (ONE, TWO)
    assert mask.ejected == set()
    assert mask.admit(ONE, at(1))
    assert mask.ejected == {ONE}
    assert not mask.admit(ONE, at(1))
    assert mask.expire(at(2)) == (ONE,)
    assert mask.admit(ONE, at(2))
    assert mask.lift(ONE)
    assert mask.ejected == set()
    assert mask.stage(TWO) is Stage.HALF_OPEN


def test_a_trial_is_nobody_s_who_could_not_be_rescued_unless_nobody_else_comes() -> None:
    mask = EjectionMask()
    assert mask.spared(at(0)) is mask.ejected
    mask.eject(ONE, at(0), "silent")
    mask.eject(TWO, at(0), "silent")
    mask.expire(at(1))
    mask.admit(TWO, at(1))
    assert mask.ejected == {TWO}
    assert mask.spared(at(1)) == {ONE, TWO}
    assert mask.spared(Micros(at(1) + TRIAL_WAIT_US)) == {TWO}, "it has waited for long enough"
    mask.lift(ONE)
    assert mask.spared(at(1)) is mask.ejected


def test_terms() -> None:
    assert [term_us(strikes) // SECOND for strikes in (1, 2, 5, 6, 1_000)] == [1, 2, 8, 8, 8]
