"""Asking a node's control API from the command line and the demo: blocking, typed, and never a traceback."""

from __future__ import annotations

import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from typing import Any, Final, TypeVar, cast

import msgspec

from lattice.errors import LatticeError
from router.control.body import (
    OPS_MEDIA_TYPE,
    DecisionBody,
    ErrorBody,
    HeadBody,
    KeysBody,
    ProofBody,
    PublishedBody,
    RevokedBody,
    StandingsBody,
    UpdateBody,
    ViewBody,
)

T = TypeVar("T")

CONTROL_URL = "http://127.0.0.1:8180"
TIMEOUT_SECONDS = 10.0
"""A node answers in milliseconds; ten seconds is a node that hangs."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024


class ControlError(Exception):
    """The node could not be asked, or said no. `status` is its HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0, body: ErrorBody | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


def control_url(text: str) -> str:
    """A base URL out of what people type: `http[s]://host:port`, `host:port` or `:port`. Raises ValueError."""
    url = text if "://" in text else f"http://{'127.0.0.1' if text.startswith(':') else ''}{text}"
    wanted = f"{text!r} is no control address: expected http://HOST:PORT"
    try:
        parts = urllib.parse.urlsplit(url)
        beside = parts.path.strip("/") or parts.query
        if parts.scheme not in {"http", "https"} or not parts.hostname or not parts.port or beside:
            raise ValueError(wanted)
    except ValueError:  # of `urlsplit` or `parts.port`, which say less
        raise ValueError(wanted) from None
    if not re.fullmatch(r"[!-~]+", url):
        raise ValueError(wanted)
    return url.rstrip("/")


_DECODERS: Final[dict[type, msgspec.json.Decoder[Any]]] = {
    shape: msgspec.json.Decoder(shape)
    for shape in (DecisionBody, ErrorBody, HeadBody, KeysBody, PublishedBody, RevokedBody, StandingsBody, ViewBody)
}
"""Made once, while nothing else runs: threads that meet a shape at once for the first time crash msgspec (0.22; one
demo in seven did, with four on two cores), for each then reads its annotations. The demo asks all its sites at once."""


