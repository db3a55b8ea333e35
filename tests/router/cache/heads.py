"""Heads for the cache's rules, written as they are on the wire."""

from __future__ import annotations

from router.cache.rules import keep
from router.cache.stored import Stored
from router.traffic.http1 import RequestHead, ResponseHead, parse_request, parse_response

NOW_MS = 1_800_000_000_000
"""Fri, 15 Jan 2027 08:00:00 GMT"""
DATE = "Date: Fri, 15 Jan 2027 08:00:00 GMT"


def asked(*lines: str, method: str = "GET") -> RequestHead:
    return parse_request("\r\n".join((f"{method} /a HTTP/1.1", "Host: h", *lines, "", "")).encode())


def answered(*lines: str, status: int = 200) -> ResponseHead:
    return parse_response("\r\n".join((f"HTTP/1.1 {status} Words", *lines, "", "")).encode("latin-1"))


def stored(*lines: str, status: int = 200, body: bytes = b"hello", at_ms: int = NOW_MS, took_ms: int = 0) -> Stored:
    return keep(asked(), answered(*lines, status=status), body, at_ms - took_ms, at_ms, "fra")
