"""What may be said in a policy, field by field: the one table that its text and its JSON form are held to.

A field of the syntax tree has a reader, for the word that stands for it in text, and a writer, for the way back. The
builders read text with these readers. A value that a program made is right when it can be said: when its reader takes
the word that its writer gives, and reads the same value from it. So every bound is stated once, by a reader, and what
JSON admits can be printed, and parsed again to the same policy.

Some values mean something only together (a kind of key and its argument, a window's parts): `WHOLE` judges nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from lattice.types import SECOND, Level
from router.policy import values
from router.policy.conditions import (
    CONDITION_DEPTH_MAX,
    FIELDS,
    VALUES_MAX,
    WITH_ARGUMENT,
    Match,
    Present,
)
from router.policy.errors import did_you_mean, excerpt
from router.policy.grammar import reserved_words
from router.policy.printer_parts import print_condition
from router.policy.probe import USUAL_PROBE, Probe, ProbeKind, StatusRange
from router.policy.scenarios import ACTIONS_MAX, FACTS, REPEAT_MAX, USERS_MAX, Expected, Fact, Repeat, Scenario
from router.policy.settings import KEYS, Cache, Key, Stick, Timeouts
from router.policy.syntax import TIERS, Health, Named, Never, Rule, Zone, tier_name
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
        _same(self.read, self.write(value), value)


def _same(read: Read, word: str, value: Any) -> None:
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
            near = did_you_mean(error.unknown_zone, zone_names()) or _by_city(error.unknown_zone)
            raise BadValueError("E119", str(error), "an IANA time zone, like Europe/Berlin or UTC", near) from None
        raise BadValueError(
            "E118",
            f"{excerpt(text)} is not a window: {error}",
            '"Mon-Fri 22:00-06:00 Europe/Berlin" or "2027-03-28 01:00 to 2027-03-28 05:00 UTC"',
        ) from None


def _by_city(word: str) -> str:
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
            error.hint = f"to name regions leave out nearest: primary {word}"
        raise


def read_tier_number(word: str) -> int:
    return read_number(word, 1, TIERS_MAX, "E135", "a tier", "4")


def _read_tier_name(name: str) -> str:
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


def _read_site(word: str) -> str:
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


def _as_it_is(word: str) -> str:
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
    "site": _read_site,
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
    ("Tier", "name"): Word(_read_tier_name),
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


def _no(message: str, expected: str) -> BadValueError:
    return BadValueError("", message, expected)


def _probe(probe: Probe) -> None:
    if not probe.statuses:
        raise _no("a probe that expects no status", "one at least")
    if probe.kind is ProbeKind.HTTP:
        _same(values.read_probe_path, probe.target, probe.target)
        return
    if probe.kind is ProbeKind.GRPC:
        _same(values.read_grpc_service, probe.target, probe.target)
    elif probe.target:
        raise BadValueError("E140", "a TCP probe asks for nothing", "no target")
    if probe.statuses != USUAL_PROBE.statuses or probe.containing:
        raise BadValueError("E140", "statuses and containing are for HTTP probes", f"a {probe.kind.value} probe alone")


def _statuses(statuses: StatusRange) -> None:
    _same(values.read_status_range, f"{statuses.first}-{statuses.last}", (statuses.first, statuses.last))


def _key(key: Key) -> None:
    if key.kind not in KEYS:
        raise BadValueError("E128", f"{excerpt(key.kind)} tells no users apart", f"one of {', '.join(KEYS)}")
    counted = key.kind in ("ip", "path")
    if key.name if counted else key.count:
        raise _no(f"a key by {key.kind} has {'no name' if counted else 'no count'}", "to leave it out")
    said = key.count if counted else key.name
    _same(KEY_READERS[key.kind], str(said), said)


def _tested(test: Match | Present) -> None:
    if test.field not in FIELDS:
        raise BadValueError("E125", f"{excerpt(test.field)} is nothing a request has", f"one of {', '.join(FIELDS)}")
    if test.field in WITH_ARGUMENT:
        _same(KEY_READERS["header" if test.field == "header" else "cookie"], test.argument, test.argument)
    elif test.argument:
        raise BadValueError("E127", f"{test.field} takes no name", "an argument only for header, query and cookie")
    if isinstance(test, Present):
        if test.field not in WITH_ARGUMENT:
            raise BadValueError("E126", f"{test.field} is always there", "a header, query parameter or cookie")
        return
    _some(test.values, "values")
    if len(test.values) > VALUES_MAX:
        raise BadValueError("E001", f"{len(test.values)} values in one list", f"at most {VALUES_MAX} values")
    read = MATCH_READERS.get(test.field, read_name if test.field == "zone" else _as_it_is)
    for value in test.values:
        _same(read, value, value)


def _some(listed: tuple[Any, ...], what: str) -> None:
    if not listed:
        raise _no(f"there are no {what}", "one at least")
    if len(set(listed)) < len(listed):
        raise _no(f"one of the {what} is there twice", "each once")


def _condition(rule: Rule | Never) -> None:
    if rule.condition is not None and _depth(print_condition(rule.condition)) > CONDITION_DEPTH_MAX:
        raise BadValueError("E006", "parentheses are nested too deep", f"at most {CONDITION_DEPTH_MAX} deep")


def _depth(text: str) -> int:
    """How deep parentheses stand in each other."""
    depth = deepest = 0
    for mark in re.sub(r'"[^"]*"', "", text):
        depth += (mark == "(") - (mark == ")")
        deepest = max(deepest, depth)
    return deepest


def _parts(both: Any) -> None:
    if len(both.conditions) < 2:
        raise _no(f"{len(both.conditions)} conditions", "two at least")


def _never(never: Never) -> None:
    _condition(never)
    if (never.outside is None) == (not never.regions):
        raise _no("serves nothing, or both outside a group and by these", "outside, or regions")


def _fact(fact: Fact) -> None:
    if fact.name not in FACTS or (fact.argument == "") == (fact.name in WITH_ARGUMENT):
        raise BadValueError("E133", f"{excerpt(fact.name)} cannot be given so", ", ".join(FACTS))
    if fact.name == "header":
        _same(str.lower, fact.argument, fact.argument)
    _same(FACT_READERS.get(fact.name, _as_it_is), fact.value, fact.value)


def _expected(claim: Expected) -> None:
    what, value = claim.what, claim.value
    if (what == "load") != bool(claim.region):
        raise _no(f"{excerpt(what)} {'of no region' if what == 'load' else 'of a region'}", "a region for load only")
    if claim.region:
        _same(read_name, claim.region, claim.region)
    if what in BOUND_READERS and isinstance(value, int):
        _same(BOUND_READERS[what], str(value) if what == "switches" else write_percent(value), value)
    elif what == "deny" and isinstance(value, int):
        _same(values.read_status, str(value), value)
    elif what == "tier" and isinstance(value, str):
        _same(_read_tier_name, value, value)
    elif what in ("region", "rule", "route") and isinstance(value, str):
        _same(read_name, value, value)
    else:
        raise _no(
            f"{excerpt(what)} {excerpt(str(value))} is nothing to expect",
            "region, tier, rule or route with a name, deny with a status, or switches, moved or load with a number",
        )


def _scenario(test: Scenario) -> None:
    actions = [*test.actions]
    total, expects = 0, False
    for action in actions:
        total += action.count * len(action.actions) if isinstance(action, Repeat) else 1
    for action in actions:
        actions += action.actions if isinstance(action, Repeat) else ()
        expects = expects or isinstance(action, Expected)
    if total > ACTIONS_MAX:
        raise BadValueError(
            "E001", f"the test has {total} actions, repeats multiplied out", f"at most {ACTIONS_MAX}"
        )  # fmt: skip
    if not expects:
        raise BadValueError("E214", "the test expects nothing", "an Expected at least")


def _repeat(repeat: Repeat) -> None:
    for inner in repeat.actions:
        if isinstance(inner, Repeat) and not _one_line(inner):
            raise _no("a repeat in a repeat", "one, with the product of their counts")


def _one_line(repeat: Repeat) -> bool:
    """Whether this is how several claims of one `expect` are kept."""
    return repeat.count == 1 and len(repeat.actions) > 1 and all(isinstance(each, Expected) for each in repeat.actions)


def _window(window: Window) -> None:
    if not all(0 <= day <= 6 for day in window.days):
        raise _no(f"days {excerpt(str(window.days))}", "0 for Monday to 6 for Sunday")
    _same(read_window_text, str(window), window)


def _zone(zone: Zone) -> None:
    if (zone.latitude_e6 is None) != (zone.longitude_e6 is None):
        raise _no("half a place", "latitude_e6 and longitude_e6, or neither")
    for what, places in (("countries", zone.countries), ("continents", zone.continents), ("asns", zone.asns)):
        if places:
            _some(places, what)


def _health(health: Health) -> None:
    if health.oldest_us_back is not None and health.oldest_us_max is None:
        raise _no("oldest_us_back without oldest_us_max", "both, or oldest_us_max alone")
    assert health.unknown_as in (Level.HEALTHY, Level.DOWN), "its word is read"


def _timeouts(timeouts: Timeouts) -> None:
    if not (timeouts.connect_us or timeouts.first_byte_us or timeouts.total_us):
        raise _no("timeouts without a time", "one at least")


def _cache(cache: Cache) -> None:
    if cache.off and cache.stale_us:
        raise _no("a cache that is off and has a stale_us", "one of them")


def _keyed(stick: Stick) -> None:
    if not stick.keys:
        raise _no("an affinity by no key", "one at least")


def _named(named: Named) -> None:
    if not named.regions:
        raise _no("a tier of no region", "one at least")


WHOLE: Final[dict[str, Callable[[Any], None]]] = {
    "And": _parts,
    "Cache": _cache,
    "Expected": _expected,
    "Fact": _fact,
    "Health": _health,
    "Key": _key,
    "Match": _tested,
    "Named": _named,
    "Never": _never,
    "Or": _parts,
    "Present": _tested,
    "Probe": _probe,
    "Repeat": _repeat,
    "Retry": lambda retry: _some(retry.methods, "methods"),
    "Route": lambda route: _some(route.hosts, "hosts"),
    "Rule": _condition,
    "Scenario": _scenario,
    "StatusRange": _statuses,
    "Stick": _keyed,
    "Timeouts": _timeouts,
    "Window": _window,
    "Zone": _zone,
}
"""By class: what must hold of a node whose fields are right. Each raises `BadValueError`."""
