"""What the data plane suspects takes endpoints out of use at once, and is no sample until it is certain."""

from __future__ import annotations

import pytest

from lattice.types import SECOND, Endpoint, Level, Micros
from router.control.target import RegionSignal
from router.decision.decide import Attempt
from router.decision.program import compile_policy
from router.health.ejection import TRIAL_WAIT_US
from router.health.grade import SIGNAL_LEASE_US, Sample
from router.health.regional_health import RegionalHealth
from router.policy import parse
from router.traffic.steering import Outcome

POLICY = """edition 1
region fra {
  at 50.0 8.0
  endpoint 127.0.0.1:9001
  endpoint 127.0.0.1:9002
}
region iad {
  at 40.0 8.0
  endpoint 127.0.0.1:9003
}
route all for "*" path "/**" { primary fra  secondary iad  otherwise deny 503 }
"""
FIRST: Endpoint = ("127.0.0.1", 9001)
SECOND_ONE: Endpoint = ("127.0.0.1", 9002)
NOW = Micros(SECOND)


@pytest.fixture
def health() -> RegionalHealth:
    health = RegionalHealth()
    health.configure(compile_policy(parse(POLICY)))
    return health


def tell(health: RegionalHealth, outcome: Outcome, now: Micros = NOW) -> bool:
    return health.answered(Attempt("fra", "primary", Level.HEALTHY, FIRST), outcome, 60_000, now)


def test_a_hung_region_is_left_with_all_its_endpoints(health: RegionalHealth) -> None:
    assert tell(health, Outcome.HUNG)
    assert set(health.ejected) == {FIRST, SECOND_ONE}
    assert health.level("fra", NOW) is Level.UNKNOWN, "no sample: probes and trials confirm it"
    assert not tell(health, Outcome.HUNG), "nothing new"


@pytest.mark.parametrize("outcome", [Outcome.SILENT, Outcome.UNAVAILABLE])
def test_one_endpoint_is_left_alone(health: RegionalHealth, outcome: Outcome) -> None:
    assert tell(health, outcome)
    assert set(health.ejected) == {FIRST}


def test_being_outrun_ejects_nobody_but_a_trial_that_had_to_be_rescued(health: RegionalHealth) -> None:
    assert not tell(health, Outcome.OUTRUN)
    assert not health.ejected
    tell(health, Outcome.SILENT)
    later = Micros(NOW + SECOND)
    assert health.expire(later) == (FIRST,)
    health.admit(FIRST, later)
    assert tell(health, Outcome.OUTRUN, later)
    assert health.expire(Micros(later + SECOND)) == (), "the next term is longer"


def test_a_suspicion_never_takes_the_last_resort_away(health: RegionalHealth) -> None:
    other = Attempt("iad", "secondary", Level.HEALTHY, ("127.0.0.1", 9003))
    assert health.answered(other, Outcome.REFUSED, 0, NOW)
    assert not tell(health, Outcome.HUNG)
    assert not tell(health, Outcome.SILENT)
    assert tell(health, Outcome.REFUSED), "what is certain still counts"


def test_who_could_not_be_rescued_is_kept_from_a_trial_for_a_while(health: RegionalHealth) -> None:
    tell(health, Outcome.SILENT)
    assert health.kept_from("POST", NOW) == health.kept_from("GET", NOW) == {FIRST}
    later = Micros(NOW + SECOND)
    assert health.expire(later) == (FIRST,)
    assert [bool(health.kept_from(method, later)) for method in ("GET", "HEAD", "CONNECT", "POST", "PUT")] == [
        False,
        False,
        False,
        True,
        True,
    ]
    assert not health.kept_from("POST", Micros(later + TRIAL_WAIT_US)), "nobody else came"


def test_what_is_only_suspected_is_known_apart_from_what_is_certain(health: RegionalHealth) -> None:
    other = Attempt("iad", "secondary", Level.HEALTHY, ("127.0.0.1", 9003))
    assert health.suspected() == set()
    tell(health, Outcome.HUNG)
    assert health.suspected() == {FIRST, SECOND_ONE}
    assert health.answered(other, Outcome.REFUSED, 0, NOW)
    assert health.suspected() == {FIRST, SECOND_ONE}
    later = Micros(NOW + SECOND)
    health.expire(later)
    health.admit(FIRST, later)
    tell(health, Outcome.LATE, later)
    assert FIRST in health.suspected(), "late on trial"
    worker = RegionalHealth()
    worker.configure(compile_policy(parse(POLICY)))
    worker.follow(set(health.mask.out_of_use), set(), later, health.suspected())
    assert worker.suspected() == health.suspected()
    assert ("127.0.0.1", 9003) in worker.ejected


