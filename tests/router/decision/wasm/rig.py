"""The engine compiled once, for any number of policies: only the image changes, and a test writes it where it belongs.

That a policy's own module holds that image there is for `test_module` to show.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import wasmtime

from router.decision.program import Program
from router.decision.wasm import layout
from router.decision.wasm.binary import PAGE_BYTES
from router.decision.wasm.host import WasmPolicy
from router.decision.wasm.image import policy_image
from router.decision.wasm.module import module_of

_MEMORY_BYTES = 32 * PAGE_BYTES


@cache
def _engine() -> tuple[wasmtime.Engine, wasmtime.Module]:
    engine = wasmtime.Engine()
    return engine, wasmtime.Module(engine, module_of(b"", _MEMORY_BYTES))


class Rig(WasmPolicy):
    """A policy in the shared engine."""

    def __init__(self, program: Program, module: tuple[wasmtime.Engine, wasmtime.Module] | None = None) -> None:
        image, end = policy_image(program)
        assert end <= _MEMORY_BYTES
        self._start(*(module or _engine()))
        self._memory.write(self._store, image, layout.IMAGE)
        self._output = self.number(layout.OUTPUT)

    def number(self, at: int) -> int:
        """Four bytes of memory."""
        return int.from_bytes(self.memory(at, 4), "little")

    def memory(self, at: int, size: int) -> bytes:
        return bytes(self._memory.read(self._store, at, at + size))

    def call(self, name: str, *arguments: Any) -> int:
        """A function that only test modules export."""
        found: int = self._exports[name](self._store, *arguments)
        return found & 0xFFFF_FFFF

    def call64(self, name: str, *arguments: Any) -> int:
        found: int = self._exports[name](self._store, *arguments)
        return found & 0xFFFF_FFFF_FFFF_FFFF
