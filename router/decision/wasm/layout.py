"""Where everything is in the module's memory: the contract between `image`, which writes it, and `engine`.

The memory, from its beginning: nothing; the engine's variables; the logarithms of `rendezvous`; its constant texts; the
input; two stretches for what is decoded and hashed; and the image, a policy laid out as records of little-endian
numbers of four bytes that name each other by address. A *text* is its size and its bytes, a *list* its count and its
members, a *dictionary* its count and pairs of (address of a text, value), sorted by text. An address of 0 is "none".
"""

from __future__ import annotations

NONE = 0xFFFF_FFFF
INPUT_BYTES_MAX = 65_536
"""Of a request or a view. Headers of a request are 64 KiB at most in every server that we know."""

# The engine's variables.
REQUEST_TEXTS = 0x100
"""Eight pairs of address and size, in the order of `TEXT_FIELDS`."""
TEXT_FIELDS = ("client", "host", "path", "method", "country", "continent", "upgrade", "sni")
CLIENT, HOST, PATH, METHOD, COUNTRY, CONTINENT, UPGRADE, SNI = range(0x100, 0x140, 8)
ASN, PORT, HEADERS, HEADER_COUNT, EJECTED, EJECTED_COUNT = range(0x140, 0x158, 4)
CURSOR, CURSOR_END, FAULT = range(0x158, 0x164, 4)
PLANNED = 0x164
FAMILY, ADDRESS_HIGH, ADDRESS_LOW = 0x168, 0x170, 0x178
HOST_KEY_SIZE, ZONE, PART, PART_SIZE = range(0x180, 0x190, 4)
KEY_SIZE, OUT = 0x190, 0x194
VALID_UNTIL = 0x198
JSON_AT, JSON_END, JSON_TEXT, JSON_TEXT_SIZE = range(0x1A0, 0x1B0, 4)
# What a decision has found out; `deciding` sets them, `answer` writes them down.
LANE, CANDIDATE_COUNT, OPTION_COUNT, PANICKED, FOR_USER, PROPOSED, CHOSEN, ATTEMPT_COUNT = range(0x1B0, 0x1D0, 4)
SPILLED_PROPOSED, CHOSEN_PLACE, FAILED_OPEN = range(0x1D0, 0x1DC, 4)
LOCATION, ORDERED, CLIENT_X, CLIENT_Y, CLIENT_Z = range(0x1DC, 0x1F0, 4)
"""Where the client is, and its point when `ORDERED`: `CLIENT_ORDER` then is the order of regions around it."""
ATTEMPTS = 0x200
"""Up to eight pairs of an endpoint and the place of its candidate."""

LOGARITHMS = 0x400
TEXTS = 0x900
HOST_KEY = 0x2000
INPUT = HOST_KEY + INPUT_BYTES_MAX
DECODED = INPUT + INPUT_BYTES_MAX
KEY = DECODED + INPUT_BYTES_MAX
"""The key of a user, with room for a salt before it and the name of an endpoint after it."""
KEY_ROOM = 1_024
HASHED = KEY + INPUT_BYTES_MAX + 2 * KEY_ROOM
IMAGE = HASHED + INPUT_BYTES_MAX + 4 * KEY_ROOM

# The head of the image. Endpoints: a dictionary from host to a list of pairs (port, number).
(
    REGIONS, REGION_NAMES, LEVELS, ENDPOINTS, ENDPOINT_COUNT, ZONES, IPV4, IPV6, ASNS, COUNTRIES, CONTINENTS,
    EXACT_HOSTS, HOSTS_BELOW, HOSTS_ANYWHERE, WINDOWS,
    REGION_STATES, SITE_ORDER, NEW_STATES, NEW_ORDER, WINDOW_STATES, EJECTED_MARKS, LEFT, CANDIDATES, OPTIONS, MEMBERS,
    RANKS, LEAVING, CLIENT_ORDER, SINES, OUTPUT,
) = range(IMAGE, IMAGE + 120, 4)  # fmt: skip
HEAD_BYTES = 120

