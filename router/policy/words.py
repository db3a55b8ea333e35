"""What may be said in a policy, field by field: the one table that its text and its JSON form are held to.

A field of the syntax tree has a reader, for the word that stands for it in text, and a writer, for the way back. The
builders read text with these readers. A value that a program made is right when it can be said: when its reader takes
the word that its writer gives, and reads the same value from it. So every bound is stated once, by a reader, and what
JSON admits can be printed, and parsed again to the same policy.

Some values mean something only together (a kind of key and its argument, a window's parts): those `whole` judges.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from lattice.types import SECOND
from router.policy import values
from router.policy.errors import did_you_mean, excerpt
from router.policy.grammar import reserved_words
from router.policy.scenarios import REPEAT_MAX, USERS_MAX
from router.policy.syntax import TIERS, tier_name
from router.policy.values import BadValueError, read_duration, read_number, write_duration, write_percent
from router.policy.windows import Window, WindowError, read_moment, read_window, write_moment, zone_names

EDITION: Final = 1
DAY_US: Final = 86_400 * SECOND
LIFETIME_US_MAX: Final = 30 * DAY_US
STEP_US_MAX: Final = 7 * DAY_US
PROBE_INTERVAL_US_MIN: Final = 10_000
ERRORS_OVER_US_MAX: Final = 60 * SECOND
FAILURES_MAX: Final = 100
NEAREST_MAX: Final = 256
TIERS_MAX: Final = 16
RETRIES_MAX: Final = 5

Read = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Word:
    """How one field is said."""

    read: Read
    """Raises `BadValueError`."""
    write: Callable[[Any], str] = str

    def check(self, value: Any) -> None:
        """Raises `BadValueError` for a value that no word says."""
        same(self.read, self.write(value), value)


def same(read: Read, word: str, value: Any) -> None:
    """Raises `BadValueError` when this word does not say this value."""
    found = read(word)
    if found != value:
        raise BadValueError("", f"{excerpt(word)} is not how this is written", f"{excerpt(str(found))}")


def read_name(word: str) -> str:
    """A name that text can say: the grammar keeps its first words for itself."""
    if word in reserved_words():
        raise BadValueError("E004", f"{excerpt(word)} is a word of the language and cannot be a name", "another name")
    return values.read_name(word)


def read_window_text(text: str) -> Window:
    try:
        return read_window(text)
    except WindowError as error:
        if error.unknown_zone:
            near = partial(_near_zone, error.unknown_zone)
            raise BadValueError("E119", str(error), "an IANA time zone, like Europe/Berlin or UTC", near) from None
        raise BadValueError(
            "E118",
            f"{excerpt(text)} is not a window: {error}",
            '"Mon-Fri 22:00-06:00 Europe/Berlin" or "2027-03-28 01:00 to 2027-03-28 05:00 UTC"',
        ) from None


def _near_zone(word: str) -> str:
    if near := did_you_mean(word, zone_names()):
        return near
    cities = {zone.rpartition("/")[2].casefold(): zone for zone in zone_names()}
    zone = cities.get(word.rpartition("/")[2].casefold())
    return f"did you mean {zone!r}?" if zone else ""


def read_moment_text(text: str) -> int:
    try:
        return read_moment(text)
    except ValueError as error:
        raise BadValueError(
            "E131",
            f"{excerpt(text)} is not a moment: {error}",
            'a date, a time and an offset, like "2027-03-28T03:30:00+02:00"',
        ) from None


def _read_nearest(word: str) -> int:
    try:
        return values.read_count(word, NEAREST_MAX, "regions")
    except BadValueError as error:
        if values.is_name(word):
            error.remedy = f"to name regions leave out nearest: primary {word}"
        raise


def read_tier_number(word: str) -> int:
    return read_number(word, 1, TIERS_MAX, "E135", "a tier", "4")


def read_tier_name(name: str) -> str:
    return name if name in TIERS else tier_name(read_tier_number(name.removeprefix("tier ")))


def _read_protocol(word: str) -> str:
    if not re.match(r"[A-Za-z0-9._/-]{1,64}\Z", word):
        raise BadValueError("E126", f"{excerpt(word)} is not a protocol", "a protocol, like websocket")
    return word.lower()


def read_up_to_all(word: str) -> int:
    """A percentage, none included."""
    return 0 if word == "0%" else values.read_percent(word)


def _read_path(word: str) -> str:
    if not word.startswith("/"):
        raise BadValueError("E133", f"{excerpt(word)} is not a path", "an absolute path", f"write /{word}")
    return word


def _read_client(word: str) -> str:
    if values.read_address(word) is None:
        raise BadValueError("E133", f"{excerpt(word)} is not a client's address", "a numeric IP address")
    return word


def _latitude(word: str) -> int:
    return values.read_coordinate(word, values.LATITUDE_E6_MAX, "latitude")


def _longitude(word: str) -> int:
    return values.read_coordinate(word, values.LONGITUDE_E6_MAX, "longitude")


def _read_place(word: str) -> str:
    latitude, _, longitude = word.partition(" ")
    if not longitude:
        raise BadValueError("E133", f"{excerpt(word)} is not a place", 'latitude and longitude, like "50.1 8.7"')
    _latitude(latitude)
    _longitude(longitude)
    return word


def _asn_digits(word: str) -> str:
    return str(values.read_asn(word))


def _port_digits(word: str) -> str:
    return str(read_number(word, 1, 65_535, "E107", "a port", "443"))


def as_it_is(word: str) -> str:
    return word


KEY_READERS: Final[dict[str, Read]] = {
    "ip": lambda word: read_number(word, 1, 32, "E128", "a number of prefix bits", "24"),
    "path": lambda word: read_number(word, 1, 16, "E128", "a number of segments", "1"),
    "header": lambda word: values.read_token(word, "header").lower(),
    "cookie": lambda word: values.read_token(word, "cookie"),
    "jwt": lambda word: values.read_token(word, "jwt"),
}
"""What stands in the parentheses of a key, by its kind."""

MATCH_READERS: Final[dict[str, Read]] = {
    "host": values.read_host_pattern,
    "path": values.read_path_pattern,
    "method": values.read_method,
    "country": values.read_country,
    "continent": values.read_continent,
    "asn": _asn_digits,
    "port": _port_digits,
    "sni": values.read_host_pattern,
    "upgrade": _read_protocol,
}
"""What a field of a condition may be; the others' may be anything."""

