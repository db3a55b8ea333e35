"""The cache's rules: laws of time and of freshening, then RFC 9111 clause by clause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cache.cache_control import SECONDS_MAX, read_cache_control
from router.cache.ranges import Part, part_asked
from router.cache.rules import (
    Reuse,
    conditions,
    freshened,
    invalidates,
    is_looked_up,
    is_not_modified,
    judge,
    keep,
    matches,
    may_serve_for_error,
    may_store,
    normalized,
    unconditional,
)
from router.cache.stored import values_of
from tests.router.cache.heads import DATE, NOW_MS, answered, asked, stored

DIRECTIVES = st.lists(
    st.sampled_from(
        [
            "max-age=0",
            "max-age=60",
            "max-age=600",
            "s-maxage=30",
            "no-cache",
            "must-revalidate",
            "proxy-revalidate",
            "public",
            "stale-while-revalidate=60",
            "stale-if-error=120",
            "no-cache=x",
            "nonsense",
        ]
    ),
    max_size=4,
).map(", ".join)
WISHES = st.sampled_from([b"", b"no-cache", b"max-age=10", b"min-fresh=20", b"max-stale", b"max-stale=30"])
AGES = st.integers(0, 2_000_000)
RANK = {Reuse.SERVE: 0, Reuse.SERVE_AND_VALIDATE: 1, Reuse.VALIDATE_ASKED: 2, Reuse.VALIDATE_STALE: 3}


# --- laws


@given(DIRECTIVES, st.sampled_from([(), ("Age: 20",), ("Age: x",)]), AGES, AGES)
def test_nothing_gets_younger(said: str, more: tuple[str, ...], first: int, second: int) -> None:
    """For a client that asks for nothing special, a stored answer only ever becomes less usable."""
    entry = stored(DATE, f"Cache-Control: {said}", *more)
    early, late = sorted((first, second))
    assert entry.age_s(NOW_MS + early) <= entry.age_s(NOW_MS + late)
    assert RANK[judge(entry, {}, NOW_MS + early)] <= RANK[judge(entry, {}, NOW_MS + late)]


@given(DIRECTIVES, WISHES, AGES)
def test_what_must_not_be_stale_is_not(said: str, wish: bytes, later_ms: int) -> None:
    entry = stored(DATE, f"Cache-Control: {said}")
    forbids = {b"must-revalidate", b"proxy-revalidate", b"s-maxage", b"no-cache"} & entry.directives.keys()
    now_ms = NOW_MS + later_ms
    if forbids and entry.stale_s(now_ms) >= 0:
        assert judge(entry, read_cache_control([wish]), now_ms) in (Reuse.VALIDATE_STALE, Reuse.VALIDATE_ASKED)
        assert not may_serve_for_error(entry, now_ms, SECONDS_MAX)


@given(DIRECTIVES, AGES, st.sampled_from(['ETag: W/"1"', 'ETag: "1"', "X-A: 2", "Cache-Control: max-age=9"]))
def test_freshening_twice_is_freshening_once(said: str, later_ms: int, line: str) -> None:
    entry = stored(DATE, f"Cache-Control: {said}", 'ETag: "1"', "X-A: 1")
    not_modified = answered(DATE, line, status=304)
    at_ms = NOW_MS + later_ms
    once = freshened(entry, not_modified, at_ms, at_ms)
    assert once is not None
    assert freshened(once, not_modified, at_ms, at_ms) == once
    assert (once.body, once.status, once.etag, once.varies) == (entry.body, entry.status, entry.etag, entry.varies)


@given(st.lists(st.sampled_from(["Accept: a", "Accept: b,  c", "accept: c", "X: 1", "X:"]), max_size=4))
def test_the_request_that_brought_an_answer_gets_it_again(lines: list[str]) -> None:
    request = asked(*lines)
    entry = keep(request, answered(DATE, "Vary: Accept, x"), b"", NOW_MS, NOW_MS, "fra")
    assert matches(entry, request.fields)
    assert matches(entry, asked("Accept: other", *lines).fields) == False  # noqa: E712 -- never true


@given(st.binary(max_size=30), st.integers(0, 40), st.integers(0, 40), st.sampled_from(["", "first", "last"]))
def test_a_part_is_a_slice(body: bytes, first: int, last: int, omitted: str) -> None:
    text = f"{'' if omitted == 'first' else first}-{'' if omitted == 'last' else last}"
    entry = stored(DATE, body=body)
    part = part_asked(asked(f"Range: bytes={text}").fields, entry)
    if omitted == "first":
        expected = body[-last:] if last else b""
    elif omitted == "last":
        expected = body[first:]
    elif first > last:
        assert part is None
        return
    else:
        expected = body[first : last + 1]
    assert part is not None
    assert body[part.first : part.last + 1] == expected
    assert part.satisfiable == bool(expected)


# --- what is stored (RFC 9111 part 3)


@pytest.mark.parametrize(
    ("request_lines", "lines", "status", "expected"),
    [
        ((), ("Cache-Control: max-age=60",), 200, True),
        ((), ("Cache-Control: max-age=60",), 599, True),
        ((), ("Cache-Control: public",), 599, True),
        ((), (), 599, False),
        ((), (), 200, True),
        ((), (), 404, True),
        ((), (), 403, False),
        ((), ("Cache-Control: max-age=60, must-understand",), 599, False),
        ((), ("Cache-Control: max-age=60, must-understand, no-store",), 200, True),
        ((), ("Cache-Control: max-age=60, no-store",), 200, False),
        ((), ("Cache-Control: No-Store",), 200, False),
        ((), ("Cache-Control: private",), 200, False),
        ((), ('Cache-Control: private="x"',), 200, True),
        ((), ("Cache-Control: max-age=60", "Vary: *"), 200, False),
        ((), ("Cache-Control: max-age=60", "Vary: a", "Vary: b, *"), 200, False),
        ((), ("Cache-Control: max-age=60", "Vary: " + ",".join(f"a{n}" for n in range(17))), 200, False),
        ((), ("Cache-Control: max-age=60", "Set-Cookie: a=b"), 200, True),
        ((), ("Set-Cookie: a=b",), 200, False),
        ((), ("Set-Cookie: a=b", "Last-Modified: Fri, 15 Jan 2016 08:00:00 GMT"), 200, False),
        ((), ("Cache-Control: max-age=60",), 206, False),
        ((), ("Cache-Control: max-age=60",), 304, False),
        (("Cache-Control: no-store",), ("Cache-Control: max-age=60",), 200, False),
        ((), ("CDN-Cache-Control: max-age=60", "Cache-Control: no-store"), 200, True),
        ((), ("Surrogate-Control: no-store", "Cache-Control: max-age=60"), 200, False),
        ((), ("Surrogate-Control: no-store;another", "Cache-Control: max-age=60"), 200, True),
        ((), ("Surrogate-Control: no-store;edgelattice", "Cache-Control: max-age=60"), 200, False),
        (("Authorization: Basic x",), ("Cache-Control: max-age=60",), 200, False),
        (("Authorization: Basic x",), ("Cache-Control: max-age=60, public",), 200, True),
        (("Authorization: Basic x",), ("Cache-Control: s-maxage=60",), 200, True),
        (("Authorization: Basic x",), ("Cache-Control: must-revalidate",), 200, True),
    ],
)
def test_what_may_be_stored(
    request_lines: tuple[str, ...], lines: tuple[str, ...], status: int, expected: bool
) -> None:
    assert may_store(asked(*request_lines), answered(DATE, *lines, status=status)) is expected


def test_only_answers_to_get_are_stored() -> None:
    for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        assert not may_store(asked(method=method), answered("Cache-Control: max-age=60"))


def test_fields_of_one_hop_and_of_one_user_are_not_kept() -> None:
    entry = stored(
        DATE,
        "Connection: a, close",
        "A: 1",
        "B: 2",
        "Keep-Alive: 5",
        "Transfer-Encoding: chunked",
        "Proxy-Authenticate: x",
        'Cache-Control: max-age=60, private="c", no-cache="d, e"',
        "C: 3",
        "D: 4",
        "E: 5",
    )
    assert [name for name, _, _ in entry.fields] == [b"date", b"b", b"cache-control"]


# --- how long it is good (4.2)


@pytest.mark.parametrize(
    ("lines", "lifetime_s"),
    [
        (("Cache-Control: max-age=60",), 60),
        (("Cache-Control: max-age=60, s-maxage=5",), 5),
        (("Cache-Control: s-maxage=5", "Cache-Control: max-age=60"), 5),
        (("Cache-Control: max-age=60", "Expires: Fri, 15 Jan 2027 07:00:00 GMT"), 60),
        (("Expires: Fri, 15 Jan 2027 08:01:00 GMT",), 60),
        (("Expires: Fri, 15 Jan 2027 07:00:00 GMT",), 0),
        (("Expires: 0",), 0),
        (("Last-Modified: Fri, 15 Jan 2027 07:50:00 GMT",), 60),
        (("Last-Modified: Fri, 15 Jan 2016 07:50:00 GMT",), 86_400),
        (("Last-Modified: Sat, 16 Jan 2027 07:50:00 GMT",), 0),
        (("Last-Modified: never",), 0),
        (("CDN-Cache-Control: max-age=7", "Cache-Control: max-age=60, s-maxage=80"), 7),
        (("Surrogate-Control: max-age=7", "Cache-Control: no-store"), 7),
        (("Surrogate-Control: max-age=7, max-age=9;edgelattice, max-age=8;another",), 9),
        (("Surrogate-Control: max-age=9; another ; EdgeLattice", "Cache-Control: no-store"), 9),
        (("Surrogate-Control: max-age=9;another", "Cache-Control: max-age=60"), 60),
        (("Surrogate-Control: max-age=9;another", "Expires: Fri, 15 Jan 2027 08:01:00 GMT"), 60),
        (('Surrogate-Control: content="ESI/1.0, a;b", max-age=7',), 7),
        (("Surrogate-Control: ;, ,max-age=7;",), 7),
        (("CDN-Cache-Control: public", "Expires: Fri, 15 Jan 2027 08:01:00 GMT"), 0),
        (("CDN-Cache-Control: ", "Cache-Control: max-age=60"), 60),
        ((), 0),
    ],
)
def test_lifetimes(lines: tuple[str, ...], lifetime_s: int) -> None:
    assert stored(DATE, *lines).lifetime_s == lifetime_s


@pytest.mark.parametrize(
    ("lines", "took_ms", "age_s"),
    [
        ((DATE,), 0, 10),
        ((DATE, "Age: 30"), 0, 40),
        ((DATE, "Age: 30,7"), 0, 40),
        ((DATE, "Age: 30"), 4_000, 44),
        (("Date: Fri, 15 Jan 2027 07:59:00 GMT", "Age: 30"), 0, 70),
        (("Date: Fri, 15 Jan 2027 09:00:00 GMT",), 0, 10),
        (("Date: yesterday",), 0, 10),
        ((), 0, 10),
        ((DATE, "Age: x"), 0, SECONDS_MAX + 10),
        ((DATE, "Age: -1"), 0, SECONDS_MAX + 10),
        ((DATE, "Age: 0", "Age: 0"), 0, SECONDS_MAX + 10),
    ],
)
def test_ages(lines: tuple[str, ...], took_ms: int, age_s: int) -> None:
    assert stored(*lines, took_ms=took_ms).age_s(NOW_MS + 10_000) == age_s


# --- what it may answer (4, 5.2.1; RFC 5861)


@pytest.mark.parametrize(
    ("said", "wish", "later_s", "expected"),
    [
        ("max-age=60", b"", 59, Reuse.SERVE),
        ("max-age=60", b"", 60, Reuse.VALIDATE_STALE),
        ("max-age=60, stale-while-revalidate=30", b"", 60, Reuse.SERVE_AND_VALIDATE),
        ("max-age=60, stale-while-revalidate=30", b"", 90, Reuse.SERVE_AND_VALIDATE),
        ("max-age=60, stale-while-revalidate=30", b"", 91, Reuse.VALIDATE_STALE),
        ("s-maxage=60, stale-while-revalidate=30", b"", 60, Reuse.VALIDATE_STALE),
        ("max-age=60, no-cache", b"", 0, Reuse.VALIDATE_STALE),
        ('max-age=60, no-cache="x"', b"", 0, Reuse.SERVE),
        ("max-age=60", b"no-cache", 0, Reuse.VALIDATE_ASKED),
        ("max-age=60", b"max-age=10", 10, Reuse.SERVE),
        ("max-age=60", b"max-age=10", 11, Reuse.VALIDATE_ASKED),
        ("max-age=60", b"min-fresh=10", 50, Reuse.SERVE),
        ("max-age=60", b"min-fresh=10", 51, Reuse.VALIDATE_ASKED),
        ("max-age=60", b"max-stale", 9_999, Reuse.SERVE),
        ("max-age=60", b"max-stale=10", 70, Reuse.SERVE),
        ("max-age=60", b"max-stale=10", 71, Reuse.VALIDATE_STALE),
        ("max-age=60, must-revalidate", b"max-stale", 61, Reuse.VALIDATE_STALE),
        ("max-age=60, no-cache", b"max-stale", 61, Reuse.VALIDATE_STALE),
    ],
)
def test_reuse(said: str, wish: bytes, later_s: int, expected: Reuse) -> None:
    entry = stored(DATE, f"Cache-Control: {said}")
    assert judge(entry, read_cache_control([wish]), NOW_MS + later_s * 1_000) is expected


@pytest.mark.parametrize(
    ("said", "grace_s", "later_s", "expected"),
    [
        ("max-age=60", 0, 59, True),
        ("max-age=60", 0, 61, False),
        ("max-age=60", 30, 90, True),
        ("max-age=60", 30, 91, False),
        ("max-age=60, stale-if-error=5", 30, 66, False),
        ("max-age=60, stale-if-error=50", 0, 110, True),
        ("max-age=60, must-revalidate, stale-if-error=50", 99, 61, False),
    ],
)
def test_standing_in_for_an_error(said: str, grace_s: int, later_s: int, expected: bool) -> None:
    entry = stored(DATE, f"Cache-Control: {said}")
    assert may_serve_for_error(entry, NOW_MS + later_s * 1_000, grace_s) is expected


@pytest.mark.parametrize(
    ("method", "lines", "expected"),
    [
        ("GET", (), True),
        ("HEAD", (), True),
        ("GET", ("Range: bytes=0-1",), True),
        ("GET", ("If-None-Match: x",), True),
        ("GET", ("If-Match: x",), False),
        ("GET", ("If-Unmodified-Since: x",), False),
        ("GET", ("Content-Length: 3",), False),
        ("GET", ("Cache-Control: no-store",), False),
        ("POST", (), False),
    ],
)
def test_who_is_looked_up(method: str, lines: tuple[str, ...], expected: bool) -> None:
    request = asked(*lines, method=method)
    wishes = read_cache_control(values_of(request.fields, b"cache-control"))
    assert is_looked_up(request, wishes) is expected


# --- validation (4.3)


def test_the_question_names_both_validators_and_drops_what_the_client_compares() -> None:
    entry = stored(DATE, 'ETag: "1"', "Last-Modified: Fri, 15 Jan 2027 07:00:00 GMT")
    assert [(key, value) for key, _, value in conditions(entry)] == [
        (b"if-none-match", b'"1"'),
        (b"if-modified-since", b"Fri, 15 Jan 2027 07:00:00 GMT"),
    ]
    request = asked("If-None-Match: x", "If-Modified-Since: y", "Range: bytes=0-1", "If-Range: z", "A: b")
    assert [key for key, _, _ in unconditional(request.fields)] == [b"host", b"a"]
    assert conditions(stored(DATE)) == ()


def test_a_304_replaces_fields_but_not_what_the_body_is() -> None:
    entry = stored(
        DATE, "Age: 50", 'ETag: "1"', "Content-Encoding: gzip", "A: old", "B: old", "Cache-Control: max-age=1"
    )
    later = "Date: Fri, 15 Jan 2027 08:10:00 GMT"
    fresh = freshened(
        entry,
        answered(later, 'ETag: W/"1"', "Content-Encoding: br", "A: new", "Cache-Control: max-age=60", status=304),
        NOW_MS + 600_000,
        NOW_MS + 600_000,
    )
    assert fresh is not None
    assert {key: value for key, _, value in fresh.fields} == {
        b"etag": b'"1"',
        b"content-encoding": b"gzip",
        b"b": b"old",
        b"date": b"Fri, 15 Jan 2027 08:10:00 GMT",
        b"a": b"new",
        b"cache-control": b"max-age=60",
    }
    assert (fresh.age_s(NOW_MS + 600_000), fresh.lifetime_s) == (0, 60)


def test_a_304_about_something_else_freshens_nothing() -> None:
    assert freshened(stored(DATE, 'ETag: "1"'), answered(DATE, 'ETag: "2"', status=304), NOW_MS, NOW_MS) is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), False),
        (('If-None-Match: "1"',), True),
        (('If-None-Match: W/"1"',), True),
        (('If-None-Match: "0", "1"',), True),
        (("If-None-Match: *",), True),
        (('If-None-Match: "2"',), False),
        (('If-None-Match: "2"', "If-Modified-Since: Fri, 15 Jan 2027 08:00:00 GMT"), False),
        (("If-Modified-Since: Fri, 15 Jan 2027 07:00:00 GMT",), True),
        (("If-Modified-Since: Fri, 15 Jan 2027 06:59:59 GMT",), False),
        (("If-Modified-Since: tomorrow",), False),
    ],
)
def test_what_the_client_has(lines: tuple[str, ...], expected: bool) -> None:
    entry = stored(DATE, 'ETag: "1"', "Last-Modified: Fri, 15 Jan 2027 07:00:00 GMT")
    assert is_not_modified(asked(*lines), entry) is expected


# --- parts (RFC 9110 part 14)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("Range: bytes=0-1",), Part(0, 1, 5)),
        (("Range: bytes=0-99",), Part(0, 4, 5)),
        (("Range: bytes=5-",), Part(0, -1, 5)),
        (("Range: bytes=0-1,3-4",), None),
        (("Range: bytes=-",), None),
        (("Range: lines=0-1",), None),
        (("Range: bytes=0-1", "Range: bytes=3-4"), None),
        (("Range: bytes=0-1", 'If-Range: "1"'), Part(0, 1, 5)),
        (("Range: bytes=0-1", 'If-Range: W/"1"'), None),
        (("Range: bytes=0-1", 'If-Range: "2"'), None),
        (("Range: bytes=0-1", "If-Range: Fri, 15 Jan 2027 07:00:00 GMT"), Part(0, 1, 5)),
        (("Range: bytes=0-1", "If-Range: Fri, 15 Jan 2027 07:00:01 GMT"), None),
    ],
)
def test_parts(lines: tuple[str, ...], expected: Part | None) -> None:
    entry = stored(DATE, 'ETag: "1"', "Last-Modified: Fri, 15 Jan 2027 07:00:00 GMT")
    assert part_asked(asked(*lines).fields, entry) == expected


def test_invalidation_is_by_what_changed_something() -> None:
    assert invalidates(b"POST", 200)
    assert invalidates(b"M-SEARCH", 302)
    assert not invalidates(b"POST", 500)
    assert not invalidates(b"GET", 200)


def test_normalizing_forgets_blanks_and_lines_only() -> None:
    assert normalized([b" a ,b", b"c"]) == b"a,b,c"
    assert normalized([b""]) == b""
    assert normalized([]) is None
