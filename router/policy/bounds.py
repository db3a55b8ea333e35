"""How large the numbers of a policy may be: the same for its JSON form as for its text.

Text is bounded where its words are read (`values`, `builder`, `rule_builder`). What programs write is bounded by this
table: a class of the syntax tree, a field that holds a whole number or several, and the least and the most that text
can say. A field of a class that has numbers is in it, or a test fails.
"""

from __future__ import annotations

from typing import Final

from lattice.types import MILLISECOND, SECOND
from router.policy.builder import ERRORS_OVER_US_MAX, FAILURES_MAX, NEAREST_MAX, PROBE_INTERVAL_US_MIN
from router.policy.rule_builder import LIFETIME_US_MAX, RETRIES_MAX
from router.policy.scenario_builder import STEP_US_MAX
from router.policy.scenarios import REPEAT_MAX
from router.policy.values import DURATION_US_MAX, LATITUDE_E6_MAX, LONGITUDE_E6_MAX

Bounds = tuple[int, int]

_LATITUDE: Final = (-LATITUDE_E6_MAX, LATITUDE_E6_MAX)
_LONGITUDE: Final = (-LONGITUDE_E6_MAX, LONGITUDE_E6_MAX)
_DURATION: Final = (MILLISECOND, DURATION_US_MAX)
_DURATION_OR_NONE: Final = (0, DURATION_US_MAX)
_LIFETIME: Final = (SECOND, LIFETIME_US_MAX)
_SHARE: Final = (1, 1_000_000)
_WEIGHT: Final = (1, 1_000)
_RATE: Final = (1, 999_999_999)
_PENALTY: Final = (1, 1_000_000)
_MINUTE: Final = (0, 24 * 60)
_DAY_US: Final = 86_400 * SECOND

BOUNDS: Final[dict[tuple[str, str], Bounds]] = {
    ("Policy", "edition"): (1, 1),
    ("UpstreamEndpoint", "port"): (1, 65_535),
    ("UpstreamEndpoint", "weight"): _WEIGHT,
    ("Region", "latitude_e6"): _LATITUDE,
    ("Region", "longitude_e6"): _LONGITUDE,
    ("Region", "capacity_rps"): _RATE,
    ("Region", "drain_us"): _LIFETIME,
    ("RegionName", "weight"): _WEIGHT,
    ("Zone", "latitude_e6"): _LATITUDE,
    ("Zone", "longitude_e6"): _LONGITUDE,
    ("Zone", "asns"): (1, 4_294_967_295),
    ("Zone", "demand_rps"): _RATE,
    ("Health", "probe_interval_us"): (PROBE_INTERVAL_US_MIN, DURATION_US_MAX),
    ("Health", "probe_timeout_us"): _DURATION,
    ("Health", "latency_us_max"): _DURATION,
    ("Health", "latency_us_back"): _DURATION,
    ("Health", "errors_ppm_max"): _SHARE,
    ("Health", "errors_ppm_back"): _SHARE,
    ("Health", "errors_over_us"): (SECOND, ERRORS_OVER_US_MAX),
    ("Health", "errors_samples_min"): (1, 10_000),
    ("Health", "saturation_ppm_max"): _SHARE,
    ("Health", "saturation_ppm_back"): _SHARE,
    ("Health", "oldest_us_max"): _DURATION,
    ("Health", "oldest_us_back"): _DURATION,
    ("Health", "fail_after"): (1, FAILURES_MAX),
    ("Health", "recover_after_us"): _DURATION,
    ("Health", "cooldown_us"): _DURATION_OR_NONE,
    ("Health", "probation_us"): _DURATION_OR_NONE,
    ("Damp", "penalty"): _PENALTY,
    ("Damp", "suppress"): _PENALTY,
    ("Damp", "reuse"): _PENALTY,
    ("Damp", "half_life_us"): _DURATION,
    ("Damp", "longest_us"): _DURATION,
    ("StatusRange", "first"): (200, 599),
    ("StatusRange", "last"): (200, 599),
    ("Nearest", "count"): (1, NEAREST_MAX),
    ("Deny", "status"): (400, 599),
    ("Window", "start_minute"): _MINUTE,
    ("Window", "end_minute"): _MINUTE,
    ("Window", "days"): (0, 6),
    ("Key", "count"): (0, 32),
    ("Share", "ppm"): _SHARE,
    ("Stick", "lifetime_us"): _LIFETIME,
    ("Spill", "above_ppm"): _SHARE,
    ("Panic", "below_ppm"): _SHARE,
    ("Retry", "count"): (0, RETRIES_MAX),
    ("Retry", "budget_ppm"): _SHARE,
    ("Hedge", "after_us"): _DURATION,
    ("Hedge", "budget_ppm"): _SHARE,
    ("Timeouts", "connect_us"): _DURATION_OR_NONE,
    ("Timeouts", "first_byte_us"): _DURATION_OR_NONE,
    ("Timeouts", "total_us"): _DURATION_OR_NONE,
    ("Cache", "stale_us"): (0, LIFETIME_US_MAX),
    ("At", "now_us"): (-_DAY_US * 366 * 2_000, _DAY_US * 366 * 8_100),
    ("SetSaturation", "ppm"): (0, 1_000_000),
    ("Step", "by_us"): (1, STEP_US_MAX),
    ("Repeat", "count"): (1, REPEAT_MAX),
    ("Expected", "value"): (0, 1_000_000_000),
}
