"""What the policy asks of the data plane for one route or rule, over the limits that hold without it.

A policy may ask for fewer attempts, other methods and other times; it never lifts a bound that protects this process.
Its budgets count the requests of that route or rule alone.
"""

from __future__ import annotations

from typing import Final

from router.decision.decide import Decision
from router.policy.settings import NO_SETTINGS, Hedge, Retry, Settings, Timeouts
from router.traffic.budget import Budget, Window
from router.traffic.proxy_limits import ProxyLimits

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})
"""RFC 9110 9.2.2."""
TERMS_MAX: Final = 4_096
"""Routes and rules whose budgets are kept: those of a large policy, and of the one before it."""
_PPM_PER_PCT: Final = 10_000


class Terms:
    """How the requests of one route or rule are treated. Times in microseconds."""

    __slots__ = (
        "attempts_max",
        "connect_timeout_us",
        "first_byte_timeout_us",
        "hedge_after_us",
        "hedges",
        "patient",
        "repeatable",
        "requests",
        "retries",
        "settings",
        "total_timeout_us",
        "waiting_timeout_us",
    )

    def __init__(self, settings: Settings, limits: ProxyLimits) -> None:
        retry: Retry | None = settings.retry
        hedge: Hedge | None = settings.hedge
        timeouts = settings.timeouts or Timeouts()
        self.settings = settings
        self.attempts_max = limits.attempts_max if retry is None else min(limits.attempts_max, 1 + retry.count)
        self.repeatable = IDEMPOTENT if retry is None else frozenset(method.encode("ascii") for method in retry.methods)
        """Methods of requests that may reach two endpoints."""
        self.requests = Window()
        """Of late: what the budgets are a share of."""
        retry_ppm = limits.retry_share_pct * _PPM_PER_PCT if retry is None else retry.budget_ppm
        hedge_ppm = limits.hedge_share_pct * _PPM_PER_PCT if hedge is None else hedge.budget_ppm
        self.retries = Budget(self.requests, retry_ppm, limits.retry_spare)
        self.hedges = Budget(self.requests, hedge_ppm, limits.hedge_spare)
        self.hedge_after_us = hedge.after_us if hedge is not None else 0
        """How long a first byte may take before another endpoint is asked; 0 leaves that to the hang rule's p99."""
        self.connect_timeout_us = timeouts.connect_us or limits.connect_timeout_us
        self.first_byte_timeout_us = timeouts.first_byte_us or limits.first_byte_timeout_us
        self.waiting_timeout_us = timeouts.first_byte_us or limits.waiting_timeout_us
        """The same for requests that say they may wait."""
        self.patient = timeouts.first_byte_us > limits.first_byte_timeout_us
        """Who gives a first byte longer than is usual says that its requests wait for news: silence is no hang."""
        self.total_timeout_us = timeouts.total_us
        """From the decision to the end of the response; 0 for no limit."""


class TermsBook:
    """The terms of every route and rule that decided lately."""

    def __init__(self, limits: ProxyLimits) -> None:
        self._limits = limits
        self._known: dict[tuple[str, str], Terms] = {}
        self.usual = Terms(NO_SETTINGS, limits)

    def of(self, decision: Decision) -> Terms:
        """A policy that leaves a route's settings as they were leaves its budgets as they are."""
        settings = decision.settings
        if settings is NO_SETTINGS:
            return self.usual
        key = decision.route, decision.rule
        known = self._known.get(key)
        if known is None or (known.settings is not settings and known.settings != settings):
            if len(self._known) >= TERMS_MAX:
                self._known.clear()
            known = self._known[key] = Terms(settings, self._limits)
        return known
