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
response came back. Never the same endpoint twice, and no more than a share of all requests.

While the first byte is awaited, the hang rule or lateness (`hang`) may nudge the exchange. Then a request that may be
repeated is sent to one more endpoint, whichever the node now thinks best; the first to answer has the request, and the
other's connection is closed.

Request and response flow at the same time only if the body did not fit the first write: then a child task uploads,
while this one already listens, for an upstream may answer early (413) or want to be asked (Expect: 100-continue).
"""

from __future__ import annotations

import enum
import logging
import math
import socket
from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import trio

from lattice.types import Endpoint, Micros
from router.cache.rules import SAFE_METHODS
from router.cache.stored import Stored
from router.cache.turn import Fetch, Turn
from router.decision.decide import Attempt, Decision, Request
from router.traffic.asking import asked
from router.traffic.cached import answer_of, turn_of, with_status
from router.traffic.forwarded import (
    WEBSOCKET,
    Steered,
    has_passed,
    own_response,
    response_for_client,
    server_timing,
)
from router.traffic.http1 import RequestHead, ResponseHead
from router.traffic.message_body import LAST_CHUNK, FramingError, LengthBody, UntilClose, chunk, response_framing
from router.traffic.nested_epoll import Fiber, Wake
from router.traffic.plane import Course, Leg, Plane
from router.traffic.request_body import NO_BODY, Client, ClientGoneError, RequestBody, Unheard
from router.traffic.steering import Outcome
from router.traffic.strict import BadRequestError, BadResponseError
from router.traffic.terms import Terms
from router.traffic.tunnel import tunnel
from router.traffic.upstream_pool import ExhaustedError, Upstream

GATEWAY_ERRORS: Final = frozenset({502, 503, 504})
"""An upstream's word that it, or who is behind it, could not serve: worth asking another for what may be repeated."""


class After(enum.Enum):
    """What becomes of the client's connection."""

    KEEP = enum.auto()
    CLOSE = enum.auto()
    """After the answer has safely arrived."""
    ABORT = enum.auto()
    """With a reset: the client must not take what it got for the whole."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended."""

    kind: str
    """The counter: "relayed_2xx" (… "5xx"), "cached", "uncached" (only a stored answer was wanted), "denied",
    "rejected_400" (…), "failed_502", "failed_504", "shed_503", "looped", "truncated", "client_gone", "abandoned" (cut
    off by the end of a drain) or "internal_error"."""
    after: After


