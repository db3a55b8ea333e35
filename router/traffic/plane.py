"""What exchanges share: of a connection, the course its requests take; of the process, everything else."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Set
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Final

import trio

from lattice.types import Endpoint, Micros
from router.cache.turn import SiteCache
from router.decision.decide import Attempt, Decision
from router.traffic.concurrency import Concurrency, Share
from router.traffic.forwarded import Steered, lines_for_upstream
from router.traffic.hang import LATE_US_MIN, HangWatch, Watched
from router.traffic.http1 import Fields, RequestHead
from router.traffic.nested_epoll import NestedEpoll
from router.traffic.orca import utilization_ppm
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.request_body import Client
from router.traffic.steering import Judge, Outcome, Router
from router.traffic.terms import Terms, TermsBook
from router.traffic.trusted_hops import Forwarders
from router.traffic.tunnel import Tunnel
from router.traffic.upstream_pool import Upstream, UpstreamPool

_WATCH_SECONDS: Final = 0.005
"""Between two looks for hangs, at least."""
_STALL_SECONDS: Final = 0.005
"""A look that comes so late says that this process was kept from running: neither could it have heard anything."""


_LATE_SECONDS_MIN: Final = LATE_US_MIN / 1e6


class Course:
    """One attempt at one endpoint, for requests with these fields.

    A connection's requests mostly differ in nothing but their target, and are mostly decided alike. So whom to ask, how
    that endpoint does, and the whole head but its first line are worked out when they change, not once a request.
    """

    __slots__ = (
        "attempt",
        "burdens",
        "counter",
        "decision",
        "epoch",
        "fields",
        "first_byte_seconds",
        "head",
        "lines",
        "plain",
        "request",
        "share",
        "steered",
        "terms",
        "tried",
        "until",
        "watched",
        "watches",
    )

    def __init__(
        self, plane: Plane, head: RequestHead, client: Client, decision: Decision, attempt: Attempt, steered: Steered
    ) -> None:
        self.decision = decision
        self.epoch: object = None
        """Under which it was decided, for `head`."""
        self.head = head
        self.tried: Set[Endpoint] = frozenset((attempt.endpoint,))
        self.burdens = not (head.websocket or head.fields.may_wait)
        """These wait for hours, and burden nobody."""
        self.until = 0.0
        """From then on the standbys are to be told again that they are (`UpstreamPool.expect`)."""
        self.fields: Fields = head.fields
        self.attempt = attempt
        self.terms: Terms = plane.terms.of(decision)
        terms, waits, body = self.terms, head.fields.may_wait, bool(head.chunked or head.content_length)
        self.watches = self.burdens and not terms.patient
        """Silence is judged."""
        self.first_byte_seconds = (terms.waiting_timeout_us if waits else terms.first_byte_timeout_us) / 1e6
        self.plain = (
            head.method == b"GET" and self.watches and not (body or terms.hedge_after_us or terms.total_timeout_us)
        )
        """These change nothing, and are repeated only when somebody fails or hangs."""
        self.steered: Steered = steered
        self.share: Share = plane.share(attempt.region, decision.route)
        self.counter = region_counter(attempt.region)
        # Kept longer than the watch keeps one it heard nothing of only by a connection idle for minutes: there is none.
        self.watched: Watched[Leg] = plane.watch.endpoint(attempt.region, attempt.endpoint)
        address, scheme = plane.client_of(client, head), plane.scheme_of(client, head)
        self.lines: bytes = lines_for_upstream(head, address, attempt.endpoint, self.steered, scheme)
        """The head for the upstream, after its request line."""
        self.request = b""
        """All of it, for `head`."""
        self.take(head)

    def take(self, head: RequestHead) -> None:
        """From now on for this head, of the same fields."""
        self.head = head
        self.request = b"%b %b HTTP/1.1\r\n%b" % (head.method, head.target, self.lines)


class Leg:
    """One endpoint that was asked, and our connection to it."""

    __slots__ = ("attempt", "awaited", "began", "hung", "steered", "upstream", "watched")

    def __init__(self, attempt: Attempt, steered: Steered, began: float, upstream: Upstream) -> None:
        self.attempt = attempt
        self.steered = steered
        self.began = began
        self.upstream = upstream
        self.watched: Watched[Leg] | None = None
        self.awaited = True  # no byte has come
        self.hung = False  # it was nudged because its endpoint hangs, not only because it is late


class Plane:
    """Use on the trio thread only."""

    def __init__(
        self,
        router: Router,
        site: str,
        limits: ProxyLimits,
        pool: UpstreamPool,
        nest: NestedEpoll,
        *,
        fast: bool,
        cache: SiteCache | None = None,
        forwarders: Forwarders | None = None,
    ) -> None:
        self.router = router
        self.site = site
        self.limits = limits
        self.pool = pool
        self.nest = nest
        self.fast = fast
        """Fibers wherever they can be; without it, trio tasks only."""
        self.cache = cache
        """For routes that say `cache`; without one, they say it in vain."""
        self._forwarders = forwarders
        self.counters: defaultdict[str, int] = defaultdict(int)  # a Counter's items take twice as long to set
        self.draining = False
        self.tunnels: set[Tunnel] = set()
        self.trial: Judge | None = None
        """Of the policy, if it is on trial."""
        self.watch: HangWatch[Leg] = HangWatch()
        self.terms = TermsBook(limits)
        self.regions: dict[str, Concurrency] = {}
        self._watch_alarm = trio.CancelScope()
        self._watch_due = math.inf
        self._listened = Micros(0)
        self.slept = 0.0
        """Seconds in which this process was kept from running, so far. `listened_us` takes them out, as does by itself
        what each request passes, for a call is dearer."""
        self._date: tuple[int, bytes] = (0, b"")
        self._steered = lru_cache(maxsize=1024)(partial(Steered, site))

    def client_of(self, client: Client, head: RequestHead) -> str:
        """Who asks: whoever connected, or for whom it speaks."""
        if self._forwarders is None:
            return client.address
        return self._forwarders.client(client.address, head.fields)

    def scheme_of(self, client: Client, head: RequestHead) -> str:
        """How whoever asks reached us, or the first of our own before us."""
        if self._forwarders is None:
            return client.scheme
        return self._forwarders.scheme(client.address, head.fields, client.scheme)

    def share(self, region: str, route: str) -> Share:
        """What the route has of the region's window."""
        found = self.regions.get(region)
        if found is None:
            found = self.regions[region] = Concurrency()
        return found.share(route)

    def steered(self, region: str | None, reason: str) -> Steered:
        """The same words are the same object, so that what was written of them can be found again at a glance."""
        return self._steered(region, reason if self.trial is None else f"{reason}; {self.trial.label}")

    def now(self) -> Micros:
        return Micros(int(self.nest.time() * 1e6))

    def listened_us(self, now: float) -> Micros:
        """The watch's time: without what we slept through."""
        return Micros(int((now - self.slept) * 1e6))

    def sent(self, leg: Leg, watched: Watched[Leg], now: float) -> None:
        """The leg's first byte is awaited from now on."""
        leg.watched = watched
        watched.sent(leg, Micros(int((now - self.slept) * 1e6)))
        if now < self._watch_due - _LATE_SECONDS_MIN and (due := now + watched.late_us() / 1e6) < self._watch_due:
            self._watch_due = self._watch_alarm.deadline = due

    def land(self, leg: Leg) -> None:
        """Nobody waits for the leg any more."""
        if leg.awaited and leg.watched is not None:
            leg.watched.dropped(leg)
        self.pool.release(leg.upstream, self.nest.time())

    def told_of_load(self, leg: Leg, report: bytes) -> None:
        """An upstream's word on its own load counts when it has proved by TLS who it is."""
        share_ppm = utilization_ppm(report)
        if share_ppm is None:
            self.counters["load.unread"] += 1
        elif leg.upstream.name is None:
            self.counters["load.unproven"] += 1
        else:
            self.router.reported(leg.attempt, share_ppm)

    def _listen(self) -> Micros:
        """Until when all that arrived was heard, in the watch's time. What we come too late by is taken out of that."""
        overslept = self.nest.clock() - self._watch_due
        if overslept > _STALL_SECONDS:
            self.counters["stalls"] += 1
            self.slept += overslept
            self._watch_due += overslept
            self.watch.rewind(self.listened_us(self._watch_due))
        self._listened = max(self._listened, self.listened_us(self.nest.heard_until()))
        return self._listened

    def oldest(self) -> dict[tuple[str, Endpoint], int]:
        """For how many microseconds the oldest request at each endpoint has waited for its first byte, by region and
        endpoint. Who may wait for news is not counted."""
        return self.watch.oldest(self._listen())

    async def keep_watch(self) -> None:
        """Tell of hangs, and nudge who waits for them or is late."""
        while True:
            due = self.watch.next_due()
            soonest = self.nest.clock() + _WATCH_SECONDS
            self._watch_due = math.inf if due is None else max(due / 1e6 + self.slept, soonest)
            with trio.CancelScope(deadline=self._watch_due) as self._watch_alarm:
                await trio.sleep_forever()
            self._judge(self._listen())

    def _judge(self, listened: Micros) -> None:
        for suspicion in self.watch.suspects(listened):
            outcome = Outcome.HUNG if suspicion.endpoint is None else Outcome.SILENT
            self.counters[f"hang.{suspicion.region}"] += 1
            self.router.observed(suspicion.flights[0].attempt, outcome, suspicion.silence_us, self.nest.clock())
            for leg in suspicion.flights:
                leg.hung = True
                _nudge(leg)
        for leg in list(self.watch.late(listened)):
            _nudge(leg)

    def wall_ms(self) -> int:
        """Now, by the clock that HTTP's dates are of."""
        return time.time_ns() // 1_000_000

    def date(self) -> bytes:
        """Now, as HTTP writes it."""
        second = int(time.time())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode("ascii"))
        return self._date[1]


@lru_cache(maxsize=1024)
def region_counter(region: str) -> str:
    """The counter of what was relayed from there."""
    return f"region.{region}"


def _nudge(leg: Leg) -> None:
    if leg.upstream.read_waiter is not None:
        leg.upstream.read_waiter.nudge()
