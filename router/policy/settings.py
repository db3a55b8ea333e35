"""What a route or rule asks for beside its tiers: affinity, spill, panic, retries, hedges, timeouts, caching.

Each is optional. A rule's own settings replace its route's, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from lattice.types import SECOND
from router.policy.span import NOWHERE, Span

KEYS = ("cookie", "header", "jwt", "ip", "path")
"""What a request can be told apart by."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
IDEMPOTENT_METHODS = (*SAFE_METHODS, "PUT", "DELETE")
"""RFC 9110 9.2.1 and 9.2.2."""


@dataclass(frozen=True, slots=True)
class Key:
    """A part of the request that names its user: `cookie(x)`, `header(x)`, `jwt(claim)`, `ip(prefix)`, `path(n)`."""

    kind: str
    name: str = ""
    """Of the cookie, header (lower case) or claim."""
    count: int = 0
    """Bits of an IPv4 prefix (an IPv6 address keeps twice as many), or segments of the path."""
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Share:
    """A rule for so many millionths of the users, told apart by a key. Who is in stays in as the share grows."""

    ppm: int
    by: Key


@dataclass(frozen=True, slots=True)
class Stick:
    """Affinity: a user keeps a region of the tier, by the first key that the request has, else by address."""

    keys: tuple[Key, ...]
    lifetime_us: int
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Spill:
    """From this saturation on (millionths) a growing share of a region's users goes to the next candidate."""

    above_ppm: int


@dataclass(frozen=True, slots=True)
class Panic:
    """With fewer than this share of the candidates left, health is not believed: all of them serve."""

    below_ppm: int


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, within which share of all requests, and for which methods the data plane may try again."""

    count: int
    budget_ppm: int = 100_000
    methods: tuple[str, ...] = IDEMPOTENT_METHODS
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Hedge:
    """A second copy of an idempotent request to the next standby when the first has not answered for so long."""

    after_us: int
    budget_ppm: int = 20_000
    """The share of requests that may be hedged; above it hedging stops (The Tail at Scale asks for 2 %)."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of the data plane; 0 leaves one to it."""

    connect_us: int = 0
    first_byte_us: int = 0
    total_us: int = 0


@dataclass(frozen=True, slots=True)
class Cache:
    """Answers may be kept by the site and given again (RFC 9111), as far as their origin allows it."""

    stale_us: int = 0
    """For how long after its time an answer may stand in while no region answers, if its origin says nothing."""
    off: bool = False
    """This rule's are not kept, though its route's are."""


@dataclass(frozen=True, slots=True)
class Settings:
    stick: Stick | None = None
    spill: Spill | None = None
    panic: Panic | None = None
    retry: Retry | None = None
    hedge: Hedge | None = None
    timeouts: Timeouts | None = None
    cache: Cache | None = None

    def over(self, wider: Settings) -> Settings:
        """These settings, and those of `wider` where there are none here."""
        if self == NO_SETTINGS:
            return wider
        return Settings(*(getattr(self, each.name) or getattr(wider, each.name) for each in fields(self)))


NO_SETTINGS = Settings()


@dataclass(frozen=True, slots=True)
class Damp:
    """Flap damping of a region's agreed level (RFC 2439).

    Every change adds `penalty`, which halves every `half_life_us`. Above `suppress` a region stays out, until the
    penalty is below `reuse`; one that has become quiet is back within `longest_us`. Junos takes 1000/3000/750 with 15
    minutes for routes of the Internet. The defaults here follow from what is wanted, at most four switches in any ten
    minutes: whatever changes more often than every 200 s must end up suppressed, so 1000 / (1 - 2^(-200 s / half-life))
    must be above `suppress`. Five minutes do; one minute, which was proposed first, lets a change a minute through.
    """

    penalty: int = 1_000
    suppress: int = 2_500
    reuse: int = 750
    half_life_us: int = 300 * SECOND
    longest_us: int = 600 * SECOND
