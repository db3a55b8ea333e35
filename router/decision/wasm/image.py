"""A policy laid out for the engine: every record, text and table of it, in the memory from `IMAGE` on.

What neither a view nor a request can change is worked out here: hosts and addresses are indexed, conditions become
tests that say where to go on, the clocks of time zones a table of changes, and everything that an answer may say is
JSON already. Equal policies have equal images (and the same release of tzdata, when they have time windows).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from lattice.types import Level
from router.decision.layout import nearest_to, place_of
from router.decision.nearby import SINES, point_of_region
from router.decision.plan import CLASSES
from router.decision.predicates import share_salt
from router.decision.program import GeoZones, Program
from router.decision.wasm import layout as at
from router.policy.address_index import AddressIndex
from router.policy.conditions import WITH_ARGUMENT, And, Condition, Match, Not, Or, Present
from router.policy.hosts import ANY_HOST
from router.policy.json_form import plain
from router.policy.paths import ONE, PathPattern
from router.policy.settings import Key, Settings
from router.policy.syntax import (
    AnyLeft,
    Deny,
    Named,
    Nearest,
    Otherwise,
    Override,
    Region,
    Route,
    Rule,
    Tier,
    is_to_client,
)
from router.policy.windows import Window, time_zone

IMAGE_BYTES_MAX = 64 * 1024 * 1024
_SCALE = 1 << 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCKS_FROM, _CLOCKS_TO = datetime(1969, 12, 1, tzinfo=UTC), datetime(2200, 3, 1, tzinfo=UTC)
_CLOCK_STEP = timedelta(days=3)
"""Shorter than between any two changes of a zone's clocks since 1970: six days and 23 hours (in tzdata 2026f)."""
_ANSWER_BYTES, _ANSWER_PIECES = 4_096, 64
"""An answer is at most 43 pieces of the image (four for each attempt), and the engine's own words between them."""


class ImageTooLargeError(ValueError):
    """A policy that `IMAGE_BYTES_MAX` does not hold."""


class Image:
    """The bytes so far."""

    def __init__(self) -> None:
        self.bytes = bytearray(at.HEAD_BYTES)
        self._known: dict[bytes, int] = {}
        self.longest = 0
        """Of the pieces that answers are made of, in bytes."""

    def put(self, content: bytes) -> int:
        """Where these bytes are, written once however often they are asked for."""
        if content not in self._known:
            self.bounded(len(self.bytes) + len(content))
            self._known[content] = at.IMAGE + len(self.bytes)
            self.bytes += content
        return self._known[content]

    @staticmethod
    def bounded(size: int) -> None:
        if size > IMAGE_BYTES_MAX:
            raise ImageTooLargeError(f"the policy takes more than {IMAGE_BYTES_MAX:,} bytes of a module's memory")

    def text(self, content: bytes | str) -> int:
        encoded = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        return self.put(_u32(len(encoded)) + encoded)

    def json(self, content: object) -> int:
        """What stands between quotes, or is JSON by itself, as a text."""
        written = json.dumps(content, separators=(",", ":"))
        return self.piece(written[1:-1] if isinstance(content, str) else written)

    def piece(self, written: str) -> int:
        self.longest = max(self.longest, len(written))
        return self.text(written)

    def record(self, values: Mapping[int, int]) -> int:
        return self.put(b"".join(_u32(values.get(offset, 0)) for offset in range(0, max(values) + 4, 4)))

    def list(self, members: Sequence[int]) -> int:
        return self.table([_u32(member) for member in members])

    def table(self, entries: Sequence[bytes]) -> int:
        return self.put(_u32(len(entries)) + b"".join(entries))

    def dictionary(self, pairs: Mapping[str, int]) -> int:
        encoded = sorted((key.encode("utf-8", "surrogatepass"), value) for key, value in pairs.items())
        return self.table([_u32(self.text(key)) + _u32(value) for key, value in encoded])