REGION_NAME, REGION_RANK_NAME, REGION_SALT, REGION_ENDPOINTS, REGION_AVOID, REGION_UNKNOWN_CLASS = range(0, 24, 4)
"""Avoid: a list of windows' numbers. Names are texts as `rendezvous` and `bucket` hash them."""
REGION_X, REGION_Y, REGION_Z, REGION_BYTES = 24, 28, 32, 36
"""Its point, as `router.decision.nearby` has it."""
ENDPOINT_NAME, ENDPOINT_JSON, ENDPOINT_NUMBER, ENDPOINT_SCALE, ENDPOINT_BYTES = 0, 4, 8, 12, 20
"""Scale: 2^32 // weight, in eight bytes; 0 when all of the region weigh the same."""
ZONE_JSON, ZONE_ORDER, ZONE_BYTES = 0, 4, 8
"""Order: numbers of all regions, nearest first; none when the site's holds."""
ROUTE_JSON, ROUTE_PATH, ROUTE_RULES, ROUTE_LANE, ROUTE_OVERRIDES = range(0, 20, 4)
"""Overrides: a list of pairs (zone, lane)."""
RULE_JSON, RULE_WINDOWS, RULE_TESTS, RULE_SHARE_SALT, RULE_SHARE_PPM, RULE_SHARE_KEY = range(0, 24, 4)
RULE_STATUS, RULE_SAID, RULE_LANE = 24, 28, 32
"""A rule without a lane refuses, with a status and a reason (JSON, without quotes)."""
LANE_TIERS, LANE_STATUS, LANE_SAID, LANE_SETTINGS_JSON, LANE_KEYS, LANE_SPILL_PPM, LANE_PANIC_PPM = range(0, 28, 4)
"""Status: 0 fails open. Keys: none when there is no affinity. Spill, panic: `NONE` when there is none."""
TIER_KIND, TIER_NAME, TIER_COUNT, TIER_GROUP, TIER_NAMED, TIER_TO_CLIENT = range(0, 24, 4)
"""Group: a byte for each region. Named: a list of (region, scale): the
scale is 2^32 // weight in eight bytes, or 0 when the tier has no weights."""
NAMED, NEAREST, ANY_LEFT = range(3)
TEST_FIELD, TEST_ARGUMENT, TEST_VALUES, TEST_YES, TEST_NO, TEST_BYTES = range(0, 24, 4)
"""Where to go on; or how the rule ends."""
REJECT, ACCEPT = 0, 1
FIELDS = (
    "host", "path", "method", "header", "query", "cookie", "upgrade", "zone", "country", "continent", "asn", "port",
    "sni",
)  # fmt: skip
(
    IN_HOST, IN_PATH, IN_METHOD, IN_HEADER, IN_QUERY, IN_COOKIE, IN_UPGRADE, IN_ZONE, IN_COUNTRY, IN_CONTINENT, IN_ASN,
    IN_PORT, IN_SNI,
) = range(13)  # fmt: skip
PATTERN_OPEN_END, PATTERN_SEGMENTS = 0, 4
"""Segments: a list of texts; none for `*`."""
HOST_PATTERN_KIND, HOST_PATTERN_TEXT, HOST_PATTERN_BYTES = 0, 4, 8
HOST_ANY, HOST_BELOW, HOST_EXACT = range(3)
KEY_KIND, KEY_PREFIX, KEY_NAME, KEY_COUNT = range(0, 16, 4)
KEY_KINDS = ("cookie", "header", "jwt", "ip", "path")
BY_COOKIE, BY_HEADER, BY_JWT, BY_IP, BY_PATH = range(5)
WINDOW_ZONE, WINDOW_START, WINDOW_END, WINDOW_DAYS, WINDOW_OPENS, WINDOW_CLOSES, WINDOW_BYTES = 0, 4, 8, 12, 16, 24, 32
"""Minutes of the day and a bit for each day, or (no zone) two moments in microseconds."""
CLOCK_FIRST, CLOCK_COUNT, CLOCK_UTC, CLOCK_EARLY, CLOCK_LATE, CLOCK_AFTER = range(0, 24, 4)
"""Changes of a zone's clocks: when (UTC), and what the clock on the wall reads then by its greater and its smaller
offset, all in seconds of `BIAS_S`; the offset from then on. Offsets have a day added."""
BIAS_S = 28 * 86_400
"""Moments are counted from four weeks before 1970, so that none is negative; that day was a Thursday too."""
OFFSET_BIAS_S = 86_400

# What is kept of each region between `plan` and `decide`.
STATE_LEVEL, STATE_CLASS, STATE_AVOIDED, STATE_SATURATION, STATE_AWAY, STATE_BYTES = range(0, 24, 4)
CLASS_OUT = 3
CANDIDATE_REGION, CANDIDATE_TIER, CANDIDATE_SCALE, CANDIDATE_BYTES = 0, 4, 8, 16
"""The number of the region, the record of the tier, and the scale of its weight in eight bytes."""

# What the exported functions answer when they refuse.
TOO_LONG, MALFORMED, OUT_OF_RANGE, NOT_PLANNED = range(1, 5)
