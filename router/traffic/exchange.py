"""The life of one request, from its judged head to its one counted ending.

    absorb/gather   the body, if it came along or is small enough to keep
    decide          the node says where to; denied requests end here
    attempt         acquire a connection, send head and body, wait for the response's head
      lost?         tell the node, and try the next endpoint if nothing can have happened twice
    relay           the response, as fast as the client takes it
    ending          exactly one, counted by whoever runs the exchange

The retry rule (RFC 9110 9.2.2): the body must still be in hand, and either no byte of the request was written to the
lost connection, or the method is idempotent and no byte of a response came back. Never the same endpoint twice.

Request and response flow at the same time only if the body did not fit the first write: then a child task uploads,
while this one already listens, for an upstream may answer early (413) or want to be asked (Expect: 100-continue).
"""

from __future__ import annotations

import enum
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final

import trio

from router.decision.decide import Attempt, Decision, Request
from router.traffic.forwarded import Steered, has_passed, own_response, request_for_upstream, response_for_client
from router.traffic.http1 import RequestHead, ResponseHead
from router.traffic.message_body import LAST_CHUNK, FramingError, LengthBody, UntilClose, chunk, response_framing
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.request_body import Client, ClientGoneError, RequestBody
from router.traffic.steering import Outcome, Router
from router.traffic.strict import BadRequestError, BadResponseError
from router.traffic.upstream_pool import ExhaustedError, Upstream, UpstreamPool

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})
"""RFC 9110 9.2.2."""


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
    """The counter: "relayed_2xx" (… "5xx"), "denied", "rejected_400" (…), "failed_502", "failed_504", "shed_503",
    "looped", "truncated", "client_gone", "abandoned" (cut off by the end of a drain) or "internal_error"."""
    after: After


