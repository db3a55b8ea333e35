"""Tests in a policy see users come back as a node would send them: a few at a time, each once."""

from __future__ import annotations

from lattice.types import SECOND
from router.decision.failback import RAMP_US
from router.decision.program import compile_policy
from router.decision.scenario_run import run_tests
from router.policy import parse

POLICY = """edition 1
region ams { at 52.37 4.90  endpoint 192.0.2.20:443 }
region fra { at 50.11 8.68  endpoint 192.0.2.10:443 }
health default { probation 0s }
route all for "*" { primary fra  secondary ams  stick by cookie("uid") for 1h }
test "t" { given host "h" users 1000  """


def failures(actions: str, policy: str = POLICY, failback_us: int = RAMP_US) -> list[str]:
    ((_, failed),) = run_tests(compile_policy(parse(f"{policy}{actions} }}")), failback_us)
    return [each.message for each in failed]


def test_users_return_over_ten_seconds() -> None:
    recovered = "set fra down step 1s expect load fra <= 0% set fra up "
    assert (
        failures(f"{recovered} expect load fra <= 8% step 5s expect load fra <= 60% step 5s expect moved <= 0%") == []
    )
    (early,) = failures(f"{recovered} step 4s expect moved <= 10%")
    assert early.startswith("moved is ")
    (early,) = failures(f"{recovered} expect load ams <= 50%")
    assert early.startswith("load ams is 9")


def test_a_site_may_take_longer_or_not_wait_at_all() -> None:
    recovered = "set fra down step 1s set fra up "
    assert failures(f"{recovered} expect moved <= 0%", failback_us=0) == []
    assert (
        failures(f"{recovered} step 15s expect load ams <= 51% step 15s expect moved <= 0%", failback_us=30 * SECOND)
        == []
    )
    (early,) = failures(f"{recovered} step 15s expect load ams <= 30%", failback_us=30 * SECOND)
    assert early.startswith("load ams is 4")


def test_nobody_goes_to_and_fro_while_they_return() -> None:
    assert failures("set fra down step 1s set fra up repeat 20 { step 600ms } expect switches <= 2 region fra") == []


def test_a_user_who_has_yet_to_go_back_is_told_so() -> None:
    (failed,) = failures('given cookie("uid") "late" set fra down step 1s set fra up expect region fra')
    assert failed == "expected region fra, found ams (secondary: fra returning)"


def test_a_region_that_proves_itself_first_starts_its_return_then() -> None:
    proving = POLICY.replace("health default { probation 0s }\n", "")
    waits = "set fra down step 10s set fra up step 14s expect load fra <= 0% step 2s expect load fra <= 20%"
    assert failures(f"{waits} step 10s expect load ams <= 0%", proving) == []


def test_what_holds_a_region_back_is_said() -> None:
    proving = POLICY.replace("health default { probation 0s }\n", "")
    (failed,) = failures("set fra down step 10s set fra up step 2s expect region fra", proving)
    assert failed == (
        "expected region fra, found ams (secondary: fra DOWN); "
        "fra is held DOWN for 13s more (damping, cooldown, probation)"
    )


def test_after_a_jump_of_the_clock_everybody_is_back() -> None:
    jump = 'at "2027-01-05T12:00:00Z" set fra down step 1s set fra up at "2027-01-05T13:00:00Z" expect load ams <= 0%'
    assert failures(jump) == []
    assert failures(jump.replace("13:00", "11:00")) == []
