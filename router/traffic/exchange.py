"""The life of one request, from its judged head to its one counted ending.

    absorb/gather   the body, if it came along or is small enough to keep
    decide          the node says where to; denied requests end here
    cache           where the route says so: answered from what is stored, or asked for and kept (`router.cache.turn`)
    attempt         acquire a connection, send head and body, wait for the response's head
      lost?         tell the node, and try the next endpoint if nothing can have happened twice
    relay           the response, as fast as the client takes it
    ending          exactly one, counted by whoever runs the exchange

The retry rule (RFC 9110 9.2.2): the body must still be in hand, and either no byte of the request was written to the
lost connection, or it may be repeated (its method is idempotent, or it has an Idempotency-Key) and no byte of a
response came back. Never the same endpoint twice, and no more than a share of all requests. A kept connection that its
endpoint closes while the request is on its way, for it has been idle for too long (RFC 9112 9.3.1, 9.5), is no attempt
nor evidence against anybody: the same endpoint is asked by a new one.

Each with its own file: the usual request (`plain_way`), what the cache does (`by_cache`), a body that does not fit the
first write (`uploading`), the second endpoint that is asked when the first is silent (`hedging`), the head of an answer
(`response_head`), answers of any framing (`relaying`), and what is written to the client (`reply`).
"""

from __future__ import annotations

import math
import socket
from collections.abc import Coroutine, Set
from typing import Any, Final

import trio

from lattice.types import Endpoint, Micros
from router.cache.rules import SAFE_METHODS
from router.cache.turn import Turn
from router.decision.decide import NO_ROUTE, Attempt, Decision, Request
from router.traffic import hedging
from router.traffic.asking import asked
from router.traffic.by_cache import answer_stored, serve_by_cache
from router.traffic.cached import turn_of, with_status
from router.traffic.concurrency import Share
from router.traffic.ending import CLIENT_GONE, Ending, Lost
from router.traffic.forwarded import has_passed
from router.traffic.http1 import RequestHead, ResponseHead
from router.traffic.nested_epoll import Wake
from router.traffic.plain_way import plain_way
from router.traffic.plane import Course, Leg, Plane
from router.traffic.relaying import relay, relay_upgraded, relayed
from router.traffic.reply import Reply, refuse
from router.traffic.request_body import NO_BODY, Client, ClientGoneError, Unheard, too_large
from router.traffic.response_head import hear, receive_head
from router.traffic.server_tls import name_asked_for
from router.traffic.steering import Judge, Outcome
from router.traffic.strict import BadRequestError, BadResponseError
from router.traffic.terms import Terms
from router.traffic.uploading import converse
from router.traffic.upstream_pool import ExhaustedError, Upstream

GATEWAY_ERRORS: Final = frozenset({502, 503, 504})
"""An upstream's word that it, or who is behind it, could not serve: worth asking another for what may be repeated."""

_NARROWS: Final = frozenset({Outcome.REFUSED, Outcome.RESET, Outcome.TIMEOUT, Outcome.UNAVAILABLE})
_READY: Final = Wake.READY
_OK: Final = Outcome.OK
_RESET: Final = Outcome.RESET
EXPECTED_AGAIN_SECONDS: Final = 1.0


