"""A request's turn: misses, hits, validation, standing in, and many who want the same at once."""

from __future__ import annotations

import pytest

from router.cache.store import Key, Purge
from router.cache.stored import Stored
from router.cache.turn import Fetch, SiteCache, Turn
from router.policy.paths import PathPattern
from router.traffic.http1 import RequestHead, ResponseHead
from tests.router.cache.heads import DATE, NOW_MS, answered, asked

KEY = Key("shop", "", "", "http", b"h", "h", b"/a")
FRESH = answered(DATE, "Cache-Control: max-age=60", 'ETag: "1"')
LATER_MS = NOW_MS + 100_000


def cache(object_bytes_max: int = 1_000) -> SiteCache:
    return SiteCache(100_000, object_bytes_max)


def turn(site: SiteCache, request: RequestHead | None = None, grace_s: int = 0) -> Turn:
    made = site.turn(KEY, request or asked(), grace_s)
    assert made is not None
    return made


def fill(site: SiteCache, response: ResponseHead = FRESH, body: bytes = b"hello", at_ms: int = NOW_MS) -> Turn:
    """A turn that has asked, and got this."""
    made = turn(site)
    assert made.look(at_ms) is None
    assert made.answered(response, at_ms, "fra") is None
    made.take(body[:2])
    made.take(body[2:])
    made.whole()
    made.close()
    return made


def test_what_was_fetched_once_is_given_again() -> None:
    site = cache()
    assert fill(site).status.field("lis")[2] == b"lis; fwd=uri-miss; fwd-status=200; stored"
    again = turn(site)
    stored = again.look(NOW_MS + 10_000)
    assert isinstance(stored, Stored)
    assert (stored.body, stored.status, stored.region) == (b"hello", 200, "fra")
    assert again.status.field("lis")[2] == b"lis; hit; ttl=50"
    assert site.counters == {"miss": 1, "stored": 1, "hit": 1, "collapsed": 0}
    assert not site.fetches


def test_a_body_cut_off_is_not_kept() -> None:
    site = cache()
    made = turn(site)
    made.look(NOW_MS)
    made.answered(FRESH, NOW_MS, "fra")
    made.take(b"hel")
    made.close()
    assert turn(site).look(NOW_MS) is None


def test_many_who_want_the_same_ask_once() -> None:
    site = cache()
    first = turn(site)
    assert first.look(NOW_MS) is None
    woken = []
    others = [turn(site) for _ in range(3)]
    for number, other in enumerate(others):
        fetch = other.look(NOW_MS)
        assert isinstance(fetch, Fetch)
        fetch.waiters.append(lambda number=number: woken.append(number))  # type: ignore[misc]  # bound per call
    first.answered(FRESH, NOW_MS, "fra")
    first.take(b"hello")
    assert woken == []
    first.whole()
    assert woken == [0, 1, 2]
    for other in others:
        assert isinstance(other.look(NOW_MS), Stored)
        assert other.status.collapsed
    assert site.counters["collapsed"] == 3


@pytest.mark.parametrize("end", ["not storable", "gone", "too large", "said to be too large"])
def test_nobody_waits_for_what_will_not_be_kept(end: str) -> None:
    site = cache(object_bytes_max=4)
    first, second = turn(site), turn(site)
    first.look(NOW_MS)
    fetch = second.look(NOW_MS)
    assert isinstance(fetch, Fetch)
    woken: list[bool] = []
    fetch.waiters.append(lambda: woken.append(True))
    match end:
        case "not storable":
            first.answered(answered("Cache-Control: no-store"), NOW_MS, "fra")
        case "gone":
            first.close()
        case "too large":
            first.answered(FRESH, NOW_MS, "fra")
            first.take(b"hello")
        case _:
            first.answered(answered(DATE, "Cache-Control: max-age=60", "Content-Length: 5"), NOW_MS, "fra")
    assert woken == [True]
    first.close()
    first.whole()
    assert second.look(NOW_MS) is None, "each asks for itself now, and waits for nobody twice"
    assert turn(site).look(NOW_MS) is not None, "but who comes new waits for the second"
    assert len(site.store) == 0


def test_a_304_freshens_and_answers() -> None:
    site = cache()
    fill(site)
    made = turn(site, asked('If-None-Match: "client"', "A: b"))
    assert made.look(LATER_MS) is None
    assert {key: value for key, _, value in made.forward.fields} == {
        b"host": b"h",
        b"a": b"b",
        b"if-none-match": b'"1"',
        b"surrogate-capability": b'edgelattice="Surrogate/1.0"',
    }
    stored = made.answered(answered("Cache-Control: max-age=30", status=304), LATER_MS, "fra")
    assert stored is not None
    assert stored.body == b"hello"
    assert made.status.field("lis")[2] == b"lis; fwd=stale; fwd-status=304; ttl=30; stored"
    made.close()
    assert isinstance(turn(site).look(LATER_MS + 29_000), Stored)