def policy_image(program: Program) -> tuple[bytes, int]:
    """The image of a policy, and where the memory that the engine needs ends. Raises `ImageTooLargeError`."""
    return _Layer(program).laid_out()


class _Layer:
    def __init__(self, program: Program) -> None:
        self.program, self.image = program, Image()
        self.region_numbers = {name: number for number, name in enumerate(program.regions)}
        self.zone_numbers = {name: number for number, name in enumerate(program.zones)}
        self.windows: dict[Window, int] = {}
        self.endpoints: dict[tuple[str, int], int] = {}
        self.to_client = False

    def laid_out(self) -> tuple[bytes, int]:
        program, image = self.program, self.image
        for region in program.regions.values():
            for endpoint in region.endpoints:
                self.endpoints.setdefault((endpoint.host, endpoint.port), len(self.endpoints))
        routes = [self.route(route, pattern) for route, pattern in zip(program.routes, program.paths, strict=True)]

        def some(indexes: Iterable[int]) -> int:
            return image.list([routes[index] for index in indexes])

        geo, numbers = program.geo or GeoZones({}, {}, {}), self.zone_numbers
        head = {
            at.REGIONS: image.table([self.region(region) for region in program.regions.values()]),
            at.REGION_NAMES: image.dictionary(self.region_numbers),
            at.LEVELS: image.put(b"".join(_u32(image.piece(level.name)) for level in Level)),
            at.ENDPOINTS: self.endpoint_numbers(),
            at.ENDPOINT_COUNT: len(self.endpoints),
            at.ZONES: image.table([self.zone(name) for name in program.zones]),
            at.IPV4: self.stretches(program.addresses.ipv4, wide=False),
            at.IPV6: self.stretches(program.addresses.ipv6, wide=True),
            at.ASNS: image.table([_u32(asn) + _u32(numbers[zone]) for asn, zone in sorted(geo.asns.items())]),
            at.COUNTRIES: image.dictionary({place: numbers[zone] for place, zone in geo.countries.items()}),
            at.CONTINENTS: image.dictionary({place: numbers[zone] for place, zone in geo.continents.items()}),
            at.EXACT_HOSTS: image.dictionary({host: some(found) for host, found in program.hosts.exact.items()}),
            at.HOSTS_BELOW: image.dictionary({host: some(found) for host, found in program.hosts.below.items()}),
            at.HOSTS_ANYWHERE: some(program.hosts.anywhere),
            at.WINDOWS: image.table([self.window(window) for window in list(self.windows)]),
            at.SINES: image.put(b"".join(map(_u32, SINES))) if self.to_client else 0,
        }
        end = at.IMAGE + len(image.bytes)
        for cell, size in self._rooms():
            head[cell] = end
            end += size
        image.bounded(end - at.IMAGE)
        image.bytes[: at.HEAD_BYTES] = b"".join(
            _u32(head[cell]) for cell in range(at.IMAGE, at.IMAGE + at.HEAD_BYTES, 4)
        )
        return bytes(image.bytes), end

    def _rooms(self) -> Iterable[tuple[int, int]]:
        """What the engine keeps between calls, and what it works in: behind the image."""
        regions = len(self.program.regions)
        most = 1 + max(regions, *(len(region.endpoints) for region in self.program.regions.values()))
        yield at.REGION_STATES, at.STATE_BYTES * regions
        yield at.SITE_ORDER, 4 + 4 * regions
        yield at.NEW_STATES, at.STATE_BYTES * regions
        yield at.NEW_ORDER, 4 + 4 * regions
        yield at.WINDOW_STATES, len(self.windows)
        yield at.EJECTED_MARKS, len(self.endpoints)
        yield at.LEFT, regions
        yield at.CANDIDATES, at.CANDIDATE_BYTES * regions
        yield at.OPTIONS, 4 * regions
        yield at.MEMBERS, 4 * most
        yield at.RANKS, 8 * most
        yield at.LEAVING, 4 * regions
        yield at.CLIENT_ORDER, 4 + 4 * regions
        yield at.OUTPUT, _ANSWER_BYTES + _ANSWER_PIECES * self.image.longest

    # Regions and zones

    def region(self, region: Region) -> bytes:
        image = self.image
        weighted = any(endpoint.weight != 1 for endpoint in region.endpoints)
        endpoints = [
            _u32(image.text(f"{each.host} {each.port}"))
            + _u32(image.piece(f"{json.dumps(each.host)},{each.port}"))
            + _u32(self.endpoints[each.host, each.port])
            + _u64(_SCALE // each.weight if weighted else 0)
            for each in region.endpoints
        ]
        fields = {
            at.REGION_NAME: image.json(region.name),
            at.REGION_RANK_NAME: image.text(f"region {region.name}"),
            at.REGION_SALT: image.text(f"spill {region.name}\0"),
            at.REGION_ENDPOINTS: image.table(endpoints),
            at.REGION_AVOID: image.list([self.window_number(window) for window in region.avoid]),
            at.REGION_UNKNOWN_CLASS: CLASSES.get(self.program.health[region.name].unknown_as, at.CLASS_OUT),
            **dict(zip((at.REGION_X, at.REGION_Y, at.REGION_Z), point_of_region(region), strict=True)),
        }
        return _packed(fields, at.REGION_BYTES)

    def endpoint_numbers(self) -> int:
        ports: dict[str, list[bytes]] = {}
        for (host, port), number in self.endpoints.items():
            ports.setdefault(host, []).append(_u32(port) + _u32(number))
        return self.image.dictionary({host: self.image.table(listed) for host, listed in ports.items()})

    def zone(self, name: str) -> bytes:
        origin = place_of(self.program.zones[name])
        order = 0
        if origin is not None:
            nearest = nearest_to(self.program, origin)
            order = self.image.list([self.region_numbers[region] for region in nearest])
        return _packed({at.ZONE_JSON: self.image.json(name), at.ZONE_ORDER: order}, at.ZONE_BYTES)

    def stretches(self, index: AddressIndex, *, wide: bool) -> int:
        def start(address: int) -> bytes:
            return _u64(address >> 64) + _u64(address & (1 << 64) - 1) if wide else _u32(address)

        zones = [_u32(self.zone_numbers[name]) for name in index.names]
        pairs = zip(index.starts, index.owners, strict=True)
        return self.image.table([start(first) + zones[owner] for first, owner in pairs])

    # Routes and rules

    def route(self, route: Route, pattern: PathPattern | None) -> int:
        overrides = [_u32(self.zone_numbers[each.zone]) + _u32(self.override(route, each)) for each in route.overrides]
        return self.image.record(
            {
                at.ROUTE_JSON: self.image.json(route.name),
                at.ROUTE_PATH: self.path(pattern),
                at.ROUTE_RULES: self.image.list([self.rule(route, rule) for rule in route.rules]),
                at.ROUTE_LANE: self.lane(route.tiers, route.otherwise, route.settings),
                at.ROUTE_OVERRIDES: self.image.table(overrides),
            }
        )

    def override(self, route: Route, override: Override) -> int:
        return self.lane(override.tiers, override.otherwise or route.otherwise, route.settings)

    def rule(self, route: Route, rule: Rule) -> int:
        fields = {
            at.RULE_JSON: self.image.json(rule.name),
            at.RULE_TESTS: self.tests(rule.condition, at.ACCEPT, at.REJECT) if rule.condition else at.ACCEPT,
            at.RULE_LANE: 0,
        }
        if rule.windows:
            fields[at.RULE_WINDOWS] = self.image.list([self.window_number(window) for window in rule.windows])
        if rule.share:
            fields[at.RULE_SHARE_SALT] = self.image.text(share_salt(route, rule) + b"\0")
            fields[at.RULE_SHARE_PPM] = rule.share.ppm
            fields[at.RULE_SHARE_KEY] = self.key(rule.share.by)
        if rule.refuse:
            fields[at.RULE_STATUS] = rule.refuse.status
            fields[at.RULE_SAID] = self.image.json(f"denied: {rule.refuse.reason or rule.name}")
        else:
            settings = rule.settings.over(route.settings)
            fields[at.RULE_LANE] = self.lane(rule.tiers, rule.otherwise or route.otherwise, settings)
        return self.image.record(fields)

    def lane(self, tiers: Sequence[Tier], otherwise: Otherwise, settings: Settings) -> int:
        deny = otherwise if isinstance(otherwise, Deny) else None
        return self.image.record(
            {
                at.LANE_TIERS: self.image.list([self.tier(tier) for tier in tiers]),
                at.LANE_STATUS: deny.status if deny else 0,
                at.LANE_SAID: self.image.json(f"denied: {deny.reason}") if deny and deny.reason else 0,
                at.LANE_SETTINGS_JSON: self.image.json(plain(settings)),
                at.LANE_KEYS: self.image.list([self.key(key) for key in settings.stick.keys]) if settings.stick else 0,
                at.LANE_SPILL_PPM: settings.spill.above_ppm if settings.spill else at.NONE,
                at.LANE_PANIC_PPM: settings.panic.below_ppm if settings.panic else at.NONE,
            }
        )

    def tier(self, tier: Tier) -> int:
        fields = {at.TIER_NAME: self.image.json(tier.name), at.TIER_KIND: at.ANY_LEFT, at.TIER_NAMED: 0}
        match tier.choice:
            case Named(regions):
                fields[at.TIER_KIND] = at.NAMED
                fields[at.TIER_NAMED] = self.image.table(
                    [_u32(self.region_numbers[r.name]) + _u64(_SCALE // r.weight if r.weight else 0) for r in regions]
                )
            case Nearest(count, group):
                fields |= {at.TIER_KIND: at.NEAREST, at.TIER_COUNT: count, at.TIER_GROUP: self.group(group)}
            case AnyLeft(group):
                fields[at.TIER_GROUP] = self.group(group)
        fields[at.TIER_TO_CLIENT] = is_to_client(tier)
        self.to_client |= is_to_client(tier)
        return self.image.record(fields)

    def group(self, name: str | None) -> int:
        if name is None:
            return 0
        return self.image.put(bytes(region in self.program.groups[name] for region in self.program.regions))

    def key(self, key: Key) -> int:
        return self.image.record(
            {
                at.KEY_KIND: at.KEY_KINDS.index(key.kind),
                at.KEY_PREFIX: self.image.text(f"{key.kind} "),
                at.KEY_NAME: self.image.text(key.name),
                at.KEY_COUNT: key.count,
            }
        )

    # Conditions

    def tests(self, condition: Condition, yes: int, no: int) -> int:
        """Where to begin, so that one goes on at `yes` when the condition holds and at `no` when it does not."""
        match condition:
            case And(parts):
                for part in reversed(parts):
                    yes = self.tests(part, yes, no)
                return yes
            case Or(parts):
                for part in reversed(parts):
                    no = self.tests(part, yes, no)
                return no
            case Not(inner):
                return self.tests(inner, no, yes)
            case Match() | Present():
                return self.image.record(
                    {
                        at.TEST_FIELD: at.FIELDS.index(condition.field),
                        at.TEST_ARGUMENT: self.image.text(condition.argument),
                        at.TEST_VALUES: self.values(condition) if isinstance(condition, Match) else 0,
                        at.TEST_YES: yes,
                        at.TEST_NO: no,
                    }
                )

    def values(self, test: Match) -> int:
        match test.field:
            case "path":
                patterns = [PathPattern.compiled(value) for value in test.values]
                return self.image.list([0 if each.everything else self.path(each) for each in patterns])
            case "host" | "sni":
                return self.image.table([self.host(value) for value in test.values])
            case "zone":
                return self.image.list([self.zone_numbers[value] for value in test.values])
            case "asn" | "port":
                return self.image.list([int(value) for value in test.values])
        assert test.field in WITH_ARGUMENT or test.field in at.TEXT_FIELDS
        return self.image.dictionary(dict.fromkeys(test.values, 0))

    def path(self, pattern: PathPattern | None) -> int:
        if pattern is None:
            return 0
        segments = self.image.list([0 if one == ONE else self.image.text(one) for one in pattern.segments])
        return self.image.record({at.PATTERN_OPEN_END: int(pattern.open_end), at.PATTERN_SEGMENTS: segments})

    def host(self, pattern: str) -> bytes:
        if pattern == ANY_HOST:
            return _u32(at.HOST_ANY) + _u32(0)
        below = pattern.startswith("*.")
        return _u32(at.HOST_BELOW if below else at.HOST_EXACT) + _u32(self.image.text(pattern[below:]))

    # Time

    def window_number(self, window: Window) -> int:
        return self.windows.setdefault(window, len(self.windows))

    def window(self, window: Window) -> bytes:
        if window.first:
            opens, closes = (max(0, edge) for edge in window.once_us())  # no moment asked about is before 1970
            return bytes(at.WINDOW_OPENS) + _u64(opens) + _u64(closes)
        fields = {
            at.WINDOW_ZONE: self.clock(window.zone),
            at.WINDOW_START: window.start_minute,
            at.WINDOW_END: window.end_minute,
            at.WINDOW_DAYS: sum(1 << day for day in window.days),
        }
        return _packed(fields, at.WINDOW_BYTES)

    def clock(self, name: str) -> int:
        first, changes = _changes(name)
        before = [first, *(after for _, after in changes)]
        wall = [(utc + before[n], utc + after) for n, (utc, after) in enumerate(changes)]
        put = self.image.put
        return self.image.record(
            {
                at.CLOCK_FIRST: first + at.OFFSET_BIAS_S,
                at.CLOCK_COUNT: len(changes),
                at.CLOCK_UTC: put(b"".join(_u64(utc + at.BIAS_S) for utc, _ in changes)),
                at.CLOCK_EARLY: put(b"".join(_u64(max(pair) + at.BIAS_S) for pair in wall)),
                at.CLOCK_LATE: put(b"".join(_u64(min(pair) + at.BIAS_S) for pair in wall)),
                at.CLOCK_AFTER: put(b"".join(_u32(after + at.OFFSET_BIAS_S) for _, after in changes)),
            }
        )


@lru_cache(maxsize=64)
def _changes(name: str) -> tuple[int, tuple[tuple[int, int], ...]]:
    """The offset of a zone when its table begins, and every change of it: when (UTC), and the offset from then on. In
    seconds since 1970."""
    zone = time_zone(name)

    def offset(moment_s: int) -> int:
        found = (_EPOCH + timedelta(seconds=moment_s)).astimezone(zone).utcoffset()
        assert found is not None
        return found // timedelta(seconds=1)

    low, end = (int((each - _EPOCH) / timedelta(seconds=1)) for each in (_CLOCKS_FROM, _CLOCKS_TO))
    first = current = offset(low)
    changes = []
    while low < end:
        high = low + int(_CLOCK_STEP / timedelta(seconds=1))
        after = offset(high)
        if after != current:
            before, change = low, high
            while change - before > 1:
                middle = (before + change) // 2
                if offset(middle) == current:
                    before = middle
                else:
                    change = middle
            changes.append((change, after))
            current = after
        low = high
    return first, tuple(changes)


def _packed(fields: Mapping[int, int], size: int) -> bytes:
    return b"".join(_u32(fields.get(offset, 0)) for offset in range(0, size, 4))


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")
