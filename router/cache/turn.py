"""One request's turn at a site's cache: look, perhaps wait for who is fetching the same, ask, keep, answer.

::

    look ─┬─ Stored ──────────────────────────────────────────▶ answer
          ├─ Fetch: somebody asks already ── wait ── look ─ …
          └─ None ── ask for `forward` ─┬─ answered(head) ─┬─ Stored: still right, or better than an error ─▶ answer
                                        │                  └─ None: pass it on, `take` what passes, `whole` at its end
                                        └─ failed() ─ Stored: better than no answer ─▶ answer

Requests for one target that come while it is fetched wait for that one fetch (request coalescing), once: what turns out
not to be storable is fetched by each for itself. Whoever has a turn must `close` it, or others would wait for nothing.
Pure: `now_ms` is passed in, and who waits says how it wants to be woken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from router.cache import rules
from router.cache.cache_control import read_cache_control
from router.cache.cache_status import CacheStatus
from router.cache.rules import Reuse
from router.cache.store import CacheStore, Key
from router.cache.stored import Stored, values_of
from router.cache.surrogate import CAPABILITY
from router.traffic.http1 import Fields, RequestHead, ResponseHead

ERRORS = frozenset({500, 502, 503, 504})
"""RFC 5861 part 4: the statuses that a stale answer may stand in for."""


class Fetch:
    """Somebody is asking for a target."""

    def __init__(self) -> None:
        self.waiters: list[Callable[[], None]] = []
        """Called once, when there is no more to wait for."""


class SiteCache:
    """What all turns of a process share."""

    def __init__(self, bytes_max: int, object_bytes_max: int) -> None:
        self.store = CacheStore(bytes_max, object_bytes_max)
        self.fetches: dict[Key, Fetch] = {}
        self.counters: Counter[str] = Counter()
        """`hit`, `stale`, `validated`, `miss`, and beside them `collapsed`, `stored`, `invalidated`, `purged`; `broken`
        counts bugs of ours met while a stale answer was asked for again."""

    def turn(self, key: Key, request: RequestHead, grace_s: int) -> Turn | None:
        """A turn for this request, None if no stored response may answer it."""
        asked = read_cache_control(values_of(request.fields, b"cache-control"))
        return Turn(self, key, request, asked, grace_s) if rules.is_looked_up(request, asked) else None

    def changed(self, host: str, request: RequestHead, response: ResponseHead) -> None:
        """A response came to a request that may change something: forget what it speaks of (RFC 9111 4.4)."""
        if not self.store.size or not rules.invalidates(request.method, response.status):
            return
        targets = {request.target}
        for name in (b"location", b"content-location"):
            targets.update(_own_target(value, host) for value in values_of(response.fields, name))
        for target in sorted(targets - {b""}):
            self.counters["invalidated"] += self.store.invalidate(host, target)


class Turn:
    """See the module."""

    def __init__(
        self, cache: SiteCache, key: Key, request: RequestHead, asked: Mapping[bytes, bytes | None], grace_s: int
    ) -> None:
        self._cache = cache
        self._key = key
        self._asked = asked
        self._grace_s = grace_s
        self._stored: Stored | None = None
        self._fetch: Fetch | None = None  # ours
        self._waited = False
        self._asked_ms = 0
        self._answer: ResponseHead | None = None  # what is being taken
        self._answered_ms = 0
        self._region = ""
        self._taken: list[bytes] = []
        self._taken_bytes = 0
        self.request = request
        self.forward = request
        """The request to ask with: saying what we obey, and with questions about what is stored, in place of the
        client's own."""
        self._asks_again = False
        self.status = CacheStatus()
        self.revalidates = False
        """What `look` gave is stale, and to be asked for again behind the client's back."""

    def look(self, now_ms: int) -> Stored | Fetch | None:
        """What to answer; whom to wait for; or None: ask, and say what came of it."""
        cache = self._cache
        stored, known = cache.store.find(self._key, self.request.fields)
        reuse = None if stored is None else rules.judge(stored, self._asked, now_ms)
        if stored is not None and reuse in (Reuse.SERVE, Reuse.SERVE_AND_VALIDATE):
            self.revalidates = reuse is Reuse.SERVE_AND_VALIDATE and self._key not in cache.fetches
            return self._give(stored, now_ms, "hit" if reuse is Reuse.SERVE else "stale")
        if not self._waited and (fetch := cache.fetches.get(self._key)) is not None and not self.only_if_cached:
            self._waited = True
            return fetch
        self.status = CacheStatus(fwd=reuse.value if reuse else "vary-miss" if known else "uri-miss")
        self.lead(stored, now_ms)
        return None

    @property
    def only_if_cached(self) -> bool:
        """The client wants nobody to be asked: 504 (RFC 9111 5.2.1.7)."""
        return b"only-if-cached" in self._asked

    def lead(self, stored: Stored | None, now_ms: int) -> None:
        """Ask, and let others wait for it."""
        if self._key not in self._cache.fetches:
            self._fetch = self._cache.fetches[self._key] = Fetch()
        self._stored = stored
        self._asked_ms = now_ms
        fields = tuple(self.request.fields)
        if stored is not None and (questions := rules.conditions(stored)):
            fields = (*rules.unconditional(fields), *questions)
            self._asks_again = True
        self.forward = self.request._replace(fields=Fields((*fields, CAPABILITY)))

    def answered(self, response: ResponseHead, now_ms: int, region: str) -> Stored | None:
        """The final response's head came: what to answer instead of it, or None."""
        stored = self._stored
        self.status = replace(self.status, fwd_status=response.status)
        if stored is not None and response.status == 304 and self._asks_again:
            fresh = rules.freshened(stored, response, self._asked_ms, now_ms)
            if fresh is not None and self._cache.store.put(self._key, fresh):
                self.status = replace(self.status, stored=True)
            return self._give(fresh or stored, now_ms, "validated")
        if response.status in ERRORS and (instead := self.failed(now_ms)) is not None:
            return instead
        if rules.may_store(self.request, response):
            self._answer, self._answered_ms, self._region = response, now_ms, region
            length = response.content_length
            if length is not None and length > self._cache.store.object_bytes_max:
                self._take_no_more()
        else:
            if stored is not None and response.status < 500:
                self._cache.store.forget(self._key, stored)
            self._take_no_more()
        self.status = replace(self.status, stored=self._answer is not None)
        self._cache.counters["miss"] += 1
        return None

    def failed(self, now_ms: int) -> Stored | None:
        """There is no good answer to be had: what may stand in for it (RFC 5861 part 4)."""
        stored = self._stored
        if stored is None or not rules.may_serve_for_error(stored, now_ms, self._grace_s):
            return None
        self.status = replace(self.status, detail="stale-if-error")
        return self._give(stored, now_ms, "stale")

    def take(self, payload: bytes) -> None:
        """Some of the body passes by."""
        if self._answer is None:
            return
        self._taken_bytes += len(payload)
        if self._taken_bytes > self._cache.store.object_bytes_max:
            self._take_no_more()
        else:
            self._taken.append(payload)

    def whole(self) -> None:
        """The body has passed by, to its end."""
        if self._answer is None:
            return
        body = b"".join(self._taken)
        kept = rules.keep(self.request, self._answer, body, self._asked_ms, self._answered_ms, self._region)
        if self._cache.store.put(self._key, kept):
            self._cache.counters["stored"] += 1
        self._take_no_more()

    def close(self) -> None:
        """Whoever waits for this turn goes on. May be called again."""
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            del self._cache.fetches[self._key]
            for wake in fetch.waiters:
                wake()

    def _take_no_more(self) -> None:
        self._answer = None
        self._taken.clear()
        self.close()

    def _give(self, stored: Stored, now_ms: int, how: str) -> Stored:
        self._cache.counters[how] += 1
        self._cache.counters["collapsed"] += self._waited
        asked_nobody = how == "hit" or (how == "stale" and not self.status.fwd)
        self.status = replace(self.status, hit=asked_nobody, ttl=-stored.stale_s(now_ms), collapsed=self._waited)
        return stored


def _own_target(value: bytes, host: str) -> bytes:
    """The target that a Location names, if it is on this host; else nothing."""
    if value.startswith(b"/") and not value.startswith(b"//"):
        return value.partition(b"#")[0]
    for scheme in (b"http://", b"https://"):
        if value.lower().startswith(scheme):
            authority, slash, path = value[len(scheme) :].partition(b"/")
            named = authority.rpartition(b":")[0] if authority[-1:] != b"]" and b":" in authority else authority
            if named.lower().decode("latin-1") == host:
                return (slash + path).partition(b"#")[0] or b"/"
    return b""
