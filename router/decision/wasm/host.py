"""The module at work in Python, under wasmtime (`pip install edgelattice[wasm]`): for tests, and for other programs.

A node never comes here: its decisions are generated Python.
"""

from __future__ import annotations

from typing import Any

import wasmtime

from router.decision.wasm.abi import ERRORS, RefusedError
from router.decision.wasm.layout import INPUT_BYTES_MAX, TOO_LONG


class WasmPolicy:
    """One instance of a module. Not for two threads at once."""

    def __init__(self, module: bytes) -> None:
        engine = wasmtime.Engine()
        self._start(engine, wasmtime.Module(engine, module))

    def _start(self, engine: wasmtime.Engine, module: wasmtime.Module) -> None:
        self._store = wasmtime.Store(engine)
        exports: Any = wasmtime.Instance(self._store, module, []).exports(self._store)
        self._exports, self._memory = exports, exports["memory"]
        self._decide = exports["decide"]
        self._input: int = exports["alloc"](self._store, INPUT_BYTES_MAX)
        self._output: int = exports["output"](self._store)

    def plan(self, view: bytes) -> int | None:
        """Take a view (`abi.view_bytes`); when to plan anew, or None when never. Raises `RefusedError`."""
        self._checked(self._exports["plan"](self._store, self._give(view)))
        until: int = self._exports["valid_until"](self._store)
        return None if until == -1 else until

    def decide(self, request: bytes) -> bytes:
        """The decision on a request (`abi.request_bytes`), as `decision_bytes` has it. Raises `RefusedError`."""
        size = self._checked(self._decide(self._store, self._give(request)))
        return bytes(self._memory.read(self._store, self._output, self._output + size))

    def _give(self, content: bytes) -> int:
        if len(content) > INPUT_BYTES_MAX:
            raise RefusedError(ERRORS[TOO_LONG])
        self._memory.write(self._store, content, self._input)
        return len(content)

    @staticmethod
    def _checked(answer: int) -> int:
        if answer < 0:
            raise RefusedError(ERRORS[-answer])
        return answer
