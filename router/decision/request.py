"""What of a request a decision may depend on, and how its parts are read.

A decision reads only what the policy in force tests: `Program.needs` says what that is, so that whoever makes requests
need not fill in the rest.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

from mmh3 import hash64

from router.policy.settings import Key
from router.policy.zones import Client

JWT_BYTES_MAX = 8_192
JWT_DEPTH_MAX = 32
BUCKETS = 1_000_000
"""Users are told apart to the millionth."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")


class Needs(NamedTuple):
    """What some decision depends on, beside client, host, path and method."""

    headers: frozenset[bytes] = frozenset()
    """Names in lower case."""
    query: bool = False
    upgrade: bool = False
    port: bool = False
    place: bool = False
    """Country, continent, ASN or location."""
    sni: bool = False


NO_NEEDS: Final = Needs()


class Request(NamedTuple):
    """One request, or for L4 one connection."""

    client: str
    """The client's numeric address; anything else is in no zone by address."""
    host: str
    """As sent: any case, with or without a port. The SNI of an L4 connection."""
    path: str
    """As sent, with its query."""
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    """Names in lower case; the first of a name counts."""
    country: str = ""
    """ISO 3166-1, two capital letters; "" when unknown."""
    continent: str = ""
    asn: int = 0
    upgrade: str = ""
    """The protocol asked for, in lower case."""
    port: int = 0
    """Where it arrived; 0 when it does not matter."""
    sni: str = ""
    """The name that the client asked a certificate for, in its TLS handshake; "" when none."""
    location: int = 0
    """Where the client is, to a degree: see `router.decision.nearby`; 0 when unknown."""


def header(request: Request, name: str) -> str | None:
    for known, value in request.headers:
        if known == name:
            return value
    return None


def upgrade_of(headers: tuple[tuple[str, str], ...]) -> str:
    """What a request with these headers asks to speak, as the data plane understands it: WebSocket or nothing."""
    asked = {option.strip().lower() for name, value in headers if name == "upgrade" for option in value.split(",")}
    return "websocket" if "websocket" in asked else ""


def query(request: Request, name: str) -> str | None:
    """The first value of a query parameter, decoded; "" when it has none."""
    text = request.path.partition("?")[2]
    if not text:
        return None
    for part in text.split("&"):
        found, _, value = part.partition("=")
        if found == name or _decoded(found) == name:
            return _decoded(value)
    return None


def _decoded(text: str) -> str:
    """As `unquote_plus`, which works even where there is nothing to do."""
    return unquote_plus(text) if "%" in text or "+" in text else text


def cookie(request: Request, name: str) -> str | None:
    """As sent, without the quotes that RFC 6265 allows around it."""
    for known, value in request.headers:
        if known == "cookie":
            for part in value.split(";"):
                found, equals, text = part.strip().partition("=")
                if equals and found == name:
                    return text.strip('"')
    return None


def jwt_claim(request: Request, claim: str) -> str | None:
    """A claim of the bearer token: a text, or the digits of a whole number. The signature is not checked: this tells
    users apart, it admits nobody.

    Read so that every runtime reads the same: base64url (RFC 7515; padding is let be), strict UTF-8, JSON as RFC 8259
    has it, nested `JWT_DEPTH_MAX` deep at most. Where it is not, there is no claim.
    """
    scheme, _, token = (header(request, "authorization") or "").partition(" ")
    parts = token.split(".")
    if scheme.lower() != "bearer" or len(parts) != 3 or len(token) > JWT_BYTES_MAX or not token.isascii():
        return None
    payload = parts[1].rstrip("=")
    if not _BASE64URL.match(payload) or len(payload) % 4 == 1:
        return None
    try:
        text = urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode("utf-8")
        if _depth(text) > JWT_DEPTH_MAX:
            return None
        claims = json.loads(text, parse_int=str, parse_float=_no_claim, parse_constant=_not_json)
    except (ValueError, RecursionError):  # recursion only where strings are so broken that the depth was not seen
        return None
    value = claims.get(claim) if isinstance(claims, dict) else None
    return value if isinstance(value, str) else None


def _depth(text: str) -> int:
    """How deep a JSON text is nested."""
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _no_claim(_: str) -> None:
    """A number that is not whole tells nobody apart."""


def _not_json(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def client_bytes(text: str, client: Client | None) -> bytes:
    """What a client is hashed by: its address however it was written, else the text."""
    return client or text.encode("utf-8", "surrogatepass")


def key_bytes(key: Key, request: Request, client: Client | None) -> bytes | None:
    """What the key makes of a request; None when the request has no such thing."""
    found: str | None
    match key.kind:
        case "ip":
            if client is None:
                return None
            size, kept = (32, key.count) if len(client) == 4 else (128, 2 * key.count)
            return b"ip " + (int.from_bytes(client, "big") >> (size - kept)).to_bytes(16, "big")
        case "path":
            found = "/".join(request.path.partition("?")[0].split("/")[: key.count + 1])
        case "cookie":
            found = cookie(request, key.name)
        case "header":
            found = header(request, key.name)
        case _:
            found = jwt_claim(request, key.name)
    return f"{key.kind} {found}".encode("utf-8", "surrogatepass") if found else None


def bucket(salt: bytes, key: bytes) -> int:
    """Where in 0..999,999 a user is, for one purpose: other salts shuffle users anew."""
    return hash64(salt + b"\0" + key, signed=False)[0] % BUCKETS


def in_share(salt: bytes, ppm: int, key: bytes | None) -> bool:
    """Whether a user is among these millionths; one who cannot be told apart is not."""
    return key is not None and bucket(salt, key) < ppm
