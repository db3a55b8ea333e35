"""The control API's door: who may ask at all, before any handler looks at the request.

Without TLS the API listens on loopback and has no passwords, so the one stranger who can reach it is a web page in the
operator's own browser. Two rules keep it out, and need no configuration:

* **Host.** A page can point its own DNS name at 127.0.0.1 and then read the answers as its own origin (DNS rebinding).
  It cannot change what the browser sends as `Host`: so a request must name an IP address, `localhost`, or a name from
  `control.host_names`.
* **Origin.** A page can send a simple POST anywhere without asking. Browsers always say so: a write whose `Origin` is
  not this very host is refused, as is one that says `Sec-Fetch-Site: cross-site`. No CORS header is ever sent, so
  answers stay unreadable as well.

With TLS there is a third: the caller's role (`callers`).

What a handler lets escape was answered with 500 already; it is logged here, and does not reach the server's task.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Collection

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from router.control.body import ErrorBody
from router.control.callers import CALLER, Caller

_logger = logging.getLogger(__name__)


def json_response(body: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """One line of JSON."""
    content = msgspec.json.encode(body) + b"\n"
    told = {"cache-control": "no-store", "x-content-type-options": "nosniff", **(headers or {})}
    return Response(content, status, told, media_type="application/json")


def host_allowed(host: str, host_names: Collection[str]) -> bool:
    """Whether a `Host` header names this node in a way that no other site's page can."""
    bare = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    name = bare.lower().removesuffix(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name in host_names
    return True


class Gate:
    """ASGI in, ASGI out: refuses strangers, counts what it refused, and catches what handlers let escape."""

    def __init__(self, app: ASGIApp, host_names: Collection[str], counters: Counter[str]) -> None:
        self._app = app
        self._host_names = frozenset(host_names)
        self.counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "no WebSocket here"})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._ask(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not host_allowed(host, self._host_names):
            self.counters["control_refused_host"] += 1
            return json_response(
                ErrorBody(
                    error=f"this API is not called {host[:80]!r}",
                    path="Host",
                    remedy="use an IP address or localhost, or add the name to control.host_names in the site file",
                ),
                status=421,
            )
        caller: Caller | None = scope.get(CALLER)
        why = None if caller is None else caller.why_refused(scope["method"], scope["path"])
        if caller is not None and why is not None:
            self.counters["control_refused_role"] += 1
            return json_response(
                ErrorBody(
                    error=f"{scope['method']} {scope['path'][:200]} is not for {caller.role} {caller.name!r}: {why}",
                    path="certificate",
                    remedy="an operator's certificate may (`edgelattice ca issue --role operator`)",
                ),
                status=403,
            )
        if scope["method"] in {"GET", "HEAD"}:
            return None
        origin = headers.get(b"origin")
        foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
        if foreign or headers.get(b"sec-fetch-site", "none") == "cross-site":
            self.counters["control_refused_origin"] += 1
            return json_response(
                ErrorBody(error="a page of another origin may not write here", path="Origin"), status=403
            )
        return None

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            self.counters["control_disconnected"] += 1
        except Exception:
            self.counters["control_failed"] += 1
            _logger.exception("the control API failed on %s %s", scope["method"], scope["path"])
