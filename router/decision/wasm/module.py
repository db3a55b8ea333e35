"""The module of a policy: the engine, the same for every policy, and the policy's image in its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from router.decision.program import Program
from router.decision.rendezvous import LOG2
from router.decision.wasm import layout
from router.decision.wasm.binary import PAGE_BYTES, Function, module
from router.decision.wasm.compiler import Program as Compilation
from router.decision.wasm.engine import exports
from router.decision.wasm.image import policy_image

EXPORTS: tuple[Callable[..., object], ...] = (
    exports.abi,
    exports.alloc,
    exports.plan,
    exports.valid_until,
    exports.decide,
    exports.output,
)


def policy_module(program: Program) -> bytes:
    """A compiled policy as a WebAssembly module; equal policies have equal modules. Raises `ImageTooLargeError`."""
    image, end = policy_image(program)
    return module_of(image, end)


def module_of(image: bytes, memory_bytes: int) -> bytes:
    """The engine with an image, and so much memory."""
    functions, constants = _engine()
    names = [(function.__name__, number) for number, function in enumerate(EXPORTS)]
    return module(functions, names, -(-memory_bytes // PAGE_BYTES), (*constants, (layout.IMAGE, image)))


def engine_of(exported: Sequence[Callable[..., object]]) -> tuple[list[Function], list[tuple[int, bytes]]]:
    """The engine's functions, those exported first, and its constants by address."""
    compilation = Compilation(layout.TEXTS)
    functions = compilation.compiled(exported)
    assert layout.TEXTS + len(compilation.texts) <= layout.HOST_KEY, "the texts fit"
    logarithms = b"".join(number.to_bytes(4, "little") for number in LOG2)
    return functions, [(layout.LOGARITHMS, logarithms), (layout.TEXTS, bytes(compilation.texts))]


@lru_cache(maxsize=1)
def _engine() -> tuple[list[Function], list[tuple[int, bytes]]]:
    return engine_of(EXPORTS)
