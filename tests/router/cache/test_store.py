"""The store: never over its bound, and nothing comes out that was dropped or purged."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from router.cache.rules import keep
from router.cache.store import VARIANTS_MAX, CacheStore, Key, Purge
from router.cache.stored import OVERHEAD_BYTES, Stored
from router.policy.paths import PathPattern
from tests.router.cache.heads import DATE, NOW_MS, answered, asked

ALL = PathPattern.compiled("/**")


def key(number: int = 0, host: str = "h", rule: str = "") -> Key:
    return Key("shop", rule, "", "https", host.encode(), host, b"/p/%d?q" % number)


def entry(size: int = 0, language: str = "de", at_ms: int = NOW_MS) -> Stored:
    request = asked(f"Accept-Language: {language}")
    return keep(request, answered(DATE, "Vary: Accept-Language"), b"x" * size, at_ms, at_ms, "fra")


SIZES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4_000), st.sampled_from(["de", "en", "fr"])), max_size=60)


@given(SIZES, st.integers(1, 20_000))
def test_it_never_holds_more_than_it_may(puts: list[tuple[int, int, str]], bytes_max: int) -> None:
    store = CacheStore(bytes_max, object_bytes_max=3_000)
    for number, size, language in puts:
        stored = entry(size, language)
        kept = store.put(key(number), stored)
        assert kept == (size <= 3_000 and stored.size <= bytes_max)
        if kept:
            found, known = store.find(key(number), asked(f"Accept-Language: {language}").fields)
            assert found is stored
            assert known
        assert 0 <= store.size <= bytes_max
        assert store.size >= len(store) * OVERHEAD_BYTES
    store.purge(Purge("*", ALL, NOW_MS))
    assert (store.size, len(store)) == (0, 0)


def test_the_least_recently_used_goes_first() -> None:
    one = entry(100)
    store = CacheStore(one.size * 2, 1_000)
    fields = asked("Accept-Language: de").fields
    store.put(key(1), one)
    store.put(key(2), entry(100))
    assert store.find(key(1), fields)[0] is one
    store.put(key(3), entry(100))
    assert store.find(key(2), fields) == (None, False)
    assert store.find(key(1), fields)[0] is one
    assert store.evicted == 1


def test_a_variant_takes_its_own_place_only() -> None:
    store = CacheStore(1_000_000, 1_000)
    german, english, again = entry(1), entry(2, "en"), entry(3)
    for stored in (german, english, again):
        store.put(key(), stored)
    assert store.find(key(), asked("Accept-Language: de").fields) == (again, True)
    assert store.find(key(), asked("Accept-Language: en").fields) == (english, True)
    assert store.find(key(), asked().fields) == (None, True)
    assert store.size == english.size + again.size


def test_variants_are_bounded() -> None:
    store = CacheStore(10_000_000, 1_000)
    for number in range(VARIANTS_MAX + 5):
        store.put(key(), entry(1, f"x{number}"))
    assert len(store) == VARIANTS_MAX
    assert store.size == sum(entry(1, f"x{number}").size for number in range(5, VARIANTS_MAX + 5))


def test_rules_and_hosts_are_kept_apart_and_invalidated_together() -> None:
    store = CacheStore(1_000_000, 1_000)
    fields = asked("Accept-Language: de").fields
    for place in (key(rule="a"), key(rule="b"), key(host="other"), key(1)):
        store.put(place, entry())
    assert store.find(key(rule="c"), fields) == (None, False)
    store.invalidate("h", b"/p/0?q")
    assert [store.find(place, fields)[1] for place in (key(rule="a"), key(rule="b"), key(host="other"), key(1))] == [
        False,
        False,
        True,
        True,
    ]


def test_a_purge_takes_what_it_covers_also_what_is_on_its_way() -> None:
    store = CacheStore(1_000_000, 1_000)
    fields = asked("Accept-Language: de").fields
    for place in (key(1, "a.example.com"), key(2, "a.example.com"), key(1, "other")):
        store.put(place, entry())
    purge = Purge("*.example.com", PathPattern.compiled("/p/1"), NOW_MS + 5)
    assert store.purge(purge) == 1
    assert not store.find(key(1, "a.example.com"), fields)[1]
    assert store.find(key(2, "a.example.com"), fields)[1]
    assert store.find(key(1, "other"), fields)[1]
    assert not store.put(key(1, "a.example.com"), entry(at_ms=NOW_MS + 5))
    assert store.put(key(1, "a.example.com"), entry(at_ms=NOW_MS + 6))


def test_forgetting_is_of_that_very_response() -> None:
    store = CacheStore(1_000_000, 1_000)
    old, new = entry(1), entry(1)
    store.put(key(), old)
    store.put(key(), new)
    store.forget(key(), old)
    store.forget(key(5), old)
    assert len(store) == 1
    store.forget(key(), replace(new))
    assert len(store) == 1
    store.forget(key(), new)
    assert (len(store), store.size) == (0, 0)
