"""What a shared cache may keep, and what it may answer (RFC 9111 parts 3 and 4, RFC 5861). Pure.

A request is looked up by its route, host and target; of the variants stored there one may match its fields (Vary).
Then `judge` says whether that one may be served, or what has to be asked first:

    fresh ----------------------------------------> serve
    stale, within stale-while-revalidate ---------> serve, and validate behind the client's back
    stale, or not to be used without asking ------> validate: 304 freshens it, 200 replaces it,
                                                    an error may be answered from it (stale-if-error)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from enum import Enum
from typing import Final

from router.cache.cache_control import field_names, read_cache_control, seconds
from router.cache.http_date import read_http_date
from router.cache.stored import HEURISTIC_STATUSES, Stored, said_for_us, values_of
from router.traffic.http1 import Field, RequestHead, ResponseHead

UNDERSTOOD_STATUSES: Final = HEURISTIC_STATUSES | frozenset({302, 303, 307, 400, 401, 403, 500, 502, 503, 504})
"""Statuses whose caching rules are implemented here, for `must-understand` (RFC 9111 5.2.2.3)."""
SAFE_METHODS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
VARY_FIELDS_MAX: Final = 16
"""An answer that depends on more fields of the request is not stored: next to nothing would match it again."""

_NEVER_KEPT: Final = frozenset(
    {
        b"connection",
        b"content-length",  # the stored body has one
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9111 3.1: what belongs to one hop, or to one user of it."""
_NOT_FRESHENED: Final = frozenset(
    {b"content-encoding", b"content-length", b"content-md5", b"content-range", b"etag", b"vary"}
)
"""What says how the stored body is to be read stays with that body (RFC 9111 3.2), and so does what chose it."""
_CONDITIONS: Final = frozenset({b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since"})
_PARTS: Final = frozenset({b"range", b"if-range"})
_FORBID_STALE: Final = (b"must-revalidate", b"proxy-revalidate", b"s-maxage", b"no-cache")
"""RFC 9111 4.2.4 and 5.2.2: answers that must not be served stale, by a shared cache."""


class Reuse(Enum):
    """What may be done with a stored response."""

    SERVE = "hit"
    SERVE_AND_VALIDATE = "stale-while-revalidate"
    VALIDATE_STALE = "stale"
    VALIDATE_ASKED = "request"
    """It is fresh; this client wants it validated all the same."""


def is_looked_up(request: RequestHead, asked: Mapping[bytes, bytes | None]) -> bool:
    """Whether a stored response may answer this at all. Preconditions on a state are the origin's to judge."""
    return request.method in (b"GET", b"HEAD") and not (
        request.websocket
        or request.content_length
        or request.chunked
        or b"no-store" in asked
        or any(key in (b"if-match", b"if-unmodified-since") for key, _, _ in request.fields)
    )


def may_store(request: RequestHead, response: ResponseHead) -> bool:
    """RFC 9111 part 3, for a shared cache; and only whole answers to GET without a Range."""
    if request.method != b"GET" or response.status < 200 or response.status in (206, 304):
        return False
    if b"no-store" in read_cache_control(values_of(request.fields, b"cache-control")):
        return False
    said = said_for_us(response.fields)
    if b"must-understand" in said and response.status not in UNDERSTOOD_STATUSES:
        return False
    if b"no-store" in said and b"must-understand" not in said:
        return False
    if b"private" in said and not said[b"private"]:
        return False
    if values_of(request.fields, b"authorization") and not {b"must-revalidate", b"public", b"s-maxage"} & said.keys():
        return False
    named = _varied_names(response.fields)
    if b"*" in named or len(named) > VARY_FIELDS_MAX:
        return False
    explicit = {b"max-age", b"s-maxage"} & said.keys() or values_of(response.fields, b"expires")
    if values_of(response.fields, b"set-cookie") and not explicit:
        return False  # stricter than the RFC: a guess must not hand one user's session to another
    return bool(explicit) or b"public" in said or response.status in HEURISTIC_STATUSES


def keep(
    request: RequestHead, response: ResponseHead, body: bytes, asked_ms: int, answered_ms: int, region: str
) -> Stored:
    """What is stored of a response that `may_store` allowed."""
    varies = tuple(
        (name, normalized(values_of(request.fields, name))) for name in sorted(_varied_names(response.fields))
    )
    fields = _dated(_kept(response.fields, response.connection), answered_ms)
    return Stored(response.status, response.reason, fields, body, varies, asked_ms, answered_ms, region)


def matches(stored: Stored, fields: Sequence[Field]) -> bool:
    """Whether a request with these fields may get this variant (RFC 9111 4.1)."""
    return all(normalized(values_of(fields, name)) == value for name, value in stored.varies)


def normalized(values: Sequence[bytes]) -> bytes | None:
    """A field's lines as one list without blanks around its members. None: there is no such field."""
    return b",".join(part.strip(b" \t") for value in values for part in value.split(b",")) if values else None


def judge(stored: Stored, asked: Mapping[bytes, bytes | None], now_ms: int) -> Reuse:
    """What may be done with `stored` for a request with the directives `asked` (RFC 9111 4.2, 5.2.1; RFC 5861 3)."""
    said, stale_s = stored.directives, stored.stale_s(now_ms)
    if b"no-cache" in said and not said[b"no-cache"]:
        return Reuse.VALIDATE_STALE
    may_lag = False
    if stale_s >= 0 and not _is_patient(asked, stale_s):
        may_lag = stale_s <= (seconds(said, b"stale-while-revalidate") or -1)
        if not may_lag:
            return Reuse.VALIDATE_STALE
    if stale_s >= 0 and not _may_be_stale(stored):
        return Reuse.VALIDATE_STALE
    age_max, fresh_min = seconds(asked, b"max-age"), seconds(asked, b"min-fresh")
    if (
        b"no-cache" in asked
        or (age_max is not None and stored.age_s(now_ms) > age_max)
        or (fresh_min is not None and -stale_s < fresh_min)
    ):
        return Reuse.VALIDATE_ASKED
    return Reuse.SERVE_AND_VALIDATE if may_lag else Reuse.SERVE


def may_serve_for_error(stored: Stored, now_ms: int, grace_s: int) -> bool:
    """Whether it may stand in for an error, or for no answer: RFC 5861 part 4, or `grace_s` where it says nothing."""
    said = seconds(stored.directives, b"stale-if-error")
    limit = grace_s if said is None else said
    return _may_be_stale(stored) and stored.stale_s(now_ms) <= limit


def conditions(stored: Stored) -> tuple[Field, ...]:
    """The fields that ask whether `stored` is still right (RFC 9111 4.3.1); none if it has no validator."""
    asked: list[Field] = []
    if stored.etag is not None:
        asked.append((b"if-none-match", b"If-None-Match", stored.etag))
    if stored.last_modified is not None:
        asked.append((b"if-modified-since", b"If-Modified-Since", stored.last_modified))
    return tuple(asked)


def unconditional(fields: Iterable[Field]) -> tuple[Field, ...]:
    """A request's fields for a whole answer: what the client has of it already is ours to compare."""
    return tuple(field for field in fields if field[0] not in _CONDITIONS and field[0] not in _PARTS)


def freshened(stored: Stored, response: ResponseHead, asked_ms: int, answered_ms: int) -> Stored | None:
    """`stored` after a 304 (RFC 9111 4.3.4). None if that speaks of another representation."""
    etags = values_of(response.fields, b"etag")
    if etags and stored.etag is not None and not _same(etags[0], stored.etag):
        return None
    kept = _dated(_kept(response.fields, response.connection), answered_ms)
    news = tuple(field for field in kept if field[0] not in _NOT_FRESHENED)
    named = {key for key, _, _ in news} | {b"age"}  # an old Age would count twice
    fields = (*(field for field in stored.fields if field[0] not in named), *news)
    return replace(stored, fields=fields, asked_ms=asked_ms, answered_ms=answered_ms)


def is_not_modified(request: RequestHead, stored: Stored) -> bool:
    """Whether the client has it already (RFC 9110 13.1.2 and 13.1.3; an ETag decides before a date)."""
    listed = values_of(request.fields, b"if-none-match")
    if listed:
        tags = [tag.strip(b" \t") for value in listed for tag in value.split(b",")]
        return b"*" in tags or (stored.etag is not None and any(_same(tag, stored.etag) for tag in tags))
    since = values_of(request.fields, b"if-modified-since")
    if len(since) != 1:
        return False
    since_s = read_http_date(since[0], stored.answered_ms)
    if since_s is None:
        return False
    return (stored.date_s if stored.modified_s is None else stored.modified_s) <= since_s


def invalidates(method: bytes, status: int) -> bool:
    """Whether an answer says that what is stored of its target may be wrong now (RFC 9111 4.4)."""
    return method not in SAFE_METHODS and 200 <= status < 400


def _varied_names(fields: Iterable[Field]) -> frozenset[bytes]:
    return frozenset().union(*(field_names(value) for value in values_of(fields, b"vary")))


def _kept(fields: Iterable[Field], connection: frozenset[bytes]) -> tuple[Field, ...]:
    fields = tuple(fields)
    said = said_for_us(fields)
    private = field_names(said.get(b"private") or b"") | field_names(said.get(b"no-cache") or b"")
    return tuple(
        field
        for field in fields
        if field[0] not in _NEVER_KEPT and field[0] not in connection and field[0] not in private
    )


def _dated(fields: tuple[Field, ...], answered_ms: int) -> tuple[Field, ...]:
    """RFC 9110 6.6.1: what came without a Date is dated when it is kept."""
    if values_of(fields, b"date"):
        return fields
    return (*fields, (b"date", b"Date", formatdate(answered_ms // 1_000, usegmt=True).encode("ascii")))


def _same(tag: bytes, other: bytes) -> bool:
    """Weak comparison (RFC 9110 8.8.3.2)."""
    return tag.removeprefix(b"W/") == other.removeprefix(b"W/")


def _may_be_stale(stored: Stored) -> bool:
    return not any(name in stored.directives for name in _FORBID_STALE)


def _is_patient(asked: Mapping[bytes, bytes | None], stale_s: int) -> bool:
    """Whether this client takes an answer so stale (`max-stale`; without a number, any)."""
    if b"max-stale" not in asked:
        return False
    return asked[b"max-stale"] is None or stale_s <= (seconds(asked, b"max-stale") or 0)
