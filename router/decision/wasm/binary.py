"""The binary format of WebAssembly, as much of it as one module with one memory needs (core specification 2.0, 5).

Everything is a function from what is meant to its bytes; `module` puts the sections in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PAGE_BYTES = 65_536
I32, I64 = 0x7F, 0x7E
EMPTY_BLOCK = 0x40

OPCODES = {
    "unreachable": 0x00,
    "block": 0x02,
    "loop": 0x03,
    "if": 0x04,
    "else": 0x05,
    "end": 0x0B,
    "br": 0x0C,
    "br_if": 0x0D,
    "return": 0x0F,
    "call": 0x10,
    "drop": 0x1A,
    "local.get": 0x20,
    "local.set": 0x21,
    "i32.load": 0x28,
    "i64.load": 0x29,
    "i32.load8_u": 0x2D,
    "i32.load16_u": 0x2F,
    "i32.store": 0x36,
    "i64.store": 0x37,
    "i32.store8": 0x3A,
    "i32.const": 0x41,
    "i64.const": 0x42,
    "i32.eqz": 0x45,
    "i32.eq": 0x46,
    "i32.ne": 0x47,
    "i32.lt_u": 0x49,
    "i32.gt_u": 0x4B,
    "i32.le_u": 0x4D,
    "i32.ge_u": 0x4F,
    "i64.eqz": 0x50,
    "i64.eq": 0x51,
    "i64.ne": 0x52,
    "i64.lt_u": 0x54,
    "i64.gt_u": 0x56,
    "i64.le_u": 0x58,
    "i64.ge_u": 0x5A,
    "i32.add": 0x6A,
    "i32.sub": 0x6B,
    "i32.mul": 0x6C,
    "i32.div_u": 0x6E,
    "i32.rem_u": 0x70,
    "i32.and": 0x71,
    "i32.or": 0x72,
    "i32.xor": 0x73,
    "i32.shl": 0x74,
    "i32.shr_u": 0x76,
    "i64.clz": 0x79,
    "i64.add": 0x7C,
    "i64.sub": 0x7D,
    "i64.mul": 0x7E,
    "i64.div_u": 0x80,
    "i64.rem_u": 0x82,
    "i64.and": 0x83,
    "i64.or": 0x84,
    "i64.xor": 0x85,
    "i64.shl": 0x86,
    "i64.shr_u": 0x88,
    "i64.rotl": 0x89,
    "i32.wrap_i64": 0xA7,
    "i64.extend_i32_u": 0xAD,
}
_ALIGNED = {"i32.load": 2, "i64.load": 3, "i32.load8_u": 0, "i32.load16_u": 1}
_ALIGNED |= {"i32.store": 2, "i64.store": 3, "i32.store8": 0}


def unsigned(value: int) -> bytes:
    """LEB128."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def signed(value: int) -> bytes:
    """LEB128 in two's complement."""
    encoded = bytearray()
    while not -0x40 <= value < 0x40:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value & 0x7F)
    return bytes(encoded)


def op(name: str, *immediates: int) -> bytes:
    return bytes([OPCODES[name]]) + b"".join(map(unsigned, immediates))


def constant(kind: int, value: int) -> bytes:
    """A number of either size, given without sign."""
    bits = 32 if kind == I32 else 64
    return op("i32.const" if kind == I32 else "i64.const") + signed(value - (value >> (bits - 1) << bits))


def access(name: str, offset: int) -> bytes:
    """A load or store; no address need be aligned (the number is a hint)."""
    return op(name, _ALIGNED[name], offset)


def memory_copy() -> bytes:
    return bytes([0xFC]) + unsigned(10) + bytes(2)


def memory_fill() -> bytes:
    return bytes([0xFC]) + unsigned(11) + bytes(1)


@dataclass(frozen=True, slots=True)
class Function:
    """A function's type, its further local variables, and its code without the closing `end`."""

    parameters: tuple[int, ...]
    result: int | None
    variables: tuple[int, ...]
    code: bytes


def module(
    functions: Sequence[Function], exports: Iterable[tuple[str, int]], pages: int, data: Iterable[tuple[int, bytes]]
) -> bytes:
    """A module without imports: its functions, those of them that are exported, a `memory` of `pages`, and what is in
    it at first. The memory cannot grow."""
    kinds = list(dict.fromkeys((each.parameters, each.result) for each in functions))
    types = [
        b"\x60" + _vector(bytes([p]) for p in parameters) + _vector([] if result is None else [bytes([result])])
        for parameters, result in kinds
    ]
    exported = [_name("memory") + b"\x02" + unsigned(0)]
    exported += [_name(name) + b"\x00" + unsigned(index) for name, index in exports]
    sections = (
        (1, _vector(types)),
        (3, _vector(unsigned(kinds.index((each.parameters, each.result))) for each in functions)),
        (5, _vector([b"\x01" + unsigned(pages) + unsigned(pages)])),
        (7, _vector(exported)),
        (10, _vector(_sized(_body(each)) for each in functions)),
        (11, _vector(b"\x00" + constant(I32, at) + op("end") + _sized(held) for at, held in data)),
    )
    return b"\0asm\x01\0\0\0" + b"".join(bytes([number]) + _sized(content) for number, content in sections)


def _body(function: Function) -> bytes:
    return _vector(unsigned(1) + bytes([kind]) for kind in function.variables) + function.code + op("end")


def _vector(parts: Iterable[bytes]) -> bytes:
    listed = list(parts)
    return unsigned(len(listed)) + b"".join(listed)


def _sized(content: bytes) -> bytes:
    return unsigned(len(content)) + content


def _name(name: str) -> bytes:
    return _sized(name.encode("ascii"))
