"""Lines of access logs: three formats, and what is none of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.decision.request import Request
from router.decision.traffic_study import read_log_line

COMMON = '203.0.113.9 - frank [10/Oct/2026:13:55:36 +0000] "GET /cart?x=1 HTTP/1.1" 200 2326'
JSON = (
    '{"remote_addr": "203.0.113.9", "request_uri": "/cart?x=1", "headers": {"X-A": "b"}, "country": "DE", "asn": 64500}'
)

USER = Request("203.0.113.9", "shop", "/cart?x=1")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (COMMON, USER),
        (f'{COMMON} "https://ref" "curl/8"', Request(*USER[:4], (("user-agent", "curl/8"),))),
        (f'{COMMON} "-" "-"', USER),
        (JSON, Request("203.0.113.9", "shop", "/cart?x=1", "GET", (("x-a", "b"),), "DE", "", 64_500)),
        ('{"client": "::1", "host": "other", "path": "/", "method": "PUT"}', Request("::1", "other", "/", "PUT")),
        ('{"path": "/"}', None),
        ("[]", None),
        ("{" * 100_000, None),
        ("GET /", None),
    ],
)  # fmt: skip
def test_a_line_is_a_request_or_none(line: str, expected: Request | None) -> None:
    assert read_log_line(line, "shop") == expected


@given(st.one_of(st.text(), st.text().map(lambda text: "{" + text), st.text().map(lambda text: COMMON[:40] + text)))
def test_no_line_raises(line: str) -> None:
    read_log_line(line, "shop")
