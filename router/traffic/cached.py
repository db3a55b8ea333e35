"""Between the life of a request and the cache: which key a request has, and what a stored response looks like. Pure.

`exchange` asks for a turn once a request is decided; `router.cache.turn` says what to do. A client that nobody waits
for stands in when a stale answer is asked for again behind the back of the client that got it.
"""

from __future__ import annotations

from typing import Final

from router.cache.ranges import part_asked
from router.cache.rules import is_not_modified
from router.cache.store import Key
from router.cache.stored import Stored
from router.cache.turn import SiteCache, Turn
from router.decision.decide import Decision
from router.traffic.http1 import Field, Fields, RequestHead, ResponseHead

_US: Final = 1_000_000
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()
_NOT_IN_304: Final = frozenset({b"content-type", b"content-encoding", b"content-language", b"content-md5"})
"""RFC 9110 15.4.5: what describes the content goes with the content."""


def turn_of(cache: SiteCache, decision: Decision, scheme: str, head: RequestHead) -> Turn | None:
    """This request's turn, if its route keeps answers and it is one that they may answer."""
    setting = decision.settings.cache
    if setting is None or setting.off:
        return None
    key = Key(decision.route, decision.rule, decision.zone, scheme, head.host.lower(), head.host_name, head.target)
    return cache.turn(key, head, setting.stale_us // _US)


def answer_of(stored: Stored, request: RequestHead, status: Field, now_ms: int) -> tuple[ResponseHead, bytes]:
    """The answer to this request: all of it, a part, or that the client has it already. A HEAD gets no body."""
    body = stored.body
    code, reason = stored.status, stored.reason
    fields = [field for field in stored.fields if field[0] != b"age"]
    fields += [(b"age", b"Age", b"%d" % stored.age_s(now_ms)), status]
    length: int | None = len(body)
    if code == 200 and is_not_modified(request, stored):
        code, reason, body, length = 304, b"Not Modified", b"", None
        fields = [field for field in fields if field[0] not in _NOT_IN_304]
    elif request.method == b"GET" and (part := part_asked(request.fields, stored)) is not None:  # RFC 9110 14.2
        code, reason = (206, b"Partial Content") if part.satisfiable else (416, b"Range Not Satisfiable")
        body = body[part.first : part.last + 1]
        length = len(body)
        fields = [field for field in fields if field[0] != b"content-range"]
        fields.append((b"content-range", b"Content-Range", part.content_range))
    elif code == 204:
        length = None
    head = ResponseHead(code, reason, Fields(fields), 1, length, False, True, _NO_OPTIONS)
    return head, b"" if request.method == b"HEAD" else body


def with_status(head: ResponseHead, status: Field) -> ResponseHead:
    """A head that was not stored, or only now, with what the cache did."""
    return head._replace(fields=Fields((*head.fields, status)))