class Exchange(Reply):
    """One request and its response. Run once."""

    _planned: Attempt | None = None
    _asked: Request | None = None
    _decided: Decision | None = None
    tried: Set[Endpoint] = frozenset()
    ends_at = math.inf  # by the policy's total timeout
    turn: Turn | None = None  # at the cache
    streams = False  # what comes are events: silence is their nature
    waits_since = -1.0  # when it became the upstream's turn
    # of the attempt under way:
    uploaded = False  # the upstream has the whole request
    burden: Share | None = None  # of whose window it takes a part
    answered = False  # some byte of a response came
    relaying = False  # the final response's head came
    upload_fault: BadRequestError | ClientGoneError | trio.TooSlowError | None = None
    deadline = math.inf  # for the upstream's next byte before its response's body
    waiting: trio.CancelScope | None = None

    terms: Terms
    leg: Leg

    @property
    def repeatable(self) -> bool:
        return self.head.method in self.terms.repeatable or self.head.fields.has_idempotency_key

    # --- from head to decision

    def run(self) -> Coroutine[Any, Any, Ending]:
        """From head to ending, to be awaited at once."""
        trial = self.plane.trial
        now = self.began = self.nest.time()
        return self._run(now) if trial is None else self._run_on_trial(trial, now)

    async def _run_on_trial(self, trial: Judge, now: float) -> Ending:
        """As `_run`; whoever judges the policy hears how it ended."""
        kind = "abandoned"
        try:
            ending = await self._run(now)
            kind = ending.kind
        except BadRequestError:
            kind = "rejected"
            raise
        except Exception:
            kind = "internal_error"
            raise
        finally:
            if (decision := self._decided) is not None:
                if decision.reason == NO_ROUTE:
                    trial.found_no_route(self.request.host, self.request.path)
                trial.ended(decision.route, kind, decision.status)
        return ending

    async def _run(self, now: float) -> Ending:
        plane, client = self.plane, self.client
        if self.body is not NO_BODY:
            if (refused := await self._take_body()) is not None:
                return refused
            now = self.began = self.nest.time()
        course, epoch = client.course, plane.router.epoch()
        if course is None or course.head is not self.head or now >= course.until or course.epoch != epoch:
            if (course is None or course.fields is not self.head.fields) and has_passed(self.head, plane.site):
                return await self.answer(508, "this request came through this site before", "looped")
            decision = self._decided = plane.router.decide(self.request)
            if decision.settings.cache is not None and plane.cache is not None:
                self.turn = turn_of(plane.cache, decision, plane.scheme_of(client, self.head), self.head)
                if self.turn is not None:
                    return await serve_by_cache(self, self.turn, decision)
            if decision.region is None:
                return await self.answer(decision.status, decision.reason, "denied")
            if not decision.attempts:
                return await self.answer(502, "no endpoint to try", "failed_502")
            course = self._set_course(decision, epoch, now)
            if (way := plain_way(plane, client, self.head, course, now, Exchange)) is not None:
                return await way
        self._decided = course.decision
        terms = self.terms = course.terms
        terms.requests.add(Micros(int(now * 1e6)))
        if terms.total_timeout_us:
            self.ends_at = now + terms.total_timeout_us / 1e6
        if course.share.full:
            return await self.try_each(course.decision, None)
        self.tried = course.tried
        result = await self._attempt(course, now)
        return result if isinstance(result, Ending) else await self.try_each(course.decision, result)

    def _set_course(self, decision: Decision, epoch: object, now: float) -> Course:
        """The connection's course for this decision: its last one, if that still is the way."""
        plane, client, head = self.plane, self.client, self.head
        plane.pool.expect(decision.attempts)
        course = client.course
        if course is None or course.decision is not decision or course.fields is not head.fields:
            attempt = decision.attempts[0]
            steered = plane.steered(attempt.region, decision.reason)
            course = client.course = Course(plane, head, client, decision, attempt, steered)
        if course.head is not head:
            course.take(head)
        course.epoch = epoch
        course.until = now + EXPECTED_AGAIN_SECONDS
        return course

    @property
    def request(self) -> Request:
        """What the node is asked about; mostly it need not be."""
        if self._asked is None:
            needs = self.plane.router.needs
            port = _port_of(self.client) if needs.port else 0
            sni = name_asked_for(self.client.sock) if needs.sni else ""
            self._asked = asked(needs, self.head, self.plane.client_of(self.client, self.head), port, sni)
        return self._asked

    def unheard(self) -> Exchange:
        """The same request once more, with nobody to get its answer but the cache."""
        again = Exchange(self.plane, Unheard(self.client), self.head)
        again._asked = self.request
        return again

    async def ask(self, turn: Turn, decision: Decision) -> Ending:
        """Pass the request on, with what the cache wants to know."""
        self.head = turn.forward
        terms = self.terms = self.plane.terms.of(decision)
        terms.requests.add(self.plane.now())
        if terms.total_timeout_us:
            self.ends_at = self.nest.time() + terms.total_timeout_us / 1e6
        self.plane.pool.expect(decision.attempts)
        return await self.try_each(decision, None)

    async def fail(self, status: int, text: str, kind: str) -> Ending:
        """Nobody could answer well: what is stored may stand in, or it ends with an answer of our own."""
        if self.turn is not None and (stored := self.turn.failed(self.plane.wall_ms())) is not None:
            return await answer_stored(self, stored)
        return await self.answer(status, text, kind)

    async def _take_body(self) -> Ending | None:
        """As much of the body as can be kept, before anybody is bothered with it."""
        body, head = self.body, self.head
        try:
            if (head.content_length or 0) > self.limits.body_bytes_max:
                raise too_large()
            body.absorb()
            small = not head.chunked and (head.content_length or 0) <= self.limits.replay_bytes_max
            if small and not head.expects_continue:
                await body.gather()
        except BadRequestError as error:
            return await refuse(self.plane, self.client, error)
        except ClientGoneError:
            return CLIENT_GONE
        return None

    async def try_each(self, decision: Decision, lost: Lost | None) -> Ending:
        """Go on after the first attempt was lost, or could not be made because its region is full."""
        plane, terms = self.plane, self.terms
        while (renew := lost is not None and lost.left) or len(self.tried) < terms.attempts_max:
            if lost is not None and not lost.may_retry(repeatable=self.repeatable, replayable=self.body.replayable):
                break
            attempt = lost.attempt if lost is not None and renew else self.untried(decision, afresh=lost is not None)
            if attempt is None:
                break
            steered = plane.steered(attempt.region, decision.reason)
            if lost is not None:
                if self.nest.time() >= self.ends_at:
                    return await self.fail(504, f"{lost.attempt.region}: out of time", "failed_504")
                if renew:
                    plane.counters["renewed"] += 1
                    steered = self.leg.steered
                elif terms.retries.spend(plane.now()):
                    plane.counters["retries"] += 1
                    reason = f"{attempt.tier}: {lost.attempt.region} {lost.outcome.name}"
                    steered = plane.steered(attempt.region, reason)
                else:
                    plane.counters["retries_denied"] += 1
                    break
            self.tried |= {attempt.endpoint}
            self._begin_again()
            course = Course(plane, self.head, self.client, decision, attempt, steered)
            result = await self._attempt(course, self.nest.time(), renew=renew)
            if isinstance(result, Ending):
                return result
            lost = result
        if lost is None:
            return await self.fail(503, "every region is full", "shed_503")
        count = f"{len(self.tried)} of {len(decision.attempts)} endpoints"
        text = f"{lost.attempt.region}: {lost.outcome.value}, after {count}"
        return await self.fail(lost.status, text, f"failed_{lost.status}")

    def _begin_again(self) -> None:
        self.uploaded = self.answered = self.relaying = False
        self.upload_fault = None
        self.deadline = math.inf

    def untried(self, decision: Decision, *, afresh: bool) -> Attempt | None:
        """What was not tried yet; `afresh`, whatever the node now thinks best comes first."""
        planned, self._planned = self._planned, None
        if planned is not None:
            return planned
        attempts = decision.attempts
        if afresh:
            attempts = self.plane.router.decide(self.request).attempts + attempts
        for attempt in attempts:
            if attempt.endpoint not in self.tried and not self.plane.share(attempt.region, decision.route).full:
                return attempt
        return None

    # --- one attempt

    async def _attempt(self, course: Course, began: float, *, renew: bool = False) -> Ending | Lost:
        plane, attempt, share, body = self.plane, course.attempt, course.share, self.body
        now = began
        if course.burdens:
            share.enter()
            self.burden = share
        upstream: Upstream | None = None
        try:
            upstream = None if renew else plane.pool.take(attempt.endpoint, now)
            if upstream is None:
                opened = await self._open(course, began)
                if not isinstance(opened, Upstream):
                    return opened
                upstream = opened
                now = self.nest.time()
            leg = self.leg = Leg(attempt, course.steered, began, upstream)
            try:
                left = upstream.send_now(course.request if body is NO_BODY else course.request + body.in_hand())
            except OSError:
                return await self.refused_while_sending()
            if left or not body.complete:
                return await converse(self, leg, course, left)
            self.uploaded = True
            self.waits_since = self.nest.clock()
            self.deadline = min(now + course.first_byte_seconds, self.ends_at)
            if course.watches:
                plane.sent(leg, course.watched, now)
            return await self.receive_response()
        except ClientGoneError:
            return CLIENT_GONE
        finally:
            if self.burden is not None:
                self.burden = None
                share.leave()
            if upstream is not None:
                plane.land(self.leg)

    def unburden(self) -> None:
        """It takes nothing of its region's window any more."""
        if (burden := self.burden) is not None:
            self.burden = None
            burden.leave()

    async def refused_while_sending(self) -> Ending | Lost:
        """A response may still lie in the socket (a refusal sent before the reset): reading finds it."""
        self.arm(self.first_byte_timeout_us)
        return await self.receive_response()

    async def _open(self, course: Course, began: float) -> Upstream | Ending | Lost:
        plane, attempt = self.plane, course.attempt
        timeout_us = self.left_us(self.terms.connect_timeout_us)
        # An answer takes a round trip, as a connect does; TLS takes one or two more.
        patience_us = course.watched.silence_us_max() * (2 if plane.pool.is_tls(attempt.endpoint) else 1)
        patient = patience_us >= timeout_us or not self._has_other(course.decision)
        try:
            return await plane.pool.open(attempt.endpoint, timeout_us if patient else patience_us)
        except OSError:
            return self.lose(attempt, Outcome.REFUSED, began, None)
        except trio.TooSlowError:
            if patient:
                return self.lose(attempt, Outcome.TIMEOUT, began, None)
            if course.watched.given_up(plane.listened_us(began)):
                return self.lose(attempt, Outcome.SILENT, began, None)
            self.observe(attempt, Outcome.LATE, began)
            return Lost(attempt, Outcome.LATE, unsent=True, answered=False)
        except ExhaustedError:
            return await self.fail(503, "out of connections", "shed_503")

    def _has_other(self, decision: Decision) -> bool:
        """Whether a request of which nothing was sent can be taken elsewhere."""
        untried = any(attempt.endpoint not in self.tried for attempt in decision.attempts)
        return untried and self.body.replayable and self._may_repeat()

    def _may_repeat(self) -> bool:
        """Whether one more may be asked, and the budget has it."""
        return len(self.tried) < self.terms.attempts_max and self.terms.retries.has(self.plane.now())

    def arm(self, timeout_us: int) -> None:
        """From now on it is the upstream's turn."""
        now = self.waits_since = self.nest.time()
        self.deadline = min(now + timeout_us / 1e6, self.ends_at)
        if self.waiting is not None:
            self.waiting.deadline = self.deadline

    def disarm(self) -> None:
        self.deadline = self.ends_at
        if self.waiting is not None:
            self.waiting.deadline = self.ends_at

    def left_us(self, timeout_us: int) -> int:
        """This long, or what is left of the policy's total."""
        if self.ends_at is math.inf:
            return timeout_us
        return max(1, min(timeout_us, int((self.ends_at - self.nest.time()) * 1e6)))

    # --- the response

    def lose_by(self, error: Exception) -> Lost:
        if isinstance(error, trio.TooSlowError):
            return self.lose_leg(self.leg, Outcome.TIMEOUT)
        if isinstance(error, BadResponseError):
            self.plane.counters[f"bad_response.{error.reason}"] += 1
            return self.lose_leg(self.leg, Outcome.SERVER_ERROR)
        return self.lose_leg(self.leg, Outcome.TRUNCATED if self.answered else Outcome.RESET)

    async def receive_response(self, wake: Wake | None = None, head: ResponseHead | None = None) -> Ending | Lost:
        """Wait for the answer, and pass it on. `wake` is how a wait for it has ended, if there was one already, and
        `head` what was there."""
        plane = self.plane
        try:
            fiber = self.nest.current
            if fiber is not None and not self.answered:
                upstream = self.leg.upstream
                hedge_at = math.inf
                if wake is None:
                    wake = _READY
                    if not upstream.ready and (self.leg.watched is not None or not self.head.fields.may_wait):
                        upstream.read_waiter = fiber
                        if self.terms.hedge_after_us:
                            hedge_at = hedging.hedge_at(self)
                        wake = await fiber.park(min(self.deadline, hedge_at))
                data = upstream.receive_now() if wake is _READY else None
                if data is None:
                    upstream.read_waiter = None
                    data = await hedging.race(self, fiber, wake, hedge_at)
                head = hear(self, data, self.nest.now)
            if head is None or head.status < 200:
                head = await receive_head(self, head)
            if fiber is None and self.waits_since >= 0:
                self.waited += self.nest.time() - self.waits_since
        except (trio.TooSlowError, OSError, BadResponseError) as error:
            return self.lose_by(error)
        leg = self.leg
        outcome = _OK if head.status < 500 else Outcome.SERVER_ERROR
        if leg.watched is not None and leg.watched.answered(available=head.status not in GATEWAY_ERRORS):
            outcome = Outcome.UNAVAILABLE
        self.observe(leg.attempt, outcome, leg.began)
        if head.load is not None:
            plane.told_of_load(leg, head.load)
        self.relaying = True
        if head.status == 101:
            return await relay_upgraded(self, leg, head)
        if head.status in GATEWAY_ERRORS and self._has_another():
            return Lost(leg.attempt, outcome, unsent=False, answered=False)
        if plane.cache is not None and self.head.method not in SAFE_METHODS:
            plane.cache.changed(self.head.host_name, self.head, head)
        if (turn := self.turn) is not None:
            stored = turn.answered(head, plane.wall_ms(), leg.attempt.region)
            if stored is not None:
                leg.upstream.reusable = head.status == 304 and head.keep_alive and not leg.upstream.reader.rest
                return await answer_stored(self, stored)
            head = with_status(head, turn.status.field(plane.site))
        upstream = leg.upstream
        data, upstream.reader.rest = upstream.reader.rest, b""
        if len(data) != head.content_length or (data and self.head.method == b"HEAD") or head.status == 304:
            return await relay(self, leg, head, data)
        # The usual answer: it is all there, and leaves in one write.
        if turn is not None:
            turn.take(data)
            turn.whole()
        keep = self.keeps()
        upstream.reusable = head.keep_alive and self.uploaded
        await self.respond(self.head_for_client(head, leg.steered, chunked=False, keep=keep) + data)
        return relayed(plane, leg, head, keep=keep)

    def _has_another(self) -> bool:
        """Whether a gateway error need not be the client's answer: another can be asked, and the budget has it."""
        if not (self.repeatable and self.uploaded and self.body.replayable and self._may_repeat()):
            return False
        # Kept for `untried`: to decide twice might take a half-open endpoint's trial and not use it.
        decision = self.plane.router.decide(self.request)
        self._planned = self.untried(decision, afresh=False)
        return self._planned is not None

    @property
    def first_byte_timeout_us(self) -> int:
        terms = self.terms
        return terms.waiting_timeout_us if self.head.fields.may_wait else terms.first_byte_timeout_us

    @property
    def body_timeout_us(self) -> int:
        """Between two reads of the response's body."""
        limits = self.limits
        return limits.events_idle_timeout_us if self.streams else limits.response_body_timeout_us

    def observe(self, attempt: Attempt, outcome: Outcome, began: float) -> None:
        if outcome is _OK:
            self.plane.regions[attempt.region].went_well()
        elif outcome in _NARROWS:
            self.plane.regions[attempt.region].went_badly(self.plane.now())
        heard_us = int((self.nest.time() - began) * 1e6)
        self.plane.router.observed(attempt, outcome, heard_us, self.nest.clock())

    def lose_leg(self, leg: Leg, outcome: Outcome) -> Lost:
        return self.lose(leg.attempt, outcome, leg.began, leg.upstream)

    def lose(self, attempt: Attempt, outcome: Outcome, began: float, upstream: Upstream | None) -> Lost:
        """Tell the node at once, so that no later decision leads there unknowingly; but not of a kept connection whose
        close crossed the request."""
        unsent = upstream is None or upstream.sent == 0
        if outcome is _RESET and upstream is not None and upstream.was_left(int((self.nest.time() - began) * 1e6)):
            self.plane.pool.discard_as_old(upstream)
            return Lost(attempt, outcome, unsent=unsent, answered=self.answered, left=True)
        self.plane.pool.discard(attempt.endpoint)
        self.observe(attempt, outcome, began)
        return Lost(attempt, outcome, unsent=unsent, answered=self.answered)


def serve(plane: Plane, client: Client, head: RequestHead) -> Coroutine[Any, Any, Ending]:
    """The way of this request from its head to its ending, to be awaited at once. What does not differ from the
    connection's last request goes the plain way, if that is open."""
    course, now = client.course, plane.nest.now
    if (
        course is not None
        and course.head is head
        and plane.nest.current is not None
        and plane.trial is None
        and now < course.until
        and course.epoch == plane.router.epoch()
        and (way := plain_way(plane, client, head, course, now, Exchange)) is not None
    ):
        return way
    return Exchange(plane, client, head).run()


def _port_of(client: Client) -> int:
    """Where the request arrived; 0 when the connection is gone meanwhile, or came by a Unix socket."""
    try:
        return 0 if client.sock.family == socket.AF_UNIX else int(client.sock.getsockname()[1])
    except OSError:
        return 0