FACT_READERS: Final[dict[str, Read]] = {
    "method": values.read_method,
    "path": _read_path,
    "country": values.read_country,
    "continent": values.read_continent,
    "asn": _asn_digits,
    "port": _port_digits,
    "users": lambda word: str(read_number(word, 1, USERS_MAX, "E133", "a number of users", "1000")),
    "client": _read_client,
    "site": _read_place,
    "location": _read_place,
}
"""What a test may give; the others may be anything."""

BOUND_READERS: Final[dict[str, Read]] = {
    "switches": lambda word: read_number(word, 0, 10_000, "E112", "a number of switches", "2"),
    "moved": read_up_to_all,
    "load": read_up_to_all,
}
"""What a test may bound."""

_NAME: Final = Word(read_name)
_LATITUDE: Final = Word(_latitude, values.write_degrees)
_LONGITUDE: Final = Word(_longitude, values.write_degrees)
_DURATION: Final = Word(read_duration, write_duration)
_DURATION_OR_NONE: Final = Word(partial(read_duration, least_us=0), write_duration)
_LIFETIME: Final = Word(partial(read_duration, least_us=SECOND, most_us=LIFETIME_US_MAX), write_duration)
_PERCENT: Final = Word(values.read_percent, write_percent)
_RATE: Final = Word(values.read_rate, "{}rps".format)
_WEIGHT: Final = Word(lambda word: read_number(word, 1, 1_000, "E123", "a weight", "80"))
_PENALTY: Final = Word(lambda word: read_number(word, 1, 1_000_000, "E129", "a penalty", "1000"))
_HOST: Final = Word(values.read_host_pattern)

