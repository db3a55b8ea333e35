"""A policy's own module: what it holds, what it refuses, and that no bytes take it down."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random

import pytest
import wasmtime
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from lattice.types import Level
from router.decision.decide import decide
from router.decision.decision_bytes import decision_bytes
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.decision.program import Program, compile_policy
from router.decision.request import Request
from router.decision.wasm import image, layout
from router.decision.wasm.abi import ERRORS, RefusedError, request_bytes, view_bytes
from router.decision.wasm.host import WasmPolicy
from router.decision.wasm.image import ImageTooLargeError, policy_image
from router.decision.wasm.module import policy_module
from router.policy.json_form import from_json, to_json
from router.policy.syntax import Policy
from tests.router.decision.wasm import corpus
from tests.router.decision.wasm.rig import Rig
from tests.router.policy.rule_strategies import some_requests, whole_policies

ROOT = Path(__file__).parents[4]
HERE = SitePlace("here", 50_000_000, 8_000_000)
NOON = 1_806_000_000_000_000


@cache
def shop() -> Program:
    return corpus.program()


@cache
def module() -> bytes:
    return policy_module(shop())


def test_it_needs_nothing_and_offers_what_is_documented() -> None:
    made = wasmtime.Module(wasmtime.Engine(), module())
    assert made.imports == []
    offered = {each.name: str(type(each.type).__name__) for each in made.exports}
    functions = dict.fromkeys(("abi", "alloc", "plan", "valid_until", "decide", "output"), "FuncType")
    assert offered == {"memory": "MemoryType", **functions}
    (memory,) = (each.type for each in made.exports if isinstance(each.type, wasmtime.MemoryType))
    assert memory.limits.min == memory.limits.max, "what it needs is known, and it takes no more"


@profile(max_examples=5)
@given(whole_policies(), st.integers(0, 1 << 32))
def test_a_module_decides_as_its_policy(policy: Policy, seed: int) -> None:
    program = compile_policy(policy)
    wasm = WasmPolicy(policy_module(program))
    table = plan(program, {}, HERE, NOON)
    assert wasm.plan(view_bytes(program, {}, HERE, NOON)) == table.valid_until
    for request in some_requests(Random(seed), 50):
        assert wasm.decide(request_bytes(request)) == decision_bytes(decide(table, request, frozenset()))


def test_equal_policies_have_equal_modules_in_every_process() -> None:
    again = policy_module(compile_policy(from_json(to_json(shop().policy))))
    assert again == module()
    script = (
        "import hashlib; from router.decision.wasm.module import policy_module;"
        "from tests.router.decision.wasm.corpus import program;"
        "print(hashlib.sha256(policy_module(program())).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, cwd=ROOT, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert said == {f"{hashlib.sha256(module()).hexdigest()}\n".encode()}


def test_it_stays_small() -> None:
    """The engine is the same for every policy; what a policy adds is its image."""
    assert len(module()) - len(policy_image(shop())[0]) < 20_000
    assert len(policy_image(shop())[0]) < 60_000


def a_request(**fields: str) -> bytes:
    return request_bytes(Request("10.1.2.3", "a.example", "/a/cart", **fields))  # type: ignore[arg-type]


def a_view() -> bytes:
    program = shop()
    return view_bytes(program, dict.fromkeys(program.regions, Level.HEALTHY), HERE, NOON)


def test_every_refusal_is_met() -> None:
    wasm = WasmPolicy(module())
    met = set()
    longer = bytes(layout.INPUT_BYTES_MAX + 1)
    for call, content in (
        (wasm.decide, a_request()),  # no view yet
        (wasm.decide, longer),
        (wasm.plan, longer),
        (wasm.plan, a_view() + b"\0"),
        (wasm.plan, a_view()[:-1]),
        (wasm.plan, b"\xff" * 8 + bytes(2)),  # a moment far ahead
        (wasm.plan, bytes(8) + b"\1\0" + b"\1\0x" + b"\5" + bytes(4)),  # level 5
        (wasm.plan, bytes(8) + b"\1\0" + b"\1\0x" + b"\1" + (1_000_001).to_bytes(4, "little")),
    ):
        with pytest.raises(RefusedError) as caught:
            call(content)
        met.add(str(caught.value))
    assert met == set(ERRORS.values())


def test_what_two_bytes_cannot_count_is_refused_as_it_is_written() -> None:
    longest = Request("10.1.2.3", "a.example", "/" + "é" * 32_767)
    assert len(request_bytes(longest)) > 65_535
    with pytest.raises(RefusedError, match="longer than 65536 bytes"):
        request_bytes(longest._replace(path=longest.path + "a"))
    with pytest.raises(RefusedError, match="longer than 65536 bytes"):
        request_bytes(longest._replace(path="/", headers=(("a", "b"),) * 65_536))


def test_what_alloc_refuses_is_refused_again() -> None:
    """A caller that asks nobody and writes nowhere is told, too."""
    wasm = Rig(shop())
    for size in (layout.INPUT_BYTES_MAX + 1, 0x7FFF_FFFF, -1):
        assert wasm.call("plan", size) == (1 << 32) - layout.TOO_LONG
    wasm.plan(a_view())
    assert wasm.call("decide", -1) == (1 << 32) - layout.TOO_LONG


def test_a_view_that_is_refused_changes_nothing() -> None:
    wasm = Rig(shop())
    wasm.plan(a_view())
    before = wasm.decide(a_request())
    program = shop()
    worse = view_bytes(program, dict.fromkeys(program.regions, Level.DOWN), HERE, NOON)
    for cut in range(len(worse)):
        with pytest.raises(RefusedError):
            wasm.plan(worse[:cut])
        assert wasm.decide(a_request()) == before
    wasm.plan(worse)
    assert wasm.decide(a_request()) != before


def test_regions_that_a_view_lacks_are_unknown() -> None:
    wasm, program = Rig(shop()), shop()
    wasm.plan(NOON.to_bytes(8, "little") + bytes(2))
    bare = wasm.decide(a_request())
    wasm.plan(view_bytes(program, {}, HERE, NOON))
    full = wasm.decide(a_request())
    assert b'"UNKNOWN"' in bare
    assert b'"UNKNOWN"' in full
    stranger = b"\4\0nope\1" + bytes(8)
    wasm.plan(NOON.to_bytes(8, "little") + b"\2\0" + stranger * 2)
    assert wasm.decide(a_request()) == bare, "a name that the policy lacks is passed over"


@cache
def planned() -> Rig:
    wasm = Rig(shop())
    wasm.plan(a_view())
    return wasm


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Valid bytes with some of them changed, taken out or doubled; or any bytes."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        match draw(st.integers(0, 3)):
            case 0:
                content[at : at + 1] = bytes([draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)))])
            case 1:
                del content[at : at + draw(st.integers(1, 8))]
            case 2:
                content[at:at] = draw(st.binary(max_size=8))
            case _:
                content[at:at] = content[at : at + draw(st.integers(1, 64))]
    return bytes(content)


def rich_request() -> bytes:
    headers = (
        ("cookie", 'a=1; uid="7"'),
        ("authorization", "Bearer e30.eyJzdWIiOiJ1c2VyLTEifQ.x"),
        ("x-tenant", "eu"),
    )
    request = Request("2001:db8::1", "X.B.Example:443", "/a/b/%71?q=%E2%82%AC&x", "POST", headers, "DE", "EU", 64_500)
    return request_bytes(request, [("192.0.2.1", 443), ("2001:db8::2", 443), ("192.0.2.5", 8443)])


@profile(max_examples=max(300, profile().max_examples))
@given(
    st.one_of(mutated(rich_request()), st.binary(max_size=200)), st.one_of(mutated(a_view()), st.binary(max_size=60))
)
def test_no_bytes_take_it_down(request: bytes, view: bytes) -> None:
    """Whatever comes in, the answer is a decision or a refusal, and the instance then decides as before. A trap would
    be a `wasmtime.WasmtimeError`."""
    wasm = planned()
    for call, content in ((wasm.decide, request), (wasm.plan, view)):
        with suppress(RefusedError):
            call(content)
    wasm.plan(a_view())
    expected = Request("10.1.2.3", "a.example", "/a/cart")
    table = plan(shop(), dict.fromkeys(shop().regions, Level.HEALTHY), HERE, NOON)
    assert wasm.decide(a_request()) == decision_bytes(decide(table, expected, frozenset()))


def test_the_longest_request_is_decided() -> None:
    """All of the input in one field, or in as many headers as there is room for."""
    wasm = planned()
    room = layout.INPUT_BYTES_MAX - len(request_bytes(Request("", "", "")))
    for fields in (
        {"path": "/v1?" + "%ff" * ((room - 4) // 3)},
        {"host": "x." * (room // 2)},
        {"client": ":" * room},
        {"headers": (("cookie", ";" * (room - 10)),)},
        {"headers": (("authorization", "Bearer ." + "W" * 8_100 + "."),)},
        {"headers": (("", ""),) * (room // 4)},
    ):
        request = Request(**{"client": "", "host": "", "path": "", **fields})  # type: ignore[arg-type]  # fields of it
        assert len(request_bytes(request)) <= layout.INPUT_BYTES_MAX
        table = plan(shop(), dict.fromkeys(shop().regions, Level.HEALTHY), HERE, NOON)
        assert wasm.decide(request_bytes(request)) == decision_bytes(decide(table, request, frozenset()))


def test_a_policy_too_large_for_a_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "IMAGE_BYTES_MAX", 2_000)
    with pytest.raises(ImageTooLargeError, match="more than 2,000 bytes"):
        policy_module(shop())
