"""From the engine's Python to WebAssembly: one walk over each function's syntax tree, and no cleverness.

What is compiled are the functions given and those they call. A name is a local variable, a whole number of the module
(also one it imported), a function of the engine, or a word of `language`; the type of an expression is that of its
parts, and a constant is of the type it stands beside. Anything that the language has not is a `TypeError` at its line.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from types import FunctionType
from typing import Any

from router.decision.wasm import language
from router.decision.wasm.binary import EMPTY_BLOCK, I32, I64, Function, access, constant, memory_copy, memory_fill, op

_KINDS = {"u32": I32, "u64": I64}
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.FloorDiv: "div_u",
    ast.Mod: "rem_u",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "shl",
    ast.RShift: "shr_u",
}
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt_u",
    ast.LtE: "le_u",
    ast.Gt: "gt_u",
    ast.GtE: "ge_u",
}
_LOADS = {"get8": "i32.load8_u", "get16": "i32.load16_u", "get32": "i32.load", "get64": "i64.load"}
_STORES = {"put8": "i32.store8", "put32": "i32.store", "put64": "i64.store"}
_PLAIN = {
    "copy": memory_copy(),
    "fill": memory_fill(),
    "wide": op("i64.extend_i32_u"),
    "narrow": op("i32.wrap_i64"),
    "rotated": op("i64.rotl"),
    "leading_zeros": op("i64.clz"),
}


class Program:
    """Functions compiled so far, by number, and the constant texts they name."""

    def __init__(self, texts_at: int) -> None:
        self.texts_at = texts_at
        self.texts = bytearray()
        self._addresses: dict[str, int] = {}
        self._definitions: dict[str, dict[str, ast.FunctionDef]] = {}
        self._numbers: dict[FunctionType, int] = {}
        self._waiting: list[FunctionType] = []

    def number(self, function: FunctionType) -> int:
        if function not in self._numbers:
            self._numbers[function] = len(self._numbers)
            self._waiting.append(function)
        return self._numbers[function]

    def text(self, value: str) -> int:
        if value not in self._addresses:
            self._addresses[value] = self.texts_at + len(self.texts)
            self.texts += len(value).to_bytes(4, "little") + value.encode("ascii")
        return self._addresses[value]

    def definition(self, function: FunctionType) -> ast.FunctionDef:
        module = function.__module__
        if module not in self._definitions:
            found = (node for node in ast.parse(source_of(module), module).body if isinstance(node, ast.FunctionDef))
            self._definitions[module] = {node.name: node for node in found}
        return self._definitions[module][function.__name__]

    def signature(self, function: FunctionType) -> tuple[tuple[int, ...], int | None]:
        node = self.definition(function)
        result = None if isinstance(node.returns, ast.Constant) else _kind(node.returns)
        return tuple(_kind(argument.annotation) for argument in node.args.args), result

    def compiled(self, roots: Sequence[Callable[..., Any]]) -> list[Function]:
        """The roots, in their order, then what they call."""
        for root in roots:
            assert isinstance(root, FunctionType)
            self.number(root)
        made = []
        while self._waiting:
            made.append(_Writer(self, self._waiting.pop(0)).function())
        return made


def source_of(module: str) -> str:
    """The text of a module of the engine. (Tests plant mistakes here.)"""
    package, _, name = module.rpartition(".")
    return resources.files(package).joinpath(f"{name}.py").read_text("utf-8")


def _kind(annotation: ast.expr | None) -> int:
    if not isinstance(annotation, ast.Name) or annotation.id not in _KINDS:
        raise TypeError(f"{ast.unparse(annotation) if annotation else 'no annotation'} is neither u32 nor u64")
    return _KINDS[annotation.id]


class _Writer:
    """Writes one function."""

    def __init__(self, program: Program, function: FunctionType) -> None:
        self.program, self.module = program, function.__module__
        self.names: dict[str, Any] = vars(sys.modules[function.__module__])
        self.node = program.definition(function)
        self.parameters, self.result = self.program.signature(function)
        self.variables: dict[str, int] = {
            argument.arg: kind for argument, kind in zip(self.node.args.args, self.parameters, strict=True)
        }
        self.code = bytearray()
        self.depth = 0
        self.loops: list[tuple[int, int]] = []
        """For each loop around here: the depths that `break` and `continue` jump out to."""

    def function(self) -> Function:
        self.block(self.node.body)
        if self.result is not None:
            self.code += op("unreachable")  # every path returns: mypy has seen to it
        kinds = tuple(self.variables.values())
        return Function(self.parameters, self.result, kinds[len(self.parameters) :], bytes(self.code))

    def wrong(self, node: ast.AST, message: str) -> TypeError:
        return TypeError(f"{self.module}:{getattr(node, 'lineno', 0)}: {message}: {ast.unparse(node)}")

    # Statements

    def block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(ast.Constant(str())) | ast.Pass():
                pass
            case ast.Expr(ast.Call() as call):
                if self.call(call) is not None:
                    self.code += op("drop")
            case ast.Assign([ast.Name(name)], value):
                kind = self.variables.setdefault(name, self.kind(value) or I32)
                self.value(value, kind)
                self.assign(name)
            case ast.AnnAssign(ast.Name(name), annotation, ast.expr() as value):
                kind = self.variables.setdefault(name, _kind(annotation))
                self.value(value, kind)
                self.assign(name)
            case ast.AugAssign(ast.Name(name) as target, operator, value):
                read = ast.copy_location(ast.Name(target.id, ast.Load()), target)
                self.value(ast.copy_location(ast.BinOp(read, operator, value), node), self.variables[name])
                self.assign(name)
            case ast.If(test, body, orelse):
                self.value(test, I32)
                self.open("if")
                self.block(body)
                if orelse:
                    self.code += op("else")
                    self.block(orelse)
                self.close()
            case ast.While(test, body, []):
                self.open("block")
                self.open("loop")
                if self.constant(test) != 1:
                    self.value(test, I32)
                    self.code += op("i32.eqz") + op("br_if", 1)
                self.loops.append((self.depth - 1, self.depth))
                self.block(body)
                self.loops.pop()
                self.code += op("br", 0)
                self.close()
                self.close()
            case ast.For(ast.Name(name), ast.Call(ast.Name("range"), limits), body, []):
                self.count(node, name, limits, body)
            case ast.Break():
                self.code += op("br", self.depth - self.loops[-1][0])
            case ast.Continue():
                self.code += op("br", self.depth - self.loops[-1][1])
            case ast.Return(value):
                if value is not None and self.result is not None:
                    self.value(value, self.result)
                self.code += op("return")
            case _:
                raise self.wrong(node, "not in the language")

    def count(self, node: ast.For, name: str, limits: list[ast.expr], body: list[ast.stmt]) -> None:
        """`for name in range(first, limit)`: the limit is worked out once, the loop variable is one of its own."""
        first, limit = limits if len(limits) == 2 else (ast.Constant(0), limits[0])
        kind = self.kind(limit) or self.kind(first) or I32
        counter, end = f"{name}@{node.lineno}", f"{name}@{node.lineno}end"
        self.variables.setdefault(name, kind)
        self.variables[counter] = self.variables[end] = kind
        prefix = "i32" if kind == I32 else "i64"
        self.value(first, kind)
        self.assign(counter)
        self.value(limit, kind)
        self.assign(end)
        self.open("block")
        self.open("loop")
        self.read(counter)
        self.read(end)
        self.code += op(f"{prefix}.ge_u") + op("br_if", 1)
        self.read(counter)
        self.assign(name)
        self.open("block")
        self.loops.append((self.depth - 2, self.depth))
        self.block(body)
        self.loops.pop()
        self.close()
        self.read(counter)
        self.code += constant(kind, 1) + op(f"{prefix}.add")
        self.assign(counter)
        self.code += op("br", 0)
        self.close()
        self.close()

    def open(self, name: str, kind: int = EMPTY_BLOCK) -> None:
        self.code += op(name) + bytes([kind])
        self.depth += 1

    def close(self) -> None:
        self.code += op("end")
        self.depth -= 1

    def read(self, name: str) -> None:
        self.code += op("local.get", list(self.variables).index(name))

    def assign(self, name: str) -> None:
        self.code += op("local.set", list(self.variables).index(name))

    # Expressions

    def constant(self, node: ast.expr) -> int | None:
        """The value of an expression that has one by itself."""
        match node:
            case ast.Constant(int() as value):
                return int(value)
            case ast.Name(name) if name not in self.variables and isinstance(self.names.get(name), int):
                return int(self.names[name])
            case ast.Call(ast.Name("text"), [ast.Constant(str() as value)]):
                return self.program.text(value)
            case ast.Call(ast.Name("ord"), [ast.Constant(str() as value)]):
                return ord(value)
            case ast.BinOp(left, ast.Add(), right):
                a, b = self.constant(left), self.constant(right)
                return None if a is None or b is None else a + b
        return None

    def kind(self, node: ast.expr) -> int | None:
        """The type of an expression; None for a constant, which takes any."""
        value = self.constant(node)
        if value is not None:
            return None if value < 1 << 32 else I64
        match node:
            case ast.Name(name) if name in self.variables:
                return self.variables[name]
            case ast.BinOp(left, _, right):
                return self.kind(left) or self.kind(right)
            case ast.IfExp(_, body, orelse):
                return self.kind(body) or self.kind(orelse)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(ast.Not()):
                return I32
            case ast.Call(ast.Name("min" | "max"), [left, right]):
                return self.kind(left) or self.kind(right)
            case ast.Call(ast.Name(name)):
                return self.program.signature(self.called(node, name))[1]
            case _:
                raise self.wrong(node, "not in the language")

    def called(self, node: ast.AST, name: str) -> FunctionType:
        function = self.names.get(name)
        if not isinstance(function, FunctionType):
            raise self.wrong(node, "not a function")
        return function

    def value(self, node: ast.expr, wanted: int) -> None:
        """Leave the value of an expression on the stack."""
        number = self.constant(node)
        if number is not None:
            self.code += constant(wanted, number)
            return
        if self.kind(node) not in (wanted, None):
            raise self.wrong(node, "of the other size")
        match node:
            case ast.Name(name):
                self.read(name)
            case ast.BinOp(left, operator, right):
                self.value(left, wanted)
                self.value(right, wanted)
                self.code += op(f"{'i32' if wanted == I32 else 'i64'}.{_ARITHMETIC[type(operator)]}")
            case ast.Compare(left, operators, rights):
                self.comparison(node, left, operators, rights)
            case ast.BoolOp(operator, parts):
                self.connective(operator, parts)
            case ast.UnaryOp(ast.Not(), operand):
                self.value(operand, I32)
                self.code += op("i32.eqz")
            case ast.IfExp(test, body, orelse):
                self.value(test, I32)
                self.open("if", wanted)
                self.value(body, wanted)
                self.code += op("else")
                self.value(orelse, wanted)
                self.close()
            case ast.Call(ast.Name("min" | "max" as name), [left, right]):
                self.once(node, left, right)
                first = ast.Lt() if name == "min" else ast.Gt()
                self.value(ast.IfExp(ast.Compare(left, [first], [right]), left, right), wanted)
            case ast.Call():
                self.call(node)
            case _:
                raise self.wrong(node, "not in the language")

    def once(self, node: ast.AST, *parts: ast.expr) -> None:
        """Refuse what would be worked out twice and has a part in which that could matter."""
        if not all(isinstance(part, ast.Name | ast.Constant) for part in parts):
            raise self.wrong(node, "would be worked out twice")

    def comparison(self, node: ast.AST, left: ast.expr, operators: list[ast.cmpop], rights: list[ast.expr]) -> None:
        for place, (operator, right) in enumerate(zip(operators, rights, strict=True)):
            if place:
                self.once(node, left)
            kind = self.kind(left) or self.kind(right) or I32
            self.value(left, kind)
            self.value(right, kind)
            self.code += op(f"{'i32' if kind == I32 else 'i64'}.{_COMPARISONS[type(operator)]}")
            if place:
                self.code += op("i32.and")
            left = right

    def connective(self, operator: ast.boolop, parts: list[ast.expr]) -> None:
        """`and`, `or`: what follows is worked out only when it matters. The value is truth, not the part itself."""
        first, *rest = parts
        self.value(first, I32)
        if not rest:
            return
        self.open("if", I32)
        if isinstance(operator, ast.And):
            self.connective(operator, rest)
            self.code += op("else") + constant(I32, 0)
        else:
            self.code += constant(I32, 1) + op("else")
            self.connective(operator, rest)
        self.close()

    def call(self, node: ast.Call) -> int | None:
        """Write a call; what is then on the stack."""
        if not isinstance(node.func, ast.Name):
            raise self.wrong(node, "not a function")
        name = node.func.id
        function = self.called(node, name)
        parameters, result = self.program.signature(function)
        if len(parameters) != len(node.args):
            raise self.wrong(node, f"takes {len(parameters)} arguments")
        if name in _LOADS or name in _STORES:
            offset = self.address(node.args[0])
            for argument, kind in zip(node.args[1:], parameters[1:], strict=True):
                self.value(argument, kind)
            self.code += access((_LOADS | _STORES)[name], offset)
            return result
        for argument, kind in zip(node.args, parameters, strict=True):
            self.value(argument, kind)
        if function.__module__ == language.__name__:
            self.code += _PLAIN[name]
        else:
            self.code += op("call", self.program.number(function))
        return result

    def address(self, node: ast.expr) -> int:
        """Write an address, and say what constant is to be added: the instruction does that for nothing."""
        match node:
            case ast.BinOp(left, ast.Add(), right) if self.constant(left) is None:
                offset = self.constant(right)
                if offset is not None:
                    self.value(left, I32)
                    return offset
        self.value(node, I32)
        return 0