WORDS: Final[dict[tuple[str, str], Word]] = {
    ("Policy", "edition"): Word(lambda word: read_number(word, EDITION, EDITION, "E102", "an edition", "1")),
    ("UpstreamEndpoint", "host"): Word(
        lambda word: values.read_endpoint(f"[{word}]:1" if ":" in word else f"{word}:1")[0]
    ),
    ("UpstreamEndpoint", "port"): Word(lambda word: values.read_endpoint(f"192.0.2.1:{word}")[1]),
    ("UpstreamEndpoint", "tls"): _HOST,
    ("UpstreamEndpoint", "weight"): _WEIGHT,
    ("Region", "name"): _NAME,
    ("Region", "latitude_e6"): _LATITUDE,
    ("Region", "longitude_e6"): _LONGITUDE,
    ("Region", "health"): _NAME,
    ("Region", "capacity_rps"): _RATE,
    ("Region", "drain_us"): _LIFETIME,
    ("RegionName", "name"): _NAME,
    ("RegionName", "weight"): _WEIGHT,
    ("Group", "name"): _NAME,
    ("Cidr", "network"): Word(values.read_cidr),
    ("Zone", "name"): _NAME,
    ("Zone", "latitude_e6"): _LATITUDE,
    ("Zone", "longitude_e6"): _LONGITUDE,
    ("Zone", "countries"): Word(values.read_country),
    ("Zone", "continents"): Word(values.read_continent),
    ("Zone", "asns"): Word(values.read_asn),
    ("Zone", "demand_rps"): _RATE,
    ("Health", "name"): _NAME,
    ("Health", "probe_interval_us"): Word(partial(read_duration, least_us=PROBE_INTERVAL_US_MIN), write_duration),
    ("Health", "probe_timeout_us"): _DURATION,
    ("Health", "latency_us_max"): _DURATION,
    ("Health", "latency_us_back"): _DURATION,
    ("Health", "errors_ppm_max"): _PERCENT,
    ("Health", "errors_ppm_back"): _PERCENT,
    ("Health", "errors_over_us"): Word(
        partial(read_duration, least_us=SECOND, most_us=ERRORS_OVER_US_MAX), write_duration
    ),
    ("Health", "errors_samples_min"): Word(
        lambda word: read_number(word, 1, 10_000, "E112", "a number of samples", "10")
    ),
    ("Health", "saturation_ppm_max"): _PERCENT,
    ("Health", "saturation_ppm_back"): _PERCENT,
    ("Health", "oldest_us_max"): _DURATION,
    ("Health", "oldest_us_back"): _DURATION,
    ("Health", "fail_after"): Word(lambda word: values.read_count(word, FAILURES_MAX, "failures")),
    ("Health", "recover_after_us"): _DURATION,
    ("Health", "unknown_as"): Word(values.read_unknown, lambda level: str(level.name).lower()),
    ("Health", "cooldown_us"): _DURATION,
    ("Health", "probation_us"): _DURATION_OR_NONE,
    ("Damp", "penalty"): _PENALTY,
    ("Damp", "suppress"): _PENALTY,
    ("Damp", "reuse"): _PENALTY,
    ("Damp", "half_life_us"): _DURATION,
    ("Damp", "longest_us"): _DURATION,
    ("Nearest", "count"): Word(_read_nearest),
    ("Nearest", "group"): _NAME,
    ("AnyLeft", "group"): _NAME,
    ("Tier", "name"): Word(read_tier_name),
    ("Deny", "status"): Word(values.read_status),
    ("Deny", "reason"): Word(values.read_reason),
    ("Override", "zone"): _NAME,
    ("Rule", "name"): _NAME,
    ("Never", "name"): _NAME,
    ("Never", "outside"): _NAME,
    ("Route", "name"): _NAME,
    ("Route", "hosts"): _HOST,
    ("Route", "path"): Word(values.read_path_pattern),
    ("Share", "ppm"): _PERCENT,
    ("Stick", "lifetime_us"): _LIFETIME,
    ("Spill", "above_ppm"): _PERCENT,
    ("Panic", "below_ppm"): _PERCENT,
    ("Retry", "count"): Word(lambda word: read_number(word, 0, RETRIES_MAX, "E112", "a number of retries", "2")),
    ("Retry", "budget_ppm"): _PERCENT,
    ("Retry", "methods"): Word(values.read_method),
    ("Hedge", "after_us"): _DURATION,
    ("Hedge", "budget_ppm"): _PERCENT,
    ("Timeouts", "connect_us"): _DURATION,
    ("Timeouts", "first_byte_us"): _DURATION,
    ("Timeouts", "total_us"): _DURATION,
    ("Cache", "stale_us"): _LIFETIME,
    ("Scenario", "name"): Word(values.read_reason),
    ("At", "now_us"): Word(read_moment_text, write_moment),
    ("SetLevel", "region"): _NAME,
    ("SetSaturation", "region"): _NAME,
    ("SetSaturation", "ppm"): Word(read_up_to_all, write_percent),
    ("Step", "by_us"): Word(partial(read_duration, most_us=STEP_US_MAX), write_duration),
    ("Repeat", "count"): Word(lambda word: read_number(word, 1, REPEAT_MAX, "E112", "a number of times", "20")),
}
"""By class and field; of a field that holds several, each."""


def reader(kind: type, field: str) -> Read:
    """What reads the word for a field."""
    return WORDS[kind.__name__, field].read
