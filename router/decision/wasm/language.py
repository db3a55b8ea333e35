"""The part of Python that the engine is written in: whole numbers of 32 and 64 bits, and one flat memory.

Functions of `engine` are ordinary Python to a reader, to mypy and to ruff, and are compiled by `compiler`; they are
never run as Python. Numbers are unsigned and wrap around. There are functions of typed parameters, local variables,
`if`, `while`, `for ... in range`, `return`, arithmetic, comparisons, and the words below; nothing else. Addresses are
`u32`. Truth is a `u32`: 0, or anything else.
"""

from __future__ import annotations

from typing import TypeAlias

u32: TypeAlias = int
u64: TypeAlias = int


def get8(at: u32) -> u32:
    raise NotImplementedError


def get16(at: u32) -> u32:
    raise NotImplementedError


def get32(at: u32) -> u32:
    raise NotImplementedError


def get64(at: u32) -> u64:
    """Little-endian, as all of these; no alignment is needed."""
    raise NotImplementedError


def put8(at: u32, value: u32) -> None:
    raise NotImplementedError


def put32(at: u32, value: u32) -> None:
    raise NotImplementedError


def put64(at: u32, value: u64) -> None:
    raise NotImplementedError


def copy(to: u32, source: u32, size: u32) -> None:
    """Copy bytes; the two stretches may overlap."""
    raise NotImplementedError


def fill(at: u32, byte: u32, size: u32) -> None:
    raise NotImplementedError


def wide(value: u32) -> u64:
    raise NotImplementedError


def narrow(value: u64) -> u32:
    """The low half."""
    raise NotImplementedError


def rotated(value: u64, bits: u64) -> u64:
    """To the left."""
    raise NotImplementedError


def leading_zeros(value: u64) -> u64:
    raise NotImplementedError


def text(value: str) -> u32:
    """The address of a constant: its size in four bytes, then the bytes. ASCII."""
    raise NotImplementedError
