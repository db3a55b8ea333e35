"""The leaves of the engine, each against the Python that it must read like: addresses, hosts, queries, cookies, tokens,
logarithms, windows. Random texts, made of what such texts are made of."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from functools import cache

import wasmtime
from hypothesis import example, given
from hypothesis import strategies as st
from mmh3 import hash64

from lattice.types import SECOND
from router.decision import request as python
from router.decision.layout import SitePlace
from router.decision.program import compile_policy
from router.decision.rendezvous import minus_log2
from router.decision.request import Request
from router.decision.wasm import layout
from router.decision.wasm.abi import request_bytes, view_bytes
from router.decision.wasm.binary import module
from router.decision.wasm.engine import hashing, parts, token
from router.decision.wasm.module import EXPORTS, engine_of
from router.policy import parse
from router.policy.hosts import host_key
from router.policy.syntax import Policy
from router.policy.windows import Window, read_window
from router.policy.zones import read_client
from tests.router.decision.wasm.rig import Rig

POLICY = parse('edition 1\nregion fra { at 50 8 endpoint 192.0.2.1:80 }\nroute all for "*" { primary nearest }\n')
HERE = SitePlace("here", 0, 0)
EXTRA = (parts.find_query, parts.find_cookie, parts.find_header, token.find_claim, hashing.hashed, hashing.minus_log2)
NAME_AT = layout.HASHED
"""Where a test writes what it looks for; no reader needs that place."""


@cache
def engine() -> tuple[wasmtime.Engine, wasmtime.Module]:
    """The engine with its leaves exported too."""
    exported = (*EXPORTS, *EXTRA)
    functions, constants = engine_of(exported)
    names = [(each.__name__, number) for number, each in enumerate(exported)]
    made = wasmtime.Engine()
    return made, wasmtime.Module(made, module(functions, names, 32, constants))


class Leaves(Rig):
    def __init__(self, policy: Policy = POLICY, now: int = 0) -> None:
        program = compile_policy(policy)
        super().__init__(program, engine())
        self.until = self.plan(view_bytes(program, {}, HERE, now))

    def read(self, request: Request) -> None:
        self.decide(request_bytes(request))

    def write(self, content: bytes) -> None:
        self._memory.write(self._store, content, NAME_AT)

    def found(self, reader: str, request: Request, name: str) -> str | None:
        """What one of the readers finds in a request."""
        self.read(request)
        encoded = name.encode("utf-8", "surrogatepass")
        self.write(len(encoded).to_bytes(4, "little") + encoded)
        if not self.call(reader, NAME_AT):
            return None
        return self.memory(self.number(layout.PART), self.number(layout.PART_SIZE)).decode("utf-8", "surrogatepass")


@cache
def leaves() -> Leaves:
    return Leaves()


def made_of(*pieces: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces) | st.characters(codec="utf-8"), max_size=14).map("".join)


@given(st.one_of(st.ip_addresses().map(str), made_of(*"0123456789abcdefABCDEF:::::....%/ ", "::", "25", "ffff", "00")))
@example("::")
@example("1:2:3:4:5:6:7::")
@example("::2:3:4:5:6:7:8")
@example("1:2:3:4:5:6:7:8::")
@example("::ffff:1.2.3.4%eth0")
@example("1.2.3.4%eth0")
@example("1:2:3:4:5:6:1.2.3.4")
@example(":1:2:3:4:5:6:7")
def test_addresses_are_read_as_strictly(text: str) -> None:
    wasm = leaves()
    wasm.read(Request(text, "", ""))
    family, high, low = (wasm.number(at) for at in (layout.FAMILY, layout.ADDRESS_HIGH + 4, layout.ADDRESS_LOW + 4))
    address = int.from_bytes(wasm.memory(layout.ADDRESS_HIGH, 8), "little") << 64
    address |= int.from_bytes(wasm.memory(layout.ADDRESS_LOW, 8), "little")
    client = {0: None, 4: address.to_bytes(16, "big")[12:], 6: address.to_bytes(16, "big")}[family]
    assert client == read_client(text), (high, low)


@given(made_of("A", "b", ".", ":", "[", "]", "\u212a", "\u0130", "ex", "443"))
def test_hosts_are_read_alike(host: str) -> None:
    wasm = leaves()
    wasm.read(Request("", host, ""))
    key = wasm.memory(layout.HOST_KEY, wasm.number(layout.HOST_KEY_SIZE)).decode("utf-8")
    # What is not ASCII is in no pattern, in either case.
    assert [c if c.isascii() else "" for c in key.lower()] == [c if c.isascii() else "" for c in host_key(host)]


def test_no_other_character_has_a_lower_case_inside_ascii() -> None:
    """But U+0130, which becomes i and a dot above it: no pattern has that dot."""
    assert [c for c in map(chr, range(128, 0x110000)) if c.lower().isascii()] == ["\u212a"]


def test_white_space_is_what_python_says() -> None:
    wasm = leaves()
    for point in (*range(0x3100), 0xFEFF, 0x1D7CE):
        if chr(point) != ";":
            request = Request("", "", "", headers=(("cookie", f"{chr(point)}a=1{chr(point)}"),))
            assert wasm.found("find_cookie", request, "a") == python.cookie(request, "a"), hex(point)


@given(made_of("q", "=", "&", "+", "%", "%2", "%71", "%C3", "%a9", "%E2%82%AC", "%ed%a0%80", "%F0%9f", "?", "\u00e9"))
@example("%F4%90%80%80=&q=%e0%9f%bf%F0%90%80")
def test_queries_are_read_alike(text: str) -> None:
    for path in (f"/a?{text}", f"?q={text}"):
        request = Request("", "", path)
        assert leaves().found("find_query", request, "q") == python.query(request, "q")


@given(
    st.lists(made_of("uid", "=", ";", '"', " ", "\u00a0", "\u2003", "uid=7"), max_size=3), st.sampled_from(("uid", "q"))
)
def test_cookies_and_headers_are_read_alike(values: list[str], name: str) -> None:
    headers = (("x", "1"), *(("cookie", value) for value in values), ("q", "2"), ("q", "3"))
    request = Request("", "", "", headers=headers)
    assert leaves().found("find_cookie", request, name) == python.cookie(request, name)
    assert leaves().found("find_header", request, name) == python.header(request, name)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("sub", "a")) | st.text(), inner, max_size=3)
    ),
)
objects = st.dictionaries(st.sampled_from(("sub", "a", "\u00e9")), values, max_size=3)
tokens = st.one_of(
    objects.map(json.dumps),
    objects.map(lambda each: json.dumps(each, ensure_ascii=False, indent=1)),
    made_of(
        '{"sub":',
        "{",
        "}",
        "[",
        "]",
        '"',
        ":",
        ",",
        "\\u00e9",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\",
        "1",
        "-0",
        "1e5",
        " ",
    ),
    made_of('{"sub":"x"', ',"sub":', "}", "7", "null", "[]", '"\\n"', '"', "01", "1.5", "-", "tru", "NaN"),
    st.integers(25, 40).map(lambda depth: '{"sub":"x","a":' + "[" * depth + "]" * depth + "}"),
)


@given(tokens, st.sampled_from(("sub", "\u00e9")), st.sampled_from(("", "=", "==", "?")))
@example('{"sub":"\\ud800\\u0041"}', "sub", "")
@example('{"sub":12345678901234567890123456789}', "sub", "")
@example('\ufeff{"sub":"x"}', "sub", "")
def test_claims_are_read_alike(payload: str, claim: str, padding: str) -> None:
    encoded = base64.urlsafe_b64encode(payload.encode("utf-8", "surrogatepass")).decode("ascii").rstrip("=")
    request = Request("", "", "", headers=(("authorization", f"Bearer e30.{encoded}{padding}.x"),))
    assert leaves().found("find_claim", request, claim) == python.jwt_claim(request, claim)


@given(made_of("Bearer", "bearer ", " ", ".", "e30", "eyJzdWIiOiJ4In0", "eyJzdWIiOiJ4In", "=", "-", "/"))
@example("BEARER .eyJzdWIiOiJ4In0.")
def test_tokens_are_taken_apart_alike(value: str) -> None:
    request = Request("", "", "", headers=(("authorization", value),))
    assert leaves().found("find_claim", request, "sub") == python.jwt_claim(request, "sub")


def test_a_token_has_a_greatest_length() -> None:
    for size in (python.JWT_BYTES_MAX - 20, python.JWT_BYTES_MAX - 19):
        request = Request("", "", "", headers=(("authorization", f"Bearer .eyJzdWIiOiJ4In0.{'x' * (size + 3)}"),))
        found = leaves().found("find_claim", request, "sub")
        assert found == python.jwt_claim(request, "sub")
        assert found == ("x" if size == python.JWT_BYTES_MAX - 20 else None)


@given(st.binary(max_size=70))
def test_the_hash_is_mmh3(content: bytes) -> None:
    leaves().write(content)
    found = leaves().call64("hashed", NAME_AT, len(content))
    assert found == hash64(content, signed=False)[0]


@given(st.integers(0, (1 << 64) - 1))
@example(0)
@example((1 << 64) - 1)
@example((1 << 63) - 1)
def test_the_logarithm_is_the_same(number: int) -> None:
    assert leaves().call64("minus_log2", number - (number >> 63 << 64)) == minus_log2(number)


@st.composite
def some_windows(draw: st.DrawFn) -> Window:
    zone = draw(
        st.sampled_from(("Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Gaza", "Pacific/Apia"))
    )
    start, end = (f"{minute // 60:02}:{minute % 60:02}" for minute in draw(st.tuples(*[st.integers(0, 1_439)] * 2)))
    if draw(st.integers(0, 3)) == 0:
        first = draw(st.sampled_from(("1970-01-01", "2027-03-28")))
        return read_window(f"{first} {start} to 2027-03-29 {end} {zone}")
    days = draw(st.sets(st.sampled_from(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")), min_size=1))
    return read_window(f"{','.join(sorted(days))} {start}-{end} {zone}")


@given(
    st.lists(some_windows(), min_size=1, max_size=4, unique=True),
    st.one_of(st.integers(1_806_000_000, 1_806_900_000), st.integers(0, 7_200_000_000)),
    st.integers(0, 3),
)
@example([read_window("1970-01-01 00:00 to 2027-03-28 03:00 Europe/Berlin")], 0, 0)
@example([read_window("Sun 02:00-03:00 Europe/Berlin")], 1_805_594_400, 0)  # and a gap takes the next one
def test_windows_are_open_alike(drawn: list[Window], now_s: int, micros: int) -> None:
    now = now_s * SECOND + micros
    ours = [window for window in drawn if window.first or window.days]
    wasm = Leaves(replace(POLICY, regions=(replace(POLICY.regions[0], avoid=tuple(ours)),)), now)
    states = wasm.memory(wasm.number(layout.WINDOW_STATES), len(ours))
    assert [bool(state) for state in states] == [window.open_at(now) for window in ours]
    edges = [window.next_edge(now) for window in ours]
    assert wasm.until == min((edge for edge in edges if edge is not None), default=None)