def test_a_new_answer_takes_the_place_of_the_stale_one() -> None:
    site = cache()
    fill(site)
    later = answered("Date: Fri, 15 Jan 2027 08:01:40 GMT", "Cache-Control: max-age=60", 'ETag: "2"')
    fill(site, later, b"world", LATER_MS)
    stored = turn(site).look(LATER_MS)
    assert isinstance(stored, Stored)
    assert (stored.body, len(site.store)) == (b"world", 1)


def test_an_answer_that_may_not_be_kept_ends_the_stale_one() -> None:
    site = cache()
    fill(site)
    fill(site, answered("Cache-Control: no-store"), b"secret", LATER_MS)
    assert len(site.store) == 0


@pytest.mark.parametrize("grace_s", [0, 39, 40])
@pytest.mark.parametrize("status", [0, 404, 500, 503])
def test_a_stale_answer_stands_in_for_an_error_within_its_grace(grace_s: int, status: int) -> None:
    """It was fresh for 60 s, and 100 have passed. Status 0: nobody answered at all."""
    site = cache()
    fill(site)
    made = turn(site, grace_s=grace_s)
    assert made.look(LATER_MS) is None
    response = answered("Cache-Control: no-store", status=status) if status else None
    stored = made.failed(LATER_MS) if response is None else made.answered(response, LATER_MS, "fra")
    if grace_s >= 40 and status != 404:
        assert stored is not None
        assert b"detail=stale-if-error" in made.status.field("lis")[2]
        assert b"ttl=-40" in made.status.field("lis")[2]
    else:
        assert stored is None
    made.close()
    assert len(site.store) == (status != 404), "an error does not end what is stored, any other answer does"


def test_stale_while_it_is_asked_for_again() -> None:
    site = cache()
    fill(site, answered(DATE, "Cache-Control: max-age=60, stale-while-revalidate=60"))
    made = turn(site)
    assert isinstance(made.look(LATER_MS), Stored)
    assert made.revalidates
    behind = turn(site)
    behind.lead(made.look(LATER_MS), LATER_MS)  # type: ignore[arg-type]  # it is stored, as above
    other = turn(site)
    assert isinstance(other.look(LATER_MS), Stored)
    assert not other.revalidates, "one asks, for all"


def test_only_if_cached_waits_for_nobody() -> None:
    site = cache()
    turn(site).look(NOW_MS)
    made = turn(site, asked("Cache-Control: only-if-cached"))
    assert made.only_if_cached
    assert made.look(NOW_MS) is None


def test_a_purge_reaches_what_is_on_its_way() -> None:
    site = cache()
    made = turn(site)
    made.look(NOW_MS)
    site.store.purge(Purge("h", PathPattern.compiled("/**"), NOW_MS + 1))
    made.answered(FRESH, NOW_MS + 2, "fra")
    made.whole()
    assert len(site.store) == 0


@pytest.mark.parametrize(
    ("lines", "status", "gone"),
    [
        ((), 200, {b"/post"}),
        ((), 500, set()),
        (("Location: /a",), 303, {b"/post", b"/a"}),
        (("Location: http://H:8080/a?b#c",), 201, {b"/post", b"/a?b"}),
        (("Content-Location: //h/a",), 200, {b"/post"}),
        (("Location: https://other/a",), 201, {b"/post"}),
        (("Location: http://h",), 201, {b"/post", b"/"}),
    ],
)
def test_what_changes_something_ends_what_it_speaks_of(lines: tuple[str, ...], status: int, gone: set[bytes]) -> None:
    site = cache()
    targets = [b"/post", b"/a", b"/a?b", b"/"]
    for target in targets:
        made = site.turn(KEY._replace(target=target), asked(), 0)
        assert made is not None
        made.look(NOW_MS)
        made.answered(FRESH, NOW_MS, "fra")
        made.whole()
    post = asked(method="POST")._replace(target=b"/post")
    site.changed("h", post, answered(*lines, status=status))
    left = {target for target in targets if site.store.find(KEY._replace(target=target), asked().fields)[0]}
    assert left == set(targets) - gone
    assert site.counters["invalidated"] == len(gone)


def test_who_may_not_be_answered_from_it_has_no_turn() -> None:
    assert cache().turn(KEY, asked(method="POST"), 0) is None
    assert cache().turn(KEY, asked("Cache-Control: no-store"), 0) is None
