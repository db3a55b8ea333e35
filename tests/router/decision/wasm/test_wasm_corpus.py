"""The whole language at once, and proof that the comparison would notice: mistakes planted in the engine, in what it is
compiled by, and in how a policy is laid out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import wasmtime

from router.decision.wasm import binary, compiler
from router.decision.wasm.abi import RefusedError
from router.decision.wasm.binary import module
from router.decision.wasm.image import _Layer
from router.decision.wasm.module import EXPORTS, engine_of
from router.policy.conditions import Not
from tests.router.decision.wasm.corpus import cases, program
from tests.router.decision.wasm.rig import Rig


def agrees(rig: Rig) -> bool:
    """Whether every decision is the judge's; a trap or a refusal is not."""
    try:
        for case in cases():
            rig.plan(case.view)
            if any(rig.decide(request) != expected for request, expected in case.asked):
                return False
    except (RefusedError, wasmtime.WasmtimeError):
        return False
    return True


def test_the_corpus_is_decided_alike_and_is_worth_deciding() -> None:
    assert agrees(Rig(program()))
    said = Counter(expected for case in cases() for _, expected in case.asked)
    text = b"\n".join(said)
    for word in (
        b"panic: ",
        b"fail open: ",
        b"spilled",
        b"returning",
        b"ejected",
        b"avoided",
        b"no route",
        b"denied: ",
        b" more",
    ):
        assert word in text, word
    for rule in ("blocked", "residency", "asked", "night", "canary", "sockets", "database", "named"):
        assert f'"rule":"{rule}"'.encode() in text, rule


MUTANTS = (
    ("texts", "if size != other_size:", "if size > other_size:"),
    ("texts", "low = middle + 1", "low = middle + 2"),
    ("hashing", "rotated(h1, 27)", "rotated(h1, 28)"),
    ("hashing", "((64 - exponent) <<", "((63 - exponent) <<"),
    ("client", "size > 3 or ", ""),
    ("client", '(size > 1 and get8(at) == ord("0")) or ', ""),
    ("client", "gap = groups", "gap = 0"),
    ("client", "<= address:", "< address:"),
    ("client", "if zone == 0:\n        zone = owner_of_number", "if zone == 1:\n        zone = owner_of_number"),
    ("parts", "if byte == 0xE2 and", "if byte == 0xE3 and"),
    ("parts", 'ord(" ") if byte == ord("+") else byte', "byte"),
    ("parts", "return place\n        if place == 1", "return 1\n        if place == 1"),
    ("parts", "last = before_space(first, stop)", "last = stop"),
    ("token", "whole = 0", "whole = 1"),
    ("token", "bits >= 8", "bits > 8"),
    ("keys", "128 - 2 * bits", "128 - bits"),
    ("keys", "if segments == 0:", "if segments == 1:"),
    ("rules", 'and get8(at) != ord("[")', ""),
    ("rules", "if stop == at + 1 if wanted == 0", "if stop == at if wanted == 0"),
    ("windows", "(after if closing else before)", "before"),
    ("windows", "if end <= get32(window + WINDOW_START):", "if end < get32(window + WINDOW_START):"),
    ("windows", "(day + 3) % 7", "(day + 4) % 7"),
    ("planning", "if level == _UNKNOWN:", "if level == 9:"),
    ("candidates", "saturation <= above", "saturation < 900_000"),
    ("candidates", "0 if get32(PANICKED) else get32", "get32"),
    ("candidates", "RETURNING if user < away_ppm(place) else SPILLED", "SPILLED"),
    ("candidates", "wide(serving) * PPM < wide(below)", "wide(serving) * PPM <= wide(below)"),
    ("candidates", "get32(LOCATION) > 0", "get32(LOCATION) > 47_268"),
    ("members", "> key:", "< key:"),
    ("nearby", "sine(longitude + 90)", "sine(longitude + 180)"),
    ("nearby", "+ RADIUS - across", "+ RADIUS"),
    ("reading", "put32(ORDERED, 0)", "put32(ORDERED, 1)"),
    ("candidates", "if place == get32(PROPOSED):", "if place != get32(PROPOSED):"),
    ("deciding", "added < REGION_ATTEMPTS_MAX and ", ""),
    ("deciding", "get32(ATTEMPT_COUNT) < ATTEMPTS_MAX:", "get32(ATTEMPT_COUNT) < 2:"),
    ("deciding", "    take_client()\n", ""),
    ("answer", "is_option(proposed, get32(CHOSEN_PLACE))", "is_option(proposed, get32(OPTION_COUNT))"),
    ("answer", "candidates - REASON_REGIONS_MAX)", "candidates)"),
)


def planted(monkeypatch: pytest.MonkeyPatch, name: str, right: str, wrong: str) -> None:
    source_of = compiler.source_of

    def mistaken(module_name: str) -> str:
        text = source_of(module_name)
        if not module_name.endswith(f".{name}"):
            return text
        assert right in text, "the mistake is planted where there is something to mistake"
        return text.replace(right, wrong, 1)

    monkeypatch.setattr(compiler, "source_of", mistaken)


def mistaken_rig() -> Rig:
    """A rig of an engine compiled anew."""
    functions, constants = engine_of(EXPORTS)
    names = [(each.__name__, number) for number, each in enumerate(EXPORTS)]
    engine = wasmtime.Engine()
    return Rig(program(), (engine, wasmtime.Module(engine, module(functions, names, 32, constants))))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "right", "wrong"), MUTANTS, ids=lambda text: " ".join(text.split())[:40])
def test_a_mistake_in_the_engine_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str, right: str, wrong: str) -> None:
    planted(monkeypatch, name, right, wrong)
    assert not agrees(mistaken_rig())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("i32.le_u", "i32.lt_u"),
        ("i32.ge_u", "i32.gt_u"),
        ("i64.le_u", "i64.lt_u"),
        ("i32.rem_u", "i32.div_u"),
        ("i64.shr_u", "i64.shl"),
        ("i32.or", "i32.and"),
    ],
)
def test_a_mistake_in_the_compiler_is_noticed(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    monkeypatch.setitem(binary.OPCODES, right, binary.OPCODES[wrong])
    assert not agrees(mistaken_rig())


def swapped(layer: _Layer, condition: Any, yes: int, no: int) -> int:
    """A `not` that is overheard."""
    return _TESTS(layer, condition.condition if isinstance(condition, Not) else condition, yes, no)


_TESTS: Callable[..., int] = _Layer.tests


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("tests", swapped),
        ("group", lambda layer, name: 0),
        ("window_number", lambda layer, window: layer.windows.setdefault(window, 0)),
        ("override", lambda layer, route, override: layer.lane(override.tiers, route.otherwise, route.settings)),
    ],
)
def test_a_mistake_in_the_image_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[..., int]
) -> None:
    monkeypatch.setattr(_Layer, name, wrong)
    assert not agrees(Rig(program()))
