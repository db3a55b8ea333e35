"""Cache-Status as RFC 9211 writes it."""

from __future__ import annotations

import pytest

from router.cache.cache_status import CacheStatus


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (CacheStatus(hit=True, ttl=30), "ams; hit; ttl=30"),
        (CacheStatus(hit=True, ttl=-5, detail="stale-if-error"), "ams; hit; ttl=-5; detail=stale-if-error"),
        (CacheStatus(fwd="uri-miss", stored=True), "ams; fwd=uri-miss; stored"),
        (
            CacheStatus(fwd="stale", fwd_status=304, stored=True, collapsed=True),
            "ams; fwd=stale; fwd-status=304; stored; collapsed",
        ),
        (CacheStatus(fwd="bypass", detail='no "way"\\\n'), 'ams; fwd=bypass; detail="no \\"way\\"\\\\?"'),
    ],
)
def test_lines(status: CacheStatus, line: str) -> None:
    assert status.field("ams") == (b"cache-status", b"Cache-Status", line.encode())


def test_a_name_that_is_no_token_is_quoted() -> None:
    assert CacheStatus(hit=True).field("1 site")[2] == b'"1 site"; hit'