_NARROWS: Final = frozenset({Outcome.REFUSED, Outcome.RESET, Outcome.TIMEOUT, Outcome.UNAVAILABLE})
_RELAYED: Final = tuple(
    (Ending(f"relayed_{hundreds}xx", After.CLOSE), Ending(f"relayed_{hundreds}xx", After.KEEP))
    for hundreds in range(2, 6)
)
CLIENT_GONE: Final = Ending("client_gone", After.ABORT)
_READY: Final = Wake.READY
_OK: Final = Outcome.OK
EXPECTED_AGAIN_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt that brought nothing to the client."""

    attempt: Attempt
    outcome: Outcome
    unsent: bool
    """Not one byte of the request was written."""
    answered: bool
    """Some byte of a response arrived."""

    def may_retry(self, *, repeatable: bool, replayable: bool) -> bool:
        return replayable and (self.unsent or (repeatable and not self.answered))

    @property
    def status(self) -> int:
        return 504 if self.outcome is Outcome.TIMEOUT else 502


class Exchange:
    """One request and its response. Run once."""

    _body: RequestBody = NO_BODY
    _planned: Attempt | None = None
    _tried: Set[Endpoint] = frozenset()
    _flushed = False  # some byte of the final response went to the client
    _writing = False  # a write to the client has begun and not ended
    _ends_at = math.inf  # by the policy's total timeout
    _turn: Turn | None = None  # at the cache
    _began = 0.0  # when its head was there
    _waits_since = -1.0  # when it became the upstream's turn
    _waited = 0.0  # how long it was
    # of the attempt under way:
    _uploaded = False  # the upstream has the whole request
    _answered = False  # some byte of a response came
    _relaying = False  # the final response's head came
    _upload_fault: BadRequestError | ClientGoneError | trio.TooSlowError | None = None
    _deadline = math.inf  # for the upstream's next byte before its response's body
    _waiting: trio.CancelScope | None = None

    _asked: Request | None = None
    _terms: Terms
    _leg: Leg

    def __init__(self, plane: Plane, client: Client, head: RequestHead) -> None:
        self._plane = plane
        self._nest = plane.nest
        self._limits = plane.limits
        self._client = client
        self._head = head
        if head.chunked or head.content_length:
            self._body = RequestBody(client, head, plane.limits)

    @property
    def _repeatable(self) -> bool:
        return self._head.method in self._terms.repeatable or self._head.fields.has_idempotency_key

    # --- from head to decision

    async def run(self) -> Ending:
        plane, client = self._plane, self._client
        if self._body is not NO_BODY and (refused := await self._take_body()) is not None:
            return refused
        now = self._began = self._nest.time()
        course = client.course
        if (
            course is None
            or course.head is not self._head
            or now >= course.until
            or course.epoch != plane.router.epoch()
        ):
            epoch = plane.router.epoch()
            if (course is None or course.fields is not self._head.fields) and has_passed(self._head, plane.site):
                return await self._answer(508, "this request came through this site before", "looped")
            decision = plane.router.decide(self._request)
            if decision.settings.cache is not None and plane.cache is not None:
                self._turn = turn_of(plane.cache, decision, plane.scheme_of(client, self._head), self._head)
                if self._turn is not None:
                    return await self._by_cache(self._turn, decision)
            if decision.region is None:
                return await self._answer(decision.status, decision.reason, "denied")
            if not decision.attempts:
                return await self._answer(502, "no endpoint to try", "failed_502")
            course = self._set_course(decision, epoch, now)
        terms = self._terms = course.terms
        terms.requests.add(Micros(int(now * 1e6)))
        if terms.total_timeout_us:
            self._ends_at = now + terms.total_timeout_us / 1e6
        if course.window.in_flight >= course.window.limit:
            return await self._try_each(course.decision, None)
        self._tried = course.tried
        result = await self._attempt(course, now)
        return result if isinstance(result, Ending) else await self._try_each(course.decision, result)

    def _set_course(self, decision: Decision, epoch: object, now: float) -> Course:
        """The connection's course for this decision: its last one, if that still is the way."""
        plane, client, head = self._plane, self._client, self._head
        plane.pool.expect(decision.attempts)
        course = client.course
        if course is None or course.decision is not decision or course.fields is not head.fields:
            attempt = decision.attempts[0]
            course = client.course = Course(plane, head, client, decision, attempt, decision.reason)
        if course.head is not head:
            course.take(head)
        course.epoch = epoch
        course.until = now + EXPECTED_AGAIN_SECONDS
        return course

    @property
    def _request(self) -> Request:
        """What the node is asked about; mostly it need not be."""
        if self._asked is None:
            needs = self._plane.router.needs
            port = _port_of(self._client) if needs.port else 0
            self._asked = asked(needs, self._head, self._plane.client_of(self._client, self._head), port)
        return self._asked

    async def _by_cache(self, turn: Turn, decision: Decision) -> Ending:
        """From what is stored, or through it."""
        plane = self._plane
        try:
            found = turn.look(plane.wall_ms())
            if isinstance(found, Fetch):
                await self._wait_for(found)
                found = turn.look(plane.wall_ms())
            if isinstance(found, Stored):
                if turn.revalidates:
                    plane.nest.start(self._refresh(found, decision))
                return await self._answer_stored(found)
            if turn.only_if_cached:
                return await self._answer(504, "not in the cache, and nobody else was to be asked", "uncached")
            if decision.region is None:
                return await self._fail(decision.status, decision.reason, "denied")
            return await self._ask(turn, decision)
        finally:
            turn.close()

    async def _ask(self, turn: Turn, decision: Decision) -> Ending:
        """Pass the request on, with what the cache wants to know."""
        self._head = turn.forward
        terms = self._terms = self._plane.terms.of(decision)
        terms.requests.add(self._plane.now())
        if terms.total_timeout_us:
            self._ends_at = self._nest.time() + terms.total_timeout_us / 1e6
        self._plane.pool.expect(decision.attempts)
        return await self._try_each(decision, None)

    async def _wait_for(self, fetch: Fetch) -> None:
        """Until somebody's fetch of the same is over, or has taken too long."""
        over = trio.Event()
        fetch.waiters.append(over.set)  # before anything is awaited: it may be over at any moment
        await self._nest.become_task()
        with trio.move_on_after(self._limits.collapse_timeout_us / 1e6):
            await over.wait()

    async def _refresh(self, stored: Stored, decision: Decision) -> None:
        """Ask again for what was given stale. Nobody waits for it."""
        plane, head = self._plane, self._head
        assert plane.cache is not None
        exchange = Exchange(plane, Unheard(self._client), head)
        exchange._asked = self._request
        turn = exchange._turn = turn_of(plane.cache, decision, plane.scheme_of(self._client, head), head)
        if turn is None or decision.region is None:
            return
        try:
            turn.lead(stored, plane.wall_ms())
            await exchange._ask(turn, decision)
        except Exception:  # noqa: BLE001 -- a bug met here must not take the process down; nobody else would hear of it
            plane.cache.counters["broken"] += 1
            _log.exception("internal error while asking again for %s", head.target.decode("ascii"))
        finally:
            turn.close()

    async def _answer_stored(self, stored: Stored) -> Ending:
        """End with a stored response."""
        plane, turn = self._plane, self._turn
        assert turn is not None
        head, body = answer_of(stored, turn.request, turn.status.field(plane.site), plane.wall_ms())
        keep = self._keeps()
        steered = plane.steered(stored.region, "cache")
        await self._nest.pause()  # as for our own answers
        try:
            await self._to_client(self._head_for_client(head, steered, chunked=False, keep=keep) + body)
        except ClientGoneError:
            return CLIENT_GONE
        return Ending("cached", After.KEEP if keep else After.CLOSE)

    async def _fail(self, status: int, text: str, kind: str) -> Ending:
        """Nobody could answer well: what is stored may stand in, or it ends with an answer of our own."""
        if self._turn is not None and (stored := self._turn.failed(self._plane.wall_ms())) is not None:
            return await self._answer_stored(stored)
        return await self._answer(status, text, kind)

    async def _take_body(self) -> Ending | None:
        """As much of the body as can be kept, before anybody is bothered with it."""
        body, head = self._body, self._head
        try:
            body.absorb()
            small = not head.chunked and (head.content_length or 0) <= self._limits.replay_bytes_max
            if small and not head.expects_continue:
                await body.gather()
        except BadRequestError as error:
            return await refuse(self._plane, self._client, error)
        except ClientGoneError:
            return CLIENT_GONE
        return None

    async def _try_each(self, decision: Decision, lost: Lost | None) -> Ending:
        """Go on after the first attempt was lost, or could not be made because its region is full."""
        plane, terms = self._plane, self._terms
        while len(self._tried) < terms.attempts_max:
            if lost is not None and not lost.may_retry(repeatable=self._repeatable, replayable=self._body.replayable):
                break
            attempt = self._next(decision, afresh=lost is not None)
            if attempt is None:
                break
            reason = decision.reason
            if lost is not None:
                if self._nest.time() >= self._ends_at:
                    return await self._fail(504, f"{lost.attempt.region}: out of time", "failed_504")
                if not terms.retries.spend(plane.now()):
                    plane.counters["retries_denied"] += 1
                    break
                plane.counters["retries"] += 1
                reason = f"{attempt.tier}: {lost.attempt.region} {lost.outcome.name}"
            self._tried |= {attempt.endpoint}
            self._begin_again()
            course = Course(plane, self._head, self._client, decision, attempt, reason)
            result = await self._attempt(course, self._nest.time())
            if isinstance(result, Ending):
                return result
            lost = result
        if lost is None:
            return await self._fail(503, "every region is full", "shed_503")
        count = f"{len(self._tried)} of {len(decision.attempts)} endpoints"
        text = f"{lost.attempt.region}: {lost.outcome.value}, after {count}"
        return await self._fail(lost.status, text, f"failed_{lost.status}")

    def _begin_again(self) -> None:
        self._uploaded = self._answered = self._relaying = False
        self._upload_fault = None
        self._deadline = math.inf

    def _next(self, decision: Decision, *, afresh: bool) -> Attempt | None:
        """What was not tried yet; `afresh`, whatever the node now thinks best comes first."""
        planned, self._planned = self._planned, None
        if planned is not None:
            return planned
        attempts = decision.attempts
        if afresh:
            attempts = self._plane.router.decide(self._request).attempts + attempts
        for attempt in attempts:
            if attempt.endpoint not in self._tried and not self._plane.region(attempt.region).full:
                return attempt
        return None

    # --- one attempt

    async def _attempt(self, course: Course, began: float) -> Ending | Lost:
        plane, attempt, window, body = self._plane, course.attempt, course.window, self._body
        now = began
        burdens = course.burdens
        window.in_flight += burdens
        upstream: Upstream | None = None
        try:
            upstream = plane.pool.take(attempt.endpoint, now)
            if upstream is None:
                opened = await self._open(attempt, began)
                if not isinstance(opened, Upstream):
                    return opened
                upstream = opened
                now = self._nest.time()
            leg = self._leg = Leg(attempt, course.steered, began, upstream)
            try:
                left = upstream.send_now(course.request if body is NO_BODY else course.request + body.in_hand())
            except OSError:
                # A response may still lie in the socket (a refusal sent before the reset): reading finds it.
                self._arm(self._first_byte_timeout_us)
                return await self._receive_response()
            if left or not body.complete:
                return await self._converse(leg, left)
            self._uploaded = True
            self._waits_since = plane.clock()
            self._deadline = min(now + self._first_byte_timeout_us / 1e6, self._ends_at)
            if burdens:
                plane.sent(leg, course.watched, now)
            return await self._receive_response()
        except ClientGoneError:
            return CLIENT_GONE
        finally:
            window.in_flight -= burdens
            if upstream is not None:
                self._land(self._leg)

    async def _open(self, attempt: Attempt, began: float) -> Upstream | Ending | Lost:
        try:
            return await self._plane.pool.open(attempt.endpoint, self._left_us(self._terms.connect_timeout_us))
        except OSError:
            return self._lose(attempt, Outcome.REFUSED, began, None)
        except trio.TooSlowError:
            return self._lose(attempt, Outcome.TIMEOUT, began, None)
        except ExhaustedError:
            return await self._fail(503, "out of connections", "shed_503")

    def _land(self, leg: Leg) -> None:
        if leg.awaited and leg.watched is not None:
            leg.watched.dropped(leg)
        self._plane.pool.release(leg.upstream, self._nest.time())

    async def _converse(self, leg: Leg, left: bytes | memoryview) -> Ending | Lost:
        """Request and response at the same time: the request did not fit the first write, or is not all here yet."""
        upstream, attempt = leg.upstream, leg.attempt
        if self._head.expects_continue:
            self._arm(self._first_byte_timeout_us)  # until the client sends, it is the upstream's turn
        result: Ending | Lost | None = None
        gone: ClientGoneError | None = None
        await self._nest.become_task()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upload, upstream, left, nursery.cancel_scope)
            try:
                result = await self._receive_response()
            except ClientGoneError as error:  # carried out by hand: a nursery would wrap it
                gone = error
            nursery.cancel_scope.cancel()
        if result is not None:
            return result
        fault = gone or self._upload_fault
        assert fault is not None, "only a fault stops the exchange early"
        if isinstance(fault, ClientGoneError) or self._flushed or self._writing:
            return CLIENT_GONE  # or as good as gone: nothing can follow half a message
        if isinstance(fault, trio.TooSlowError):
            return self._lose(attempt, Outcome.TIMEOUT, leg.began, upstream)
        return await refuse(self._plane, self._client, fault)

    async def _upload(self, upstream: Upstream, left: bytes | memoryview, exchange: trio.CancelScope) -> None:
        """Send the rest of the request as it arrives. Cancels `exchange` if nothing good can come of it any more."""
        try:
            await upstream.send(left, self._limits.upstream_write_timeout_us)
            timeout_us = self._limits.body_timeout_us
            if self._head.expects_continue:  # the client may wait to be asked, and the upstream's limit ends that
                timeout_us += self._first_byte_timeout_us
            while not self._body.complete:
                piece = await self._body.read(timeout_us)
                timeout_us = self._limits.body_timeout_us
                self._disarm()
                await upstream.send(piece, self._limits.upstream_write_timeout_us)
                if not self._body.complete:
                    await self._nest.pause()  # both ends may be faster than we are
            self._uploaded = True
        except OSError:
            pass  # the upstream wants no more; its response, or the loss, is met by the reader
        except (BadRequestError, ClientGoneError, trio.TooSlowError) as fault:
            late = isinstance(fault, trio.TooSlowError) or (isinstance(fault, BadRequestError) and fault.status == 408)
            if not (late and self._relaying):  # an early answer need not wait for the end of the request
                self._upload_fault = fault
                exchange.cancel()
        self._arm(self._first_byte_timeout_us)

    def _arm(self, timeout_us: int) -> None:
        """From now on it is the upstream's turn."""
        now = self._waits_since = self._nest.time()
        self._deadline = min(now + timeout_us / 1e6, self._ends_at)
        if self._waiting is not None:
            self._waiting.deadline = self._deadline

    def _disarm(self) -> None:
        self._deadline = self._ends_at
        if self._waiting is not None:
            self._waiting.deadline = self._ends_at

    def _left_us(self, timeout_us: int) -> int:
        """This long, or what is left of the policy's total."""
        if self._ends_at is math.inf:
            return timeout_us
        return max(1, min(timeout_us, int((self._ends_at - self._nest.time()) * 1e6)))

    # --- the response

    async def _receive_response(self) -> Ending | Lost:
        plane, leg = self._plane, self._leg
        try:
            head = None
            if (fiber := self._nest.current) is not None:
                upstream = leg.upstream
                wake = _READY
                hedge_at = math.inf
                if not upstream.ready:
                    upstream.read_waiter = fiber
                    if self._terms.hedge_after_us:
                        hedge_at = self._hedge_at()
                    wake = await fiber.park(min(self._deadline, hedge_at))
                data = upstream.receive_now() if wake is _READY else None
                if data is None:
                    upstream.read_waiter = None
                    data = await self._race(fiber, wake, hedge_at)
                    leg = self._leg
                if not data:
                    raise ConnectionResetError("closed before the first byte")
                now = self._nest.time()
                if leg.watched is not None:
                    leg.awaited = False
                    leg.watched.heard(leg, plane.listened_us(now))
                self._waited += now - self._waits_since
                self._answered = True
                reader = leg.upstream.reader
                reader.receive(data)
                head = reader.next_head()
            if head is None or head.status < 200:
                head = await self._receive_head(head)
            if fiber is None and self._waits_since >= 0:
                self._waited += self._nest.time() - self._waits_since
        except trio.TooSlowError:
            return self._lose_leg(self._leg, Outcome.TIMEOUT)
        except OSError:
            return self._lose_leg(self._leg, Outcome.TRUNCATED if self._answered else Outcome.RESET)
        except BadResponseError as error:
            plane.counters[f"bad_response.{error.reason}"] += 1
            return self._lose_leg(self._leg, Outcome.SERVER_ERROR)
        outcome = _OK if head.status < 500 else Outcome.SERVER_ERROR
        if leg.watched is not None and leg.watched.answered(available=head.status not in GATEWAY_ERRORS):
            outcome = Outcome.UNAVAILABLE
        self._observe(leg.attempt, outcome, leg.began)
        if head.load is not None:
            plane.told_of_load(leg, head.load)
        if head.status == 101:
            return await self._tunnel(leg, head)
        if head.status in GATEWAY_ERRORS and self._has_another():
            return Lost(leg.attempt, outcome, unsent=False, answered=False)
        if plane.cache is not None and self._head.method not in SAFE_METHODS:
            plane.cache.changed(self._head.host_name, self._head, head)
        if (turn := self._turn) is not None:
            stored = turn.answered(head, plane.wall_ms(), leg.attempt.region)
            if stored is not None:
                leg.upstream.reusable = head.status == 304 and head.keep_alive and not leg.upstream.reader.rest
                return await self._answer_stored(stored)
            head = with_status(head, turn.status.field(plane.site))
        upstream = leg.upstream
        data, upstream.reader.rest = upstream.reader.rest, b""
        if len(data) != head.content_length or (data and self._head.method == b"HEAD") or head.status == 304:
            return await self._relay(leg, head, data)
        # The usual answer: it is all there, and leaves in one write.
        self._relaying = self._flushed = True
        keep = self._keeps()
        upstream.reusable = head.keep_alive and self._uploaded
        if turn is not None:
            turn.take(data)
            turn.whole()
        await self._to_client(self._head_for_client(head, leg.steered, chunked=False, keep=keep) + data)
        return self._relayed(leg, head, keep=keep)

    def _has_another(self) -> bool:
        """Whether a gateway error need not be the client's answer: another can be asked, and the budget has it."""
        if not (self._repeatable and self._uploaded and self._body.replayable) or self._flushed or self._writing:
            return False
        if len(self._tried) >= self._terms.attempts_max or self._nest.time() >= self._ends_at:
            return False
        if not self._terms.retries.has(self._plane.now()):
            return False
        # Kept for `_next`: to decide twice might take a half-open endpoint's trial and not use it.
        decision = self._plane.router.decide(self._request)
        self._planned = self._next(decision, afresh=False)
        return self._planned is not None

    async def _receive_head(self, head: ResponseHead | None) -> ResponseHead:
        """The final response's head; interim ones, `head` perhaps the first, are passed on (RFC 9110 15.2)."""
        upstream = self._leg.upstream
        reader = upstream.reader
        interim = 0
        begun = False
        while True:
            if head is None and reader.rest:
                head = reader.next_head()
            if head is None:
                if reader.rest and not begun:
                    begun = True
                    self._arm(self._limits.response_head_timeout_us)
                data = await self._receive_within_deadline(upstream)
                if not data:
                    raise ConnectionResetError("closed before the end of the head")
                self._answered = True
                reader.receive(data)
            elif head.status >= 200 or (head.status == 101 and self._head.websocket and _is_websocket(head)):
                return head
            else:
                begun = False
                interim += 1
                if head.status == 101 or interim > self._limits.interim_max:
                    raise BadResponseError("unwanted interim response")
                if self._head.minor == 1:
                    await self._to_client(response_for_client(head, self._leg.steered, b"", b"", b""))
                if self._uploaded:
                    self._arm(self._first_byte_timeout_us)
                else:
                    self._disarm()
                head = None

    async def _race(self, fiber: Fiber, wake: Wake, hedge_at: float) -> bytes:
        """A response's first bytes, from whichever leg has them first; that one is `self._leg` from then on.

        `wake` is how the first wait ended. b"" if the last connection is over.
        """
        rival: Leg | None = None
        try:
            while True:
                leg = self._leg
                nudged = wake is Wake.NUDGED  # look first: it may be we who have not yet read what came long ago
                data = _peek_at(leg.upstream) if nudged or leg.upstream.ready else None
                if data or (data is not None and rival is None):
                    return data
                if rival is not None:
                    if data is not None:
                        self._lose_leg(leg, Outcome.RESET)
                        self._land(leg)
                        self._leg, rival = rival, None
                        continue
                    data = _peek_at(rival.upstream) if nudged or rival.upstream.ready else None
                    if data:
                        self._observe(leg.attempt, Outcome.OUTRUN, leg.began)
                        self._plane.counters["hedges_won"] += 1
                        self._leg, rival = rival, None
                        self._land(leg)
                        return data
                    if data is not None:
                        self._lose_leg(rival, Outcome.RESET)
                        self._land(rival)
                        rival = None
                due = wake is Wake.LATE and hedge_at < self._deadline
                if wake is Wake.LATE and not due:
                    raise trio.TooSlowError
                if due:
                    hedge_at = math.inf
                # Who is late by the region's p99 is hedged then, unless the policy says when.
                late = due or (nudged and not self._terms.hedge_after_us)
                if (late and rival is None) or (nudged and leg.hung):
                    another = await self._hedge(leg)
                    wake = _READY
                    if another is not None and rival is not None:  # two legs are enough: the one that hangs goes
                        self._observe(leg.attempt, Outcome.OUTRUN, leg.began)
                        self._land(leg)
                        self._leg = rival
                    rival = another or rival
                    continue
                leg.upstream.read_waiter = fiber
                if rival is not None:
                    rival.upstream.read_waiter = fiber
                wake = await fiber.park(min(self._deadline, hedge_at))
                leg.upstream.read_waiter = None
                if rival is not None:
                    rival.upstream.read_waiter = None
        finally:
            if rival is not None:
                self._observe(rival.attempt, Outcome.OUTRUN, rival.began)
                self._land(rival)

    def _hedge_at(self) -> float:
        """When another endpoint is to be asked because the policy says so."""
        if self._head.fields.may_wait or self._head.websocket:
            return math.inf
        return self._nest.time() + self._terms.hedge_after_us / 1e6

    async def _hedge(self, late: Leg) -> Leg | None:
        """Ask one more endpoint, if the request may be repeated and the budget allows it."""
        plane, limits = self._plane, self._limits
        # A hedge that the policy asks for is beside its retries; any other repeat is one of them.
        asked_for = self._terms.hedge_after_us and not late.hung
        if (
            not (self._repeatable and self._uploaded and self._body.replayable)
            or len(self._tried) >= (limits.attempts_max if asked_for else self._terms.attempts_max)
            or self._nest.time() >= self._ends_at
        ):
            return None
        decision = plane.router.decide(self._request)  # by now the node may know better
        # Another region first: if this one hangs, and nobody knows yet, its other endpoints are no rescue.
        elsewhere = [attempt for attempt in decision.attempts if attempt.region != late.attempt.region]
        attempt = self._next(decision._replace(attempts=(*elsewhere, *decision.attempts)), afresh=False)
        if attempt is None:
            return None
        if not (self._terms.retries if late.hung else self._terms.hedges).spend(plane.now()):
            plane.counters["hedges_denied"] += 1
            return None
        self._tried |= {attempt.endpoint}
        plane.counters["hedges"] += 1
        began = self._nest.time()
        reason = f"{attempt.tier}: {late.attempt.region} {'HUNG' if late.hung else 'LATE'}"
        course = Course(plane, self._head, self._client, decision, attempt, reason)
        try:
            upstream = await plane.pool.acquire(attempt.endpoint, limits.hedge_connect_timeout_us)
        except OSError:
            self._lose(attempt, Outcome.REFUSED, began, None)
            return None
        except trio.TooSlowError:
            self._lose(attempt, Outcome.TIMEOUT, began, None)
            return None
        except ExhaustedError:
            return None
        leg = Leg(attempt, course.steered, began, upstream)
        try:
            left = upstream.send_now(course.request + self._body.in_hand())
        except OSError:
            self._lose_leg(leg, Outcome.RESET)
            left = b"all"
        if left:  # nobody else's turn to be waited for
            plane.pool.release(upstream, began)
            return None
        plane.sent(leg, course.watched, self._nest.time())
        return leg

    async def _receive_within_deadline(self, upstream: Upstream) -> bytes:
        while True:
            if (fiber := self._nest.current) is None:
                with trio.CancelScope(deadline=self._deadline) as self._waiting:
                    await trio.lowlevel.wait_readable(upstream.sock)
                if self._waiting.cancelled_caught:
                    raise trio.TooSlowError
            elif not upstream.ready:
                upstream.read_waiter = fiber
                if await fiber.park(self._deadline) is Wake.LATE:
                    upstream.read_waiter = None
                    raise trio.TooSlowError
            data = upstream.receive_now()
            if data is not None:
                return data

    async def _relay(self, leg: Leg, head: ResponseHead, data: bytes) -> Ending:
        """Pass on an answer of any framing as it comes; `data` is what came of it behind its head."""
        upstream = leg.upstream
        self._relaying = True
        framing = response_framing(head, self._head.method)
        unbounded = not framing.complete and not isinstance(framing, LengthBody)
        chunked = unbounded and self._head.minor == 1
        keep = self._keeps() and not (unbounded and not chunked)
        out = [self._head_for_client(head, leg.steered, chunked=chunked, keep=keep)]
        looked = False
        try:
            while True:
                payload, surplus = framing.feed(data)
                if payload:
                    if self._turn is not None:
                        self._turn.take(payload)
                    out.append(chunk(payload) if chunked else payload)
                if framing.complete:
                    break
                # A small body often arrives right behind its head: look once, and both leave in one write.
                more = None if looked else upstream.receive_now()
                looked = True
                if more is None:
                    self._flushed = True
                    await self._to_client(b"".join(out))
                    out.clear()
                    await self._nest.pause()
                    more = await upstream.receive(self._left_us(self._body_timeout_us))
                if not more:
                    if framing.end():
                        break
                    raise FramingError("closed before the end of the body")
                data = more
        except (FramingError, OSError, trio.TooSlowError):
            self._observe(leg.attempt, Outcome.TRUNCATED, leg.began)
            if not self._flushed:
                return await self._fail(502, f"{leg.attempt.region}: {Outcome.TRUNCATED.value}", "failed_502")
            # A body that ends with the connection would look whole after an orderly close.
            return Ending("truncated", After.ABORT if unbounded and not chunked else After.CLOSE)
        if self._turn is not None and not isinstance(framing, UntilClose):  # cut off, that would look whole
            self._turn.whole()
        if chunked:
            out.append(LAST_CHUNK)
        upstream.reusable = head.keep_alive and self._uploaded and not surplus and not isinstance(framing, UntilClose)
        self._flushed = True
        await self._to_client(b"".join(out))
        return self._relayed(leg, head, keep=keep)

    def _relayed(self, leg: Leg, head: ResponseHead, *, keep: bool) -> Ending:
        self._plane.counters[_region_counter(leg.attempt.region)] += 1
        return _RELAYED[head.status // 100 - 2][keep]

    async def _tunnel(self, leg: Leg, head: ResponseHead) -> Ending:
        """The upstream speaks WebSocket from here on."""
        client, upstream = self._client, leg.upstream
        self._flushed = True
        early, client.reader.rest = client.reader.rest, b""
        late, upstream.reader.rest = upstream.reader.rest, b""
        await self._to_client(response_for_client(head, leg.steered, WEBSOCKET, b"", b"") + late)
        self._plane.counters[_region_counter(leg.attempt.region)] += 1
        await tunnel(client, upstream, early, self._nest, self._limits)
        return Ending("relayed_1xx", After.CLOSE)

    def _head_for_client(self, head: ResponseHead, steered: Steered, *, chunked: bool, keep: bool) -> bytes:
        connection = b"close" if not keep else b"keep-alive" if self._head.minor == 0 else b""
        edge_us = int((self._plane.clock() - self._began - self._waited) * 1e6)
        known = head.fields.for_client
        if known is not None and known[0] is steered and known[1] == connection and not chunked:
            return known[2] + server_timing(edge_us)
        framing = b""
        if chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif head.content_length is not None and head.status != 204:
            framing = b"Content-Length: %d\r\n" % head.content_length
        rendered = response_for_client(head, steered, framing, connection, self._plane.date())[:-2]
        if head.fields.dated and not chunked:
            head.fields.for_client = steered, connection, rendered
        return rendered + server_timing(edge_us)

    # --- what all of them need

    @property
    def _first_byte_timeout_us(self) -> int:
        terms = self._terms
        return terms.waiting_timeout_us if self._head.fields.may_wait else terms.first_byte_timeout_us

    @property
    def _body_timeout_us(self) -> int:
        """Between two reads of the response's body."""
        limits = self._limits
        return limits.events_idle_timeout_us if self._head.fields.may_wait else limits.response_body_timeout_us

    def _keeps(self) -> bool:
        """Whether the client's connection can serve another request: its bytes must be where the next one begins."""
        return self._head.keep_alive and self._body.complete and not self._plane.draining

    async def _answer(self, status: int, text: str, kind: str) -> Ending:
        """End with a response of our own."""
        keep = self._keeps()
        response = own_response(
            status,
            text,
            Steered(self._plane.site, None, text),
            self._plane.date(),
            keep_alive=keep,
            minor=self._head.minor,
            method=self._head.method,
        )
        await self._nest.pause()  # nothing else need have waited: pipelined requests must not starve the rest
        try:
            await self._to_client(response)
        except ClientGoneError:
            return CLIENT_GONE
        return Ending(kind, After.KEEP if keep else After.CLOSE)

    async def _to_client(self, data: bytes | memoryview) -> None:
        self._writing = True
        try:
            if left := self._client.send_now(data):
                await self._client.send(
                    left, self._limits.client_write_timeout_us, self._limits.rate_bytes_per_second_min
                )
        except (OSError, trio.TooSlowError):
            raise ClientGoneError from None
        self._writing = False

    def _observe(self, attempt: Attempt, outcome: Outcome, began: float) -> None:
        if outcome is _OK:
            self._plane.regions[attempt.region].went_well()
        elif outcome in _NARROWS:
            self._plane.regions[attempt.region].went_badly(self._plane.now())
        self._plane.router.observed(attempt, outcome, int((self._nest.time() - began) * 1e6))

    def _lose_leg(self, leg: Leg, outcome: Outcome) -> Lost:
        return self._lose(leg.attempt, outcome, leg.began, leg.upstream)

    def _lose(self, attempt: Attempt, outcome: Outcome, began: float, upstream: Upstream | None) -> Lost:
        """Tell the node at once, so that no later decision leads there unknowingly."""
        self._plane.pool.discard(attempt.endpoint)
        self._observe(attempt, outcome, began)
        return Lost(attempt, outcome, unsent=upstream is None or upstream.sent == 0, answered=self._answered)


def _peek_at(upstream: Upstream) -> bytes | None:
    """What has arrived; b"" if the connection is over, in whatever way."""
    try:
        return upstream.receive_now()
    except OSError:
        return b""


def _port_of(client: Client) -> int:
    """Where the request arrived; 0 when the connection is gone meanwhile, or came by a Unix socket."""
    try:
        return 0 if client.sock.family == socket.AF_UNIX else int(client.sock.getsockname()[1])
    except OSError:
        return 0


def _is_websocket(head: ResponseHead) -> bool:
    return [value.lower() for key, _, value in head.fields if key == b"upgrade"] == [b"websocket"]


@lru_cache(maxsize=1024)
def _region_counter(region: str) -> str:
    return f"region.{region}"


async def refuse(plane: Plane, client: Client, error: BadRequestError) -> Ending:
    """Answer a request that cannot be served, and close: its connection cannot be understood any further."""
    plane.counters[f"reason.{error.reason}"] += 1
    steered = Steered(plane.site, None, error.reason)
    response = own_response(error.status, error.reason, steered, plane.date(), keep_alive=False)
    try:
        await client.send(response, plane.limits.client_write_timeout_us)
    except (OSError, trio.TooSlowError):
        return CLIENT_GONE
    return Ending(f"rejected_{error.status}", After.CLOSE)