WELL, LATE = Sample(True, 1_000), Sample(False, 0)


def probe(health: RegionalHealth, region: str, endpoint: Endpoint, sample: Sample, first: int, count: int) -> list[int]:
    """Probes a quarter of a second apart, as usual; with which of them the endpoint was taken back."""
    moments = range(first, first + count * SECOND // 4, SECOND // 4)
    return [now for now in moments if health.probed(region, endpoint, sample, Micros(now))]


def test_what_kept_probes_waiting_too_is_over_when_probes_find_it_well(health: RegionalHealth) -> None:
    tell(health, Outcome.TIMEOUT)
    assert probe(health, "fra", FIRST, LATE, NOW, 3) == []
    assert health.expire(Micros(NOW + SECOND)) == (FIRST,)
    health.admit(FIRST, Micros(NOW + SECOND))
    assert tell(health, Outcome.TIMEOUT, Micros(NOW + SECOND)), "a trial that fails, and from now on it lasts"
    assert probe(health, "fra", FIRST, LATE, NOW + 2 * SECOND, 1) == []
    back = NOW + 2 * SECOND + SECOND // 4
    assert probe(health, "fra", FIRST, WELL, back, 9) == [back + 2 * SECOND], "well by its health block"
    tell(health, Outcome.TIMEOUT, Micros(back + 3 * SECOND))
    assert probe(health, "fra", FIRST, WELL, back + 3 * SECOND, 16) == [], "what probes do not see, they do not lift"


def test_a_site_that_was_cut_off_serves_again_with_the_first_probe_that_is_answered(health: RegionalHealth) -> None:
    other: Endpoint = ("127.0.0.1", 9003)
    now = NOW
    tell(health, Outcome.HUNG)
    assert health.answered(Attempt("iad", "secondary", Level.HEALTHY, other), Outcome.TIMEOUT, 0, now)
    for region, endpoint in (("fra", FIRST), ("fra", SECOND_ONE), ("iad", other)):
        assert probe(health, region, endpoint, LATE, now, 3) == []
    back = now + SECOND
    assert probe(health, "iad", other, WELL, back, 1) == [back], "users had nothing"
    assert set(health.ejected) == {FIRST, SECOND_ONE}
    assert probe(health, "fra", FIRST, WELL, back, 9) == [back + 2 * SECOND], "now they have, and this can wait"


def test_what_endpoints_say_of_their_load_is_their_regions_saturation_while_it_is_fresh(health: RegionalHealth) -> None:
    for endpoint, ppm in ((FIRST, 900_000), (SECOND_ONE, 500_000), (("10.0.0.9", 1), 1_000_000)):
        health.reported(Attempt("fra", "primary", Level.HEALTHY, endpoint), ppm, NOW)

    def seen(now: int) -> int:
        return {one.region: one.saturation_ppm for one in health.observations(Micros(now))}["fra"]

    assert seen(NOW) == 700_000, "the mean of its own; a stranger's word is nobody's"
    health.reported(Attempt("fra", "primary", Level.HEALTHY, FIRST), 100_000, Micros(NOW + SECOND))
    assert seen(NOW + SECOND) == 300_000
    assert seen(NOW + SIGNAL_LEASE_US) == 100_000, "what is old is no word"
    assert seen(NOW + SECOND + SIGNAL_LEASE_US) == 0


def test_a_region_s_word_has_a_band_as_what_is_measured_has(health: RegionalHealth) -> None:
    """`saturation above 95% below 85%`: what a region says of itself must fall below the lower edge."""
    health.configure(compile_policy(parse(POLICY.replace("region fra", BAND + "region fra", 1))))

    def level_at(capacity_pct: int, at: int) -> Level:
        signal = RegionSignal("fra", latency_ms=1, error_rate_ppm=0, capacity_pct=capacity_pct, timestamp_ms=at)
        assert health.signalled(signal, Micros(NOW + at))
        probe(health, "fra", FIRST, WELL, NOW + at, 1)
        return health.level("fra", Micros(NOW + at))

    said = [level_at(pct, at) for at, pct in enumerate((90, 96, 90, 86, 85, 90))]
    better, worse = Level.HEALTHY, Level.DEGRADED
    assert said == [better, worse, worse, worse, better, better]
    assert level_at(96, 10) is worse
    later = Micros(NOW + 11 + SIGNAL_LEASE_US)
    assert health.signalled(RegionSignal("fra", 1, 0, 90, 11), later)
    probe(health, "fra", FIRST, WELL, later, 1)
    assert health.level("fra", later) is better, "an old word is none, and so has no band"


BAND = "health default { saturation above 95% below 85% }\n"
