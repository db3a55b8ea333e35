"""While a first byte is awaited: one more endpoint may be asked, and the first to answer has the request (edge).

A request that may be repeated is hedged when its region hangs or it is later than its region's answers mostly are (see
`hang`), or after the time that the policy names ("The Tail at Scale", Dean and Barroso, 2013). It is spent from a
budget, so it stops by itself when everything is slow. The other's connection is closed. One that was kept, and is
closed while the request is on its way by it, is no hedge yet: the same endpoint is asked by a new one, as everywhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from router.traffic.nested_epoll import Fiber, NestedEpoll, Wake
from router.traffic.plane import Course, Leg
from router.traffic.request_body import ClientGoneError
from router.traffic.steering import Outcome
from router.traffic.upstream_pool import ExhaustedError, Upstream, UpstreamPool

if TYPE_CHECKING:
    from router.traffic.exchange import Exchange


def hedge_at(exchange: Exchange) -> float:
    """When another endpoint is to be asked because the policy says so."""
    if exchange.head.fields.may_wait or exchange.head.websocket:
        return math.inf
    return exchange.nest.time() + exchange.terms.hedge_after_us / 1e6


class _Asking:
    """A connection to one more endpoint, being made by a fiber of its own, for the first may answer meanwhile."""

    def __init__(self, course: Course, began: float, waiter: Fiber) -> None:
        self.course = course
        self.began = began
        self.waiter: Fiber | None = waiter
        """None: nobody asks any more."""
        self.over = False
        self.upstream: Upstream | None = None
        self.lost: Outcome | None = None

    async def connect(self, pool: UpstreamPool, nest: NestedEpoll, timeout_us: int) -> None:
        try:
            self.upstream = await pool.open(self.course.attempt.endpoint, timeout_us)
        except OSError:
            self.lost = Outcome.REFUSED
        except trio.TooSlowError:
            self.lost = Outcome.TIMEOUT
        except ExhaustedError:
            pass
        self.over = True
        if self.waiter is not None:
            self.waiter.nudge()
        else:
            self.leave(pool, nest.time())

    def leave(self, pool: UpstreamPool, now: float) -> None:
        """Nobody will ask it: one connection more stands ready, now or once it is made."""
        self.waiter = None
        if self.upstream is not None:
            self.upstream.reusable = True
            pool.release(self.upstream, now)


async def race(exchange: Exchange, fiber: Fiber, wake: Wake, hedge_at: float) -> bytes:
    """A response's first bytes, from whichever leg has them first; that one is `exchange.leg` from then on.

    `wake` is how the first wait ended. b"" if the last connection is over. Raises `ClientGoneError` when nobody waits
    any more for what may take minutes.
    """
    rival: Leg | None = None
    rival_course: Course | None = None
    asking: _Asking | None = None
    client, patient = exchange.client, exchange.head.fields.may_wait
    try:
        while True:
            leg = exchange.leg
            nudged = wake is Wake.NUDGED  # look first: it may be we who have not yet read what came long ago
            data = _peek_at(leg.upstream) if nudged or leg.upstream.ready else None
            if data or (data is not None and rival is None):
                return data
            if rival is not None:
                if data is not None:
                    exchange.lose_leg(leg, Outcome.RESET)
                    exchange.plane.land(leg)
                    exchange.leg, rival = rival, None
                    continue
                data = _peek_at(rival.upstream) if nudged or rival.upstream.ready else None
                if data:
                    exchange.observe(leg.attempt, Outcome.OUTRUN, leg.began)
                    exchange.plane.counters["hedges_won"] += 1
                    exchange.leg, rival = rival, None
                    exchange.plane.land(leg)
                    return data
                if data is not None:
                    if exchange.lose_leg(rival, Outcome.RESET).left and asking is None and rival_course is not None:
                        asking = _renew(exchange, rival_course, fiber)
                    exchange.plane.land(rival)
                    rival = None
            another: Leg | None = None
            if asking is not None and asking.over:
                if (another := _ask(exchange, asking)) is not None:
                    rival_course = asking.course
                asking = None
                wake = Wake.READY if another is not None else wake
            due = wake is Wake.LATE and hedge_at < exchange.deadline
            if wake is Wake.LATE and not due:
                raise trio.TooSlowError
            if due:
                hedge_at = math.inf
            # Who is late by the region's p99 is hedged then, unless the policy says when.
            late = due or (nudged and not exchange.terms.hedge_after_us)
            if another is None and asking is None and ((late and rival is None) or (nudged and leg.hung)):
                asking = _begin(exchange, leg, fiber)
                wake = Wake.READY
                if asking is not None and asking.over:
                    continue
            if another is not None and rival is not None:  # two legs are enough: the one that hangs goes
                exchange.observe(leg.attempt, Outcome.OUTRUN, leg.began)
                exchange.plane.land(leg)
                exchange.leg = leg = rival
            rival = another or rival
            if patient:
                if client.has_left():
                    raise ClientGoneError
                client.read_waiter = fiber
            leg.upstream.read_waiter = fiber
            if rival is not None:
                rival.upstream.read_waiter = fiber
            wake = await fiber.park(min(exchange.deadline, hedge_at))
            leg.upstream.read_waiter = client.read_waiter = None
            if rival is not None:
                rival.upstream.read_waiter = None
    finally:
        if asking is not None:
            exchange.tried -= {asking.course.attempt.endpoint}  # nothing was asked of it
            asking.leave(exchange.plane.pool, exchange.nest.time())
        if rival is not None:
            exchange.observe(rival.attempt, Outcome.OUTRUN, rival.began)
            exchange.plane.land(rival)


def _begin(exchange: Exchange, late: Leg, fiber: Fiber) -> _Asking | None:
    """Connect to one more endpoint, if the request may be repeated and the budget allows it."""
    plane, limits = exchange.plane, exchange.limits
    # A hedge that the policy asks for is beside its retries; any other repeat is one of them.
    asked_for = exchange.terms.hedge_after_us and not late.hung
    if not (exchange.repeatable and exchange.uploaded and exchange.body.replayable) or len(exchange.tried) >= (
        limits.attempts_max if asked_for else exchange.terms.attempts_max
    ):
        return None
    decision = plane.router.decide(exchange.request)  # by now the node may know better
    # Another region first: if this one hangs, and nobody knows yet, its other endpoints are no rescue.
    elsewhere = [attempt for attempt in decision.attempts if attempt.region != late.attempt.region]
    attempt = exchange.untried(decision._replace(attempts=(*elsewhere, *decision.attempts)), afresh=False)
    if attempt is None:
        return None
    if not (exchange.terms.retries if late.hung else exchange.terms.hedges).spend(plane.now()):
        plane.counters["hedges_denied"] += 1
        return None
    exchange.tried |= {attempt.endpoint}
    plane.counters["hedges"] += 1
    reason = f"{attempt.tier}: {late.attempt.region} {'HUNG' if late.hung else 'LATE'}"
    steered = plane.steered(attempt.region, reason)
    course = Course(plane, exchange.head, exchange.client, decision, attempt, steered)
    asking = _Asking(course, exchange.nest.time(), fiber)
    asking.upstream = plane.pool.take(attempt.endpoint, asking.began)
    asking.over = asking.upstream is not None
    if not asking.over:
        _connect(exchange, asking)
    return asking


def _renew(exchange: Exchange, course: Course, fiber: Fiber) -> _Asking:
    """Connect anew to who has left the connection that it was asked by (`Lost.left`)."""
    exchange.plane.counters["renewed"] += 1
    asking = _Asking(course, exchange.nest.time(), fiber)
    _connect(exchange, asking)
    return asking


def _connect(exchange: Exchange, asking: _Asking) -> None:
    pool, nest = exchange.plane.pool, exchange.nest
    nest.start(asking.connect(pool, nest, exchange.limits.hedge_connect_timeout_us))


def _ask(exchange: Exchange, asking: _Asking) -> Leg | None:
    """Send the request by a connection that was made. None if it was not, or does not take all of it at once."""
    plane, course, upstream = exchange.plane, asking.course, asking.upstream
    if upstream is None:
        if asking.lost is not None:
            exchange.lose(course.attempt, asking.lost, asking.began, None)
        return None
    leg = Leg(course.attempt, course.steered, asking.began, upstream)
    try:
        left = upstream.send_now(course.request + exchange.body.in_hand())
    except OSError:
        exchange.lose_leg(leg, Outcome.RESET)
        left = b"all"
    if left:  # nobody else's turn to be waited for
        plane.pool.release(upstream, asking.began)
        return None
    if course.watches:
        plane.sent(leg, course.watched, exchange.nest.time())
    return leg


def _peek_at(upstream: Upstream) -> bytes | None:
    """What has arrived; b"" if the connection is over, in whatever way."""
    try:
        return upstream.receive_now()
    except OSError:
        return b""
