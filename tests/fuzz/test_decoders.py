"""Hostile bytes to every decoder: declared errors only, bounded time and memory. The atheris run goes deeper."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.cells import CellKind
from lattice.wire import Delta, WireCell, encode
from tests.fuzz import bounds
from tests.fuzz.targets import TARGETS, Target
from tests.lattice.yrs_bytes import HAZARDS, uvarint

BOMBS = {
    "an array of 2^32": b"\xdd\xff\xff\xff\xff",
    "arrays 100,000 deep": b"\x91" * 100_000,
    "a map of 2^32": b"\xdf\xff\xff\xff\xff",
    "an empty map": b"\x80",
    "bytes of 2^32": b"\xc6\xff\xff\xff\xff",
    "text of 2^32": b"\xdb\xff\xff\xff\xff",
    "an extension of 2^32": b"\xc9\xff\xff\xff\xff\x05",
    "a timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "a map with one key twice": b"\x82\x01\x01\x01\x02",
    "nested headers": b"\xdc\xff\xff" * 20_000,
    "text that is no UTF-8": b"\xa2\xff\xfe",
    "a float": b"\xcb" + bytes(8),
    "a frame full of numbers": b"\xdc\x10\x00" + b"\x01" * 4_096,
    "a frame full of bytes": b"\xdc\x10\x00" + b"\xc4\x0d" * 4_096 + bytes(13 * 4_096),
    "as many cells as go into a frame": encode(Delta(bytes(16), (WireCell(CellKind.OP, bytes(52)),) * 1_024)),
    "2^28 clients": uvarint(2**28) + b"\x01\x05\x00\x00\x00",
    "nothing": b"",
}


@st.composite
def mutants(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A good input with a few bytes changed, cut, repeated or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.integers(0, 4)):
            case 0 if data:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at : at + draw(st.integers(1, 8))]
            case 2:
                data[at:at] = draw(st.binary(max_size=8))
            case 3:
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case _ if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_reach_the_decoder(name: str) -> None:
    """Else the rest would only show how bytes are refused at the door."""
    target = TARGETS[name]
    assert any(not isinstance(target(seed), target.refusals) for seed in target.seeds)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_whatever_comes_a_decoder_returns_or_raises_what_it_declares(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target(data.draw(st.one_of(mutants(target.seeds), st.binary(max_size=300))))


@pytest.mark.parametrize("name", TARGETS)
def test_bombs_cost_next_to_nothing(name: str) -> None:
    seeds = TARGETS[name].seeds
    bombs = [*BOMBS.values(), *(update for _, update in HAZARDS.values())]
    for bomb in (*seeds, *bombs, *(seed[: len(seed) // 2] + bomb for seed in seeds[:3] for bomb in bombs)):
        bounds.check(name, bomb)


@pytest.mark.parametrize(
    ("costs", "said"),
    [(lambda _: sum(range(2_000_000)), r"bare: \d+\.\d ms"), (lambda _: bytes(1 << 23), "bare: 8388")],
)
def test_what_costs_too_much_is_seen(
    costs: Callable[[bytes], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TARGETS, "bare", Target(costs, (b"",), ()))
    with pytest.raises(AssertionError, match=said):
        bounds.check("bare", b"")


ROOT = Path(__file__).parents[2]
READS = re.compile(r"(open|read|parse|decode|unpack|walk|judge|admit|from|restored|damage_of|bare)(_\w+)?|\w+_record")
COVERED = {
    "admission.admit_op": "PolicyStore.admit",
    "admission.peer_record": "peer_record",
    "canonical.unpack": "canonical.unpack",
    "canonical.unpack_canonical": "canonical.unpack",
    "certificates.judge": "Authority.judge",
    "certificates.read_certificate": "read_certificate",
    "certificates.read_request": "read_request",
    "digest.from_bytes": "Bloom.from_bytes",
    "equivocation.open_proof": "open_proof",
    "grants.open_revocation": "open_revocation",
    "grants.read_grant": "open_row",
    "health.open_row": "open_row",
    "key_ring.parse_ring": "parse_ring",
    "policy_content.parse_head": "parse_head",
    "policy_content.parse_manifest": "parse_manifest",
    "policy_ops.open_op": "open_op",
    "policy_store.admit": "PolicyStore.admit",
    "purges.open_purge": "open_purge",
    "rollouts.parse_entry": "parse_entry",
    "rollouts.parse_start": "parse_start",
    "row_records.restored_row": "restored_row",
    "seal.open": "Sealed.open",
    "wire.bare": "bare",
    "wire.decode": "wire.decode",
    "write_ahead_log.damage_of_log": "damage_of_log",
    "yrs_gate.walk": "yrs_gate.walk",
}
"""Whatever reads bytes (or text, or what came out of them) that this process did not make, and what feeds it here."""


def decoders() -> set[str]:
    """By module and name: functions that read what they are given, and raise something of their own about it."""
    found = set()
    for path in sorted([*(ROOT / "lattice").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and READS.fullmatch(node.name):
                given = [argument for argument in node.args.args if argument.arg != "self"]
                hints = {ast.unparse(argument.annotation) for argument in given if argument.annotation}
                if hints & {"bytes", "str", "object"}:
                    found.add(f"{path.stem}.{node.name}")
    return found


def test_every_decoder_of_the_lattice_is_fuzzed() -> None:
    assert decoders() == COVERED.keys()
    assert set(COVERED.values()) <= TARGETS.keys()