CLIENT_GONE: Final = Ending("client_gone", After.ABORT)


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt that brought nothing to the client."""

    attempt: Attempt
    outcome: Outcome
    unsent: bool
    """Not one byte of the request was written."""
    answered: bool
    """Some byte of a response arrived."""

    def may_retry(self, method: bytes, *, replayable: bool) -> bool:
        return replayable and (self.unsent or (method in IDEMPOTENT and not self.answered))

    @property
    def status(self) -> int:
        return 504 if self.outcome is Outcome.TIMEOUT else 502


@dataclass(slots=True)
class Plane:
    """What all exchanges of a process share."""

    router: Router
    site: str
    limits: ProxyLimits
    pool: UpstreamPool
    counters: Counter[str] = field(default_factory=Counter)
    draining: bool = False
    _date: tuple[int, bytes] = (0, b"")

    def date(self) -> bytes:
        """Now, as HTTP writes it."""
        second = int(time.time())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode("ascii"))
        return self._date[1]


class Exchange:
    """One request and its response. Run once."""

    def __init__(self, plane: Plane, client: Client, head: RequestHead) -> None:
        self._plane = plane
        self._limits = plane.limits
        self._client = client
        self._head = head
        self._body = RequestBody(client, head, plane.limits)
        self._flushed = False  # some byte of the final response went to the client
        self._writing = False  # a write to the client has begun and not ended
        self._begin_attempt()

    def _begin_attempt(self) -> None:
        self._uploaded = False  # the upstream has the whole request
        self._answered = False  # some byte of a response came
        self._relaying = False  # the final response's head came
        self._upload_fault: BadRequestError | ClientGoneError | trio.TooSlowError | None = None
        self._deadline = math.inf  # for the upstream's next byte before its response's body
        self._waiting: trio.CancelScope | None = None

    # --- from head to decision

    async def run(self) -> Ending:
        head, body = self._head, self._body
        try:
            body.absorb()
            small = not head.chunked and (head.content_length or 0) <= self._limits.replay_bytes_max
            if small and not head.expects_continue:
                await body.gather()
        except BadRequestError as error:
            return await refuse(self._plane, self._client, error)
        except ClientGoneError:
            return CLIENT_GONE
        if has_passed(head, self._plane.site):
            return await self._answer(508, "this request came through this site before", "looped")
        decision = self._plane.router.decide(
            Request(self._client.address, head.host_name, head.path, head.method.decode("ascii"))
        )
        if decision.region is None:
            return await self._answer(decision.status, decision.reason, "denied")
        return await self._try_each(decision)

    async def _try_each(self, decision: Decision) -> Ending:
        tried: set[tuple[str, int]] = set()
        lost: Lost | None = None
        for attempt in decision.attempts:
            if attempt.endpoint in tried:
                continue
            if len(tried) == self._limits.attempts_max:
                break
            if lost is not None:
                self._plane.counters["retries"] += 1
            tried.add(attempt.endpoint)
            reason = decision.reason if lost is None else f"{attempt.tier}: {lost.attempt.region} {lost.outcome.name}"
            try:
                result = await self._attempt(attempt, Steered(self._plane.site, attempt.region, reason))
            except ExhaustedError:
                return await self._answer(503, "out of connections", "shed_503")
            if isinstance(result, Ending):
                return result
            lost = result
            if not lost.may_retry(self._head.method, replayable=self._body.replayable):
                break
        if lost is None:
            return await self._answer(502, "no endpoint to try", "failed_502")
        text = f"{lost.attempt.region}: {lost.outcome.value}, after {len(tried)} of {len(decision.attempts)} endpoints"
        return await self._answer(lost.status, text, f"failed_{lost.status}")

    # --- one attempt

    async def _attempt(self, attempt: Attempt, steered: Steered) -> Ending | Lost:
        self._begin_attempt()
        began = trio.current_time()
        try:
            upstream = await self._plane.pool.acquire(attempt.endpoint)
        except OSError:
            return self._lose(attempt, Outcome.REFUSED, began, None)
        except trio.TooSlowError:
            return self._lose(attempt, Outcome.TIMEOUT, began, None)
        try:
            return await self._converse(upstream, attempt, steered, began)
        except ClientGoneError:
            return CLIENT_GONE
        finally:
            self._plane.pool.release(upstream)

    async def _converse(self, upstream: Upstream, attempt: Attempt, steered: Steered, began: float) -> Ending | Lost:
        head = request_for_upstream(self._head, self._client.address, attempt.endpoint, steered)
        try:
            left = upstream.send_now(head + self._body.in_hand())
        except OSError:
            # A response may still lie in the socket (a refusal sent before the reset). Reading finds it, or the loss.
            self._arm(self._limits.first_byte_timeout_us)
            return await self._receive_response(upstream, attempt, steered, began)
        if not left and self._body.complete:
            self._uploaded = True
            self._arm(self._limits.first_byte_timeout_us)
            return await self._receive_response(upstream, attempt, steered, began)
        if self._head.expects_continue:
            self._arm(self._limits.first_byte_timeout_us)  # until the client sends, it is the upstream's turn
        result: Ending | Lost | None = None
        gone: ClientGoneError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upload, upstream, left, nursery.cancel_scope)
            try:
                result = await self._receive_response(upstream, attempt, steered, began)
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
            return self._lose(attempt, Outcome.TIMEOUT, began, upstream)
        return await refuse(self._plane, self._client, fault)

    async def _upload(self, upstream: Upstream, left: bytes | memoryview, exchange: trio.CancelScope) -> None:
        """Send the rest of the request as it arrives. Cancels `exchange` if nothing good can come of it any more."""
        try:
            await upstream.send(left, self._limits.upstream_write_timeout_us)
            timeout_us = self._limits.body_timeout_us
            if self._head.expects_continue:  # the client may wait to be asked, and the upstream's limit ends that
                timeout_us += self._limits.first_byte_timeout_us
            while not self._body.complete:
                piece = await self._body.read(timeout_us)
                timeout_us = self._limits.body_timeout_us
                self._disarm()
                await upstream.send(piece, self._limits.upstream_write_timeout_us)
                if not self._body.complete:
                    await trio.lowlevel.checkpoint()  # both ends may be faster than we are
            self._uploaded = True
        except OSError:
            pass  # the upstream wants no more; its response, or the loss, is met by the reader
        except (BadRequestError, ClientGoneError, trio.TooSlowError) as fault:
            late = isinstance(fault, trio.TooSlowError) or (isinstance(fault, BadRequestError) and fault.status == 408)
            if not (late and self._relaying):  # an early answer need not wait for the end of the request
                self._upload_fault = fault
                exchange.cancel()
        self._arm(self._limits.first_byte_timeout_us)

    def _arm(self, timeout_us: int) -> None:
        """From now on it is the upstream's turn."""
        self._deadline = trio.current_time() + timeout_us / 1e6
        if self._waiting is not None:
            self._waiting.deadline = self._deadline

    def _disarm(self) -> None:
        self._deadline = math.inf
        if self._waiting is not None:
            self._waiting.deadline = math.inf

    # --- the response

    async def _receive_response(
        self, upstream: Upstream, attempt: Attempt, steered: Steered, began: float
    ) -> Ending | Lost:
        try:
            head = await self._receive_head(upstream, steered)
        except trio.TooSlowError:
            return self._lose(attempt, Outcome.TIMEOUT, began, upstream)
        except OSError:
            return self._lose(attempt, Outcome.TRUNCATED if self._answered else Outcome.RESET, began, upstream)
        except BadResponseError as error:
            self._plane.counters[f"bad_response.{error.reason}"] += 1
            return self._lose(attempt, Outcome.SERVER_ERROR, began, upstream)
        self._observe(attempt, Outcome.SERVER_ERROR if head.status >= 500 else Outcome.OK, began)
        return await self._relay(upstream, head, attempt, steered, began)

    async def _receive_head(self, upstream: Upstream, steered: Steered) -> ResponseHead:
        """The final response's head; interim ones are passed on (RFC 9110 15.2)."""
        reader = upstream.reader
        interim = 0
        begun = False
        while True:
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
            elif head.status >= 200:
                return head
            else:
                begun = False
                interim += 1
                if head.status == 101 or interim > self._limits.interim_max:
                    raise BadResponseError("unwanted interim response")
                if self._head.minor == 1:
                    await self._to_client(response_for_client(head, steered, b"", b"", b""))
                if self._uploaded:
                    self._arm(self._limits.first_byte_timeout_us)
                else:
                    self._disarm()

    async def _receive_within_deadline(self, upstream: Upstream) -> bytes:
        while True:
            with trio.CancelScope(deadline=self._deadline) as self._waiting:
                await trio.lowlevel.wait_readable(upstream.sock)
            if self._waiting.cancelled_caught:
                raise trio.TooSlowError
            data = upstream.receive_now()
            if data is not None:
                return data

    async def _relay(
        self, upstream: Upstream, head: ResponseHead, attempt: Attempt, steered: Steered, began: float
    ) -> Ending:
        self._relaying = True
        framing = response_framing(head, self._head.method)
        unbounded = not framing.complete and not isinstance(framing, LengthBody)
        chunked = unbounded and self._head.minor == 1
        keep = self._keeps() and not (unbounded and not chunked)
        out = [self._head_for_client(head, steered, chunked=chunked, keep=keep)]
        data, upstream.reader.rest = upstream.reader.rest, b""
        looked = False
        try:
            while True:
                payload, surplus = framing.feed(data)
                if payload:
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
                    await trio.lowlevel.checkpoint()
                    more = await upstream.receive(self._limits.response_body_timeout_us)
                if not more:
                    if framing.end():
                        break
                    raise FramingError("closed before the end of the body")
                data = more
        except (FramingError, OSError, trio.TooSlowError):
            self._observe(attempt, Outcome.TRUNCATED, began)
            if not self._flushed:
                return await self._answer(502, f"{attempt.region}: {Outcome.TRUNCATED.value}", "failed_502")
            # A body that ends with the connection would look whole after an orderly close.
            return Ending("truncated", After.ABORT if unbounded and not chunked else After.CLOSE)
        if chunked:
            out.append(LAST_CHUNK)
        upstream.reusable = head.keep_alive and self._uploaded and not surplus and not isinstance(framing, UntilClose)
        self._flushed = True
        await self._to_client(b"".join(out))
        self._plane.counters[f"region.{attempt.region}"] += 1
        return Ending(f"relayed_{head.status // 100}xx", After.KEEP if keep else After.CLOSE)

    def _head_for_client(self, head: ResponseHead, steered: Steered, *, chunked: bool, keep: bool) -> bytes:
        framing = b""
        if chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif head.content_length is not None and head.status != 204:
            framing = b"Content-Length: %d\r\n" % head.content_length
        connection = b"close" if not keep else b"keep-alive" if self._head.minor == 0 else b""
        return response_for_client(head, steered, framing, connection, self._plane.date())

    # --- what all of them need

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
        await trio.lowlevel.checkpoint()  # nothing else need have waited: pipelined requests must not starve the rest
        try:
            await self._to_client(response)
        except ClientGoneError:
            return CLIENT_GONE
        return Ending(kind, After.KEEP if keep else After.CLOSE)

    async def _to_client(self, data: bytes) -> None:
        self._writing = True
        try:
            await self._client.send(data, self._limits.client_write_timeout_us)
        except (OSError, trio.TooSlowError):
            raise ClientGoneError from None
        self._writing = False

    def _observe(self, attempt: Attempt, outcome: Outcome, began: float) -> None:
        self._plane.router.observed(attempt, outcome, int((trio.current_time() - began) * 1e6))

    def _lose(self, attempt: Attempt, outcome: Outcome, began: float, upstream: Upstream | None) -> Lost:
        """Tell the node at once, so that no later decision leads there unknowingly."""
        self._plane.pool.discard(attempt.endpoint)
        self._observe(attempt, outcome, began)
        return Lost(attempt, outcome, unsent=upstream is None or upstream.sent == 0, answered=self._answered)


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