class ControlClient:
    """One node's control API. Threads may use their own, or share one."""

    def __init__(
        self,
        url: str = CONTROL_URL,
        timeout_seconds: float = TIMEOUT_SECONDS,
        shown: urllib.request.BaseHandler | None = None,
    ) -> None:
        """`shown`: what shows our certificate (`router.control.shown`), where the node wants one."""
        self.url = url
        self._timeout_seconds = timeout_seconds
        # A proxy from the environment is for the outside, and would be asked for 127.0.0.1 on another machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), *([] if shown is None else [shown]))

    def view(self) -> ViewBody:
        return self._decode(self.ask("/v1/view"), ViewBody)

    def view_json(self) -> bytes:
        """The view as the node sent it: JSON, checked to be a view."""
        answer = self.ask("/v1/view")
        self._decode(answer, ViewBody)
        return answer

    def decide(self, client: str, host: str, path: str, method: str = "GET") -> DecisionBody:
        query = {"client": client, "host": host, "path": path, "method": method}
        return self._decode(self.ask("/v1/decide", query), DecisionBody)

    def head(self, policy: str, author: bytes) -> HeadBody:
        return self._decode(self.ask("/v1/policy/head", {"policy": policy, "author": author.hex()}), HeadBody)

    def versions(self, policy: str) -> StandingsBody:
        return self._decode(self.ask("/v1/policy/versions", {"policy": policy}), StandingsBody)

    def policy_ops(self) -> list[bytes]:
        """Every signed op that the node holds; nothing is checked."""
        try:
            return msgspec.msgpack.decode(self.ask("/v1/policy/ops"), type=list[bytes])
        except msgspec.DecodeError as error:
            raise ControlError(f"{self.url} answered with no list of ops ({error})") from None

    def keys(self) -> KeysBody:
        return self._decode(self.ask("/v1/keys"), KeysBody)

    def submit_ops(self, policy: str, ops: list[bytes]) -> PublishedBody:
        body = msgspec.msgpack.encode(ops)
        return self._decode(self.ask("/v1/policy", {"policy": policy}, body, OPS_MEDIA_TYPE), PublishedBody)

    def submit_rollout_ops(self, policy: str, ops: list[bytes]) -> PublishedBody:
        """As `submit_ops`, by the door that is open to controllers too."""
        body = msgspec.msgpack.encode(ops)
        return self._decode(self.ask("/v1/rollouts", {"policy": policy}, body, OPS_MEDIA_TYPE), PublishedBody)

    def update(self, update: UpdateBody, proof: ProofBody) -> None:
        body = msgspec.json.encode(msgspec.structs.replace(update, proof=proof))
        self.ask("/update", None, body, "application/json")

    def submit_revocations(self, revocations: list[bytes]) -> RevokedBody:
        body = msgspec.msgpack.encode(revocations)
        return self._decode(self.ask("/v1/revocations", None, body, OPS_MEDIA_TYPE), RevokedBody)

    def submit_purges(self, purges: list[bytes]) -> None:
        self.ask("/v1/purges", None, msgspec.msgpack.encode(purges), OPS_MEDIA_TYPE)

    def publish_text(self, policy: str, text: str, message: str = "") -> PublishedBody:
        """Let the node sign; it must hold an author key."""
        query = {"policy": policy, "message": message}
        return self._decode(self.ask("/v1/policy", query, text.encode(), "text/plain"), PublishedBody)

    def policy_text(self, policy: str, version: str = "") -> str:
        """The text in force there, or of a version that is there."""
        query = {"policy": policy, "version": version} if version else {"policy": policy}
        return self.ask("/policy", query).decode("utf-8", "replace")

    def ask(
        self, path: str, query: dict[str, str] | None = None, body: bytes | None = None, media_type: str = ""
    ) -> bytes:
        """One request; POST when there is a body. Raises `ControlError`."""
        url = self.url + path + ("?" + urllib.parse.urlencode(query) if query else "")
        headers = {"Content-Type": media_type} if media_type else {}
        request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310  (control_url allows http and https)
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                return bytes(response.read(ANSWER_BYTES_MAX))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error.code, error.read(ANSWER_BYTES_MAX)) from None
        except LatticeError as error:
            raise ControlError(f"{self.url} is no node of this cluster: {error}") from None
        except urllib.error.URLError as error:
            reason = error.reason
            if isinstance(reason, ssl.SSLError) and reason.reason == "WRONG_VERSION_NUMBER":
                raise ControlError(
                    f"{self.url} speaks no TLS: is its control.tls set? without it the address is http://"
                ) from None
            said = (reason.strerror or str(reason)) if isinstance(reason, OSError) else str(reason)
            raise ControlError(
                f"no node answers at {self.url}: {said.lower()}; is it running (`edgelattice run`), "
                "and is --control what its ready line says?"
            ) from None
        except (OSError, HTTPException) as error:
            said = str(error) or type(error).__name__
            hint = "or does it want https (control.tls)"
            if self.url.startswith("https:"):
                hint = "and does it take our certificate (revoked, expired)"
            raise ControlError(f"{self.url} broke off: {said.lower()}; is this a control address, {hint}?") from None

    def _refused(self, status: int, content: bytes) -> ControlError:
        try:
            body = _DECODERS[ErrorBody].decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ControlError(
                f"{self.url} answered {status}, not as a node would; is this a control address?", status
            )
        message = f"{body.path}: {body.error}" if body.path and not body.error.startswith(body.path) else body.error
        return ControlError(f"{message}; {body.remedy}" if body.remedy else message, status, body)

    def _decode(self, content: bytes, shape: type[T]) -> T:
        try:
            return cast("T", _DECODERS[shape].decode(content))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ControlError(
                f"{self.url} answered something else than a node would ({error}); is this a control address?"
            ) from None
