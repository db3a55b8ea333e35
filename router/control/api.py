"""The control API: what a node says of itself, and the two things it may be told (policy and health signals).

Handlers check everything about a request, ask the `ControlTarget`, and answer JSON. Whatever is wrong with a request
is a 4xx with `{"error", "path", "remedy"}` or diagnostics, and is counted under `control_refused_*`.

    GET  /v1/view                              all that is known
    GET  /v1/decide?client=&host=&path=        what would happen to such a request now
    POST /v1/policy?policy=&message=           publish: text/plain, or ops signed elsewhere
    GET  /v1/policy/head?policy=&author=       what composing those ops starts from
    GET  /v1/policy/versions?policy=           the versions that stand: more than one after concurrent publishes
    GET  /v1/policy/ops                        every signed op, for whoever shortens a chain: msgpack
    POST /v1/rollouts?policy=                  ops, as POST /v1/policy takes them; controllers may bring them here
    POST /v1/revocations                       keys that the CA takes back, each as it signed it: msgpack
    POST /v1/purges                            what is cached of some paths is wrong, as its author signed it: msgpack
    GET  /v1/keys                              the cluster's keys by id, and which peers lag behind
    POST /update                               a health signal
    GET  /snapshot                             the signals, as folded in
    GET  /policy?policy=&version=              the text in force, or of any version that is here
    GET  /healthz                              this process answers
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Collection
from contextlib import aclosing
from typing import Annotated

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lattice.errors import LatticeError
from lattice.policy_content import MESSAGE_LENGTH_MAX, check_policy_name
from lattice.policy_ops import OP_BYTES_MAX
from lattice.types import AuthorId, VersionId
from router.control.answers import (
    decision_body,
    head_body,
    keys_body,
    proof_of,
    published_body,
    signal_of,
    snapshot_body,
    standings_body,
    view_body,
)
from router.control.body import DEFAULT_POLICY, OPS_MEDIA_TYPE, ErrorBody, RevokedBody, UpdateBody
from router.control.diagnostics import diagnostic_bodies
from router.control.gate import Gate, json_response
from router.control.target import ControlTarget, RefusalError
from router.decision.decide import Request
from router.policy import TEXT_BYTES_MAX, PolicyError
from router.site.config_reader import NotExpected, hex_bytes, shown

__all__ = ["DEFAULT_POLICY", "OPS_MEDIA_TYPE", "control_app"]

OPS_BYTES_MAX = 2 * 1024 * 1024
OPS_MAX = 1_024
"""A publish is one op per KiB of new text: eight times the largest policy."""
UPDATE_BYTES_MAX = 4 * 1024
"""A signal is five fields."""


_HOST = re.compile(r"[!-~]{1,255}")
_PATH = re.compile(r"/[!-~]{0,8191}")
_METHOD = re.compile(r"[A-Za-z]{1,20}")

_ops_decoder = msgspec.msgpack.Decoder(
    Annotated[
        list[Annotated[bytes, msgspec.Meta(min_length=1, max_length=OP_BYTES_MAX)]],
        msgspec.Meta(min_length=1, max_length=OPS_MAX),
    ]
)
_update_decoder = msgspec.json.Decoder(UpdateBody)


class BadRequestError(Exception):
    """A request that no handler will take: the caller's mistake. `reason` names its counter; state is unchanged."""

    def __init__(self, status: int, reason: str, error: str, path: str = "", remedy: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.reason = reason
        self.body = ErrorBody(error=error, path=path, remedy=remedy)


def control_app(target: ControlTarget, host_names: Collection[str] = ()) -> Gate:
    """The ASGI application for one node. `host_names`: see `control_gate`."""
    counters: Counter[str] = Counter()
    handlers = _Handlers(target, counters)
    routes = [
        Route("/v1/view", handlers.view, methods=["GET"]),
        Route("/v1/decide", handlers.decide, methods=["GET"]),
        Route("/v1/policy", handlers.publish, methods=["POST"]),
        Route("/v1/policy/head", handlers.head, methods=["GET"]),
        Route("/v1/policy/versions", handlers.versions, methods=["GET"]),
        Route("/v1/policy/ops", handlers.ops, methods=["GET"]),
        Route("/v1/rollouts", handlers.rollouts, methods=["POST"]),
        Route("/v1/revocations", handlers.revocations, methods=["POST"]),
        Route("/v1/purges", handlers.purges, methods=["POST"]),
        Route("/v1/keys", handlers.keys, methods=["GET"]),
        Route("/update", handlers.update, methods=["POST"]),
        Route("/snapshot", handlers.snapshot, methods=["GET"]),
        Route("/policy", handlers.policy, methods=["GET"]),
        Route("/healthz", handlers.healthz, methods=["GET"]),
    ]
    refusals = _Refusals(counters, [route.path for route in routes])
    app = Starlette(
        routes=routes,
        exception_handlers={
            BadRequestError: refusals.bad_request,
            RefusalError: refusals.refusal,
            PolicyError: refusals.policy,
            LatticeError: refusals.lattice,
            HTTPException: refusals.http,
            Exception: refusals.failed,
        },
    )
    app.router.redirect_slashes = False  # /policy/ is not /policy: a redirect would hide the mistake
    return Gate(app, host_names, counters)


class _Handlers:
    def __init__(self, target: ControlTarget, counters: Counter[str]) -> None:
        self._target = target
        self._counters = counters

    async def view(self, request: HttpRequest) -> Response:
        _query(request)
        return json_response(view_body(self._target, dict(self._counters)))

    async def decide(self, request: HttpRequest) -> Response:
        query = _query(request, required=("client", "host", "path"), optional=("method",))
        try:
            client = str(ipaddress.ip_address(query["client"]))
        except ValueError:
            raise _bad_query("client", query["client"], "a numeric IPv4 or IPv6 address") from None
        _match(_HOST, query, "host", "a host name, as in a Host header")
        _match(_PATH, query, "path", "a path that begins with / (percent-encode what is not printable ASCII)")
        method = query.get("method", "GET")
        if not _METHOD.fullmatch(method):
            raise _bad_query("method", method, "an HTTP method")
        asked = Request(client=client, host=query["host"], path=query["path"], method=method.upper())
        asked = self._target.located(asked)
        decision = self._target.decide(asked)
        return json_response(decision_body(decision, asked, self._target.in_force(DEFAULT_POLICY)))

    async def publish(self, request: HttpRequest) -> Response:
        query = _query(request, optional=("policy", "message"))
        policy = _policy_name(query)
        media_type = _media_type(request, ("text/plain", OPS_MEDIA_TYPE))
        if media_type == OPS_MEDIA_TYPE:
            if "message" in query:
                raise _bad_query("message", query["message"], "none: with signed ops, the message is in them")
            ops = _decode_ops(await _body(request, OPS_BYTES_MAX))
            return json_response(published_body(await self._target.submit_ops(policy, ops)))
        message = query.get("message", "")
        if len(message) > MESSAGE_LENGTH_MAX or not (message.isprintable() or not message):
            raise _bad_query("message", message, f"one printable line of at most {MESSAGE_LENGTH_MAX} characters")
        body = await _body(request, TEXT_BYTES_MAX)
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequestError(
                422, "text", f"the policy is not UTF-8 text: byte {error.start} is 0x{body[error.start]:02x}"
            ) from None
        try:
            return json_response(published_body(await self._target.publish_text(policy, text, message)))
        except PolicyError as error:
            self._counters["control_refused_policy"] += 1
            return _diagnosed(error, error.render(text))

    async def head(self, request: HttpRequest) -> Response:
        query = _query(request, required=("author",), optional=("policy",))
        policy = _policy_name(query)
        try:
            author = AuthorId(hex_bytes(16, "an author id")(query["author"]))
        except NotExpected as wrong:
            raise _bad_query("author", query["author"], wrong.expected) from None
        return json_response(head_body(policy, author, self._target.policy_head(policy, author)))

    async def versions(self, request: HttpRequest) -> Response:
        policy = _policy_name(_query(request, optional=("policy",)))
        return json_response(standings_body(policy, self._target.standing(policy)))

    async def ops(self, request: HttpRequest) -> Response:
        _query(request)
        content = msgspec.msgpack.encode(self._target.policy_ops())
        told = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        return Response(content, media_type=OPS_MEDIA_TYPE, headers=told)

    async def rollouts(self, request: HttpRequest) -> Response:
        policy = _policy_name(_query(request, optional=("policy",)))
        _media_type(request, (OPS_MEDIA_TYPE,))
        ops = _decode_ops(await _body(request, OPS_BYTES_MAX))
        return json_response(published_body(await self._target.submit_ops(policy, ops)))

    async def revocations(self, request: HttpRequest) -> Response:
        _query(request)
        _media_type(request, (OPS_MEDIA_TYPE,))
        await self._target.submit_revocations(_decode_ops(await _body(request, OPS_BYTES_MAX)))
        return json_response(RevokedBody([key.hex() for key in self._target.view().revoked]))

    async def purges(self, request: HttpRequest) -> Response:
        _query(request)
        _media_type(request, (OPS_MEDIA_TYPE,))
        await self._target.submit_purges(_decode_ops(await _body(request, OPS_BYTES_MAX)))
        return Response(status_code=204)

    async def keys(self, request: HttpRequest) -> Response:
        _query(request)
        return json_response(keys_body(self._target))

    async def update(self, request: HttpRequest) -> Response:
        _query(request)
        _media_type(request, ("application/json",))
        body = await _body(request, UPDATE_BYTES_MAX)
        try:
            update = _update_decoder.decode(body)
        except msgspec.ValidationError as error:
            what, _, path = str(error).partition(" - at `")
            raise BadRequestError(422, "update", what, path.rstrip("`") or "$") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequestError(400, "json", f"not JSON: {error}") from None
        if update.proof is not None and update.timestamp is None:
            raise BadRequestError(422, "update", "a signed signal says when", "$.timestamp", "send the timestamp, too")
        proof = None if update.proof is None else proof_of(update.proof, update.region)
        self._target.update_signal(signal_of(update, self._target.view().now // 1_000), proof)
        self._counters["control_updates"] += 1
        return Response(status_code=204)

    async def snapshot(self, request: HttpRequest) -> Response:
        _query(request)
        return json_response(snapshot_body(list(self._target.snapshot())))

    async def policy(self, request: HttpRequest) -> Response:
        query = _query(request, optional=("policy", "version"))
        policy = _policy_name(query)
        if "version" in query:
            try:
                version = VersionId(hex_bytes(16, "a version")(query["version"]))
            except NotExpected as wrong:
                raise _bad_query("version", query["version"], wrong.expected) from None
            text = self._target.version_text(version)
            if text is None:
                raise RefusalError(404, f"no version {query['version'][:8]} is here", "see `policies` in GET /v1/view")
            return _policy_answer(text)
        text = self._target.policy_text(policy)
        if text is None:
            raise RefusalError(404, f"no policy {policy!r} is in force here", "publish one: edgelattice policy publish")
        return _policy_answer(text)

    async def healthz(self, _request: HttpRequest) -> Response:
        return PlainTextResponse("ok\n")


class _Refusals:
    """Errors into answers, each counted."""

    def __init__(self, counters: Counter[str], paths: Collection[str]) -> None:
        self._counters = counters
        self._paths = sorted(paths)

    async def bad_request(self, _request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, BadRequestError)
        self._counters[f"control_refused_{error.reason}"] += 1
        # The rest of an oversized body is not read: the connection can carry nothing more.
        headers = {"connection": "close"} if error.status == 413 else None
        return json_response(error.body, error.status, headers)

    async def refusal(self, _request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, RefusalError)
        self._counters[f"control_refused_{error.status}"] += 1
        return json_response(ErrorBody(error=error.error, remedy=error.remedy), error.status)

    async def policy(self, _request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, PolicyError)
        self._counters["control_refused_policy"] += 1
        return _diagnosed(error, "")

    async def lattice(self, _request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, LatticeError)
        self._counters["control_refused_ops"] += 1
        return json_response(ErrorBody(error=str(error)), 422)

    async def http(self, request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        self._counters[f"control_refused_{error.status_code}"] += 1
        headers = dict(error.headers or {})
        if error.status_code == 405:
            allowed = headers.get("Allow", headers.get("allow", "another method"))
            body = ErrorBody(error=f"{request.method} is not for {request.url.path}", remedy=f"use {allowed}")
        elif error.status_code == 404:
            body = ErrorBody(
                error=f"no such path: {request.url.path[:200]}", remedy="there are " + " ".join(self._paths)
            )
        else:
            body = ErrorBody(error=str(error.detail))
        return json_response(body, error.status_code, headers)

    async def failed(self, _request: HttpRequest, _error: Exception) -> Response:
        # Starlette raises it again once this is sent; the gate logs and counts it.
        return json_response(ErrorBody(error="a mistake of this node's; its log has it"), 500)


def _policy_answer(text: str) -> Response:
    return PlainTextResponse(text, headers={"cache-control": "no-store", "x-content-type-options": "nosniff"})


def _diagnosed(error: PolicyError, rendered: str) -> Response:
    diagnostics = diagnostic_bodies(error)
    count = len(diagnostics) + error.left_out
    summary = f"the policy does not hold: {count} {'mistake' if count == 1 else 'mistakes'}"
    return json_response(ErrorBody(error=summary, diagnostics=diagnostics, rendered=rendered), 422)


def _query(request: HttpRequest, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> dict[str, str]:
    """The query's parameters: each that is required, none that is unknown, none twice."""
    known = (*required, *optional)
    taken: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            there_are = "this path takes " + (", ".join(known) if known else "none")
            raise BadRequestError(400, "query", f"unknown query parameter {shown(name)}", name[:80], there_are)
        if name in taken:
            raise BadRequestError(400, "query", f"query parameter {name!r} stands there twice", name)
        taken[name] = value
    for name in required:
        if name not in taken:
            raise BadRequestError(400, "query", f"query parameter {name!r} is missing", name, f"add {name}=")
    return taken


def _bad_query(name: str, value: str, expected: str) -> BadRequestError:
    return BadRequestError(400, "query", f"{name} = {shown(value)}: expected {expected}", name)


def _match(pattern: re.Pattern[str], query: dict[str, str], name: str, expected: str) -> None:
    if not pattern.fullmatch(query[name]):
        raise _bad_query(name, query[name], expected)


def _policy_name(query: dict[str, str]) -> str:
    try:
        return check_policy_name(query.get("policy", DEFAULT_POLICY))
    except ValueError as error:
        raise BadRequestError(400, "query", str(error), "policy") from None


def _media_type(request: HttpRequest, allowed: tuple[str, ...]) -> str:
    told = request.headers.get("content-type", "")
    media_type = told.partition(";")[0].strip().lower()
    if media_type not in allowed:
        error = f"Content-Type {shown(told)} is not taken here" if told else "the Content-Type is missing"
        raise BadRequestError(415, "media_type", error, "Content-Type", "send " + " or ".join(allowed))
    return media_type


async def _body(request: HttpRequest, bytes_max: int) -> bytes:
    """The whole body, never holding more than `bytes_max` and one piece."""

    def too_large() -> BadRequestError:
        return BadRequestError(413, "too_large", f"the body is larger than {bytes_max} bytes")

    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) > bytes_max:
        raise too_large()
    body = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > bytes_max:
                raise too_large()
    return bytes(body)


def _decode_ops(body: bytes) -> tuple[bytes, ...]:
    try:
        return tuple(_ops_decoder.decode(body))
    except msgspec.DecodeError as error:
        raise BadRequestError(
            422,
            "ops",
            f"not a msgpack array of signed statements: {error}",
            remedy="`edgelattice policy publish` and `edgelattice ca revoke` make them",
        ) from None
