"""A policy as JSON, for programs that write or read policies: every node of the syntax tree, field by field.

A node is an object whose "is" names its class where several may stand; durations are microseconds, shares millionths,
coordinates millionths of a degree, as in the syntax tree. Fields that have their default value may be left out when
read. An unknown field, a missing one, a value of the wrong type, or one that text could not say (`words`), is an error
that names its path. So what is read can be printed, and parsed again to the same policy.
"""

from __future__ import annotations

import json
import re
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Union, get_args, get_origin, get_type_hints

from router.policy.conditions import CONDITION_DEPTH_MAX
from router.policy.errors import EXCERPT_MAX, excerpt
from router.policy.grammar import FORBIDDEN, TEXT_BYTES_MAX
from router.policy.printer import print_policy
from router.policy.syntax import Policy
from router.policy.values import BadValueError
from router.policy.whole import WHOLE
from router.policy.words import WORDS, Word

JSON_BYTES_MAX = 4 * 1024 * 1024
_DEPTH_MAX = 16 + 5 * (1 + CONDITION_DEPTH_MAX)
"""Between two parentheses an `or`, an `and`, each with its list, and a `not`."""
_WORDS = {int: "a whole number", str: "a text", bool: "true or false"}
_NETWORKS = {IPv4Network, IPv6Network}
_UNSAYABLE = re.compile(f'["\\n]|{FORBIDDEN.pattern}')


class JsonPolicyError(ValueError):
    """JSON that is not a policy; `path` says where, as in `$.routes[0].rules[2].share`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


def to_json(policy: Policy) -> str:
    """A policy's JSON form; equal policies have the same bytes."""
    return json.dumps(plain(policy), ensure_ascii=False, indent=1)


def from_json(text: str) -> Policy:
    """The policy that a JSON form says. Raises `JsonPolicyError`; what it means is for `compile_policy` to check."""
    if len(text) > JSON_BYTES_MAX:
        raise JsonPolicyError("$", f"longer than {JSON_BYTES_MAX} characters")
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise JsonPolicyError("$", f"not JSON: {error}") from None
    read = _read(Policy, value, "$", 0)
    assert isinstance(read, Policy)
    size = len(print_policy(read).encode())
    if size > TEXT_BYTES_MAX:
        raise JsonPolicyError("$", f"its text is {size} bytes long; at most {TEXT_BYTES_MAX}")
    return read


def is_json(text: str) -> bool:
    """Whether a file holds the JSON form: no policy's text begins with a brace."""
    return text.lstrip("\ufeff \t\r\n").startswith("{")


def plain(node: Any) -> Any:
    """A node of the syntax tree, or a part of one, as what `json.dumps` takes."""
    if is_dataclass(node) and not isinstance(node, type):
        found: dict[str, Any] = {"is": type(node).__name__}
        for field in _shown(type(node)):
            value = getattr(node, field.name)
            if value != field.default or field.default is MISSING:
                found[field.name] = plain(value)
        return found
    if isinstance(node, tuple):
        return [plain(each) for each in node]
    if isinstance(node, Enum):
        return node.name
    return str(node) if isinstance(node, IPv4Network | IPv6Network) else node


@lru_cache(maxsize=64)
def _shown(kind: type) -> tuple[Field[Any], ...]:
    """The fields that say something: not where a node was written."""
    return tuple(field for field in fields(kind) if field.compare)


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(wanted: Any, value: Any, path: str, depth: int) -> Any:
    if depth > _DEPTH_MAX:
        raise JsonPolicyError(path, f"nested more than {_DEPTH_MAX} deep")
    options = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if _NETWORKS & set(options):
        return _network(value, path)
    nodes = {option.__name__: option for option in options if isinstance(option, type) and is_dataclass(option)}
    if nodes:
        return _node(nodes, value, path, depth)
    if get_origin(options[0]) is tuple:
        if not isinstance(value, list):
            raise JsonPolicyError(path, "a list is needed here")
        return tuple(_read(get_args(options[0])[0], each, f"{path}[{n}]", depth + 1) for n, each in enumerate(value))
    if isinstance(options[0], type) and issubclass(options[0], Enum):
        if not isinstance(value, str) or value not in options[0].__members__:
            raise JsonPolicyError(path, f"one of {', '.join(options[0].__members__)} is needed here")
        return options[0][value]
    if type(value) not in options:
        raise JsonPolicyError(path, f"{' or '.join(_WORDS[kind] for kind in options)} is needed here")
    if isinstance(value, str) and (found := _UNSAYABLE.search(value)):
        raise JsonPolicyError(
            path, f"the character U+{ord(found[0]):04X} cannot stand in a policy's text; leave it out"
        )
    return value


def _node(nodes: dict[str, Any], value: Any, path: str, depth: int) -> Any:
    if not isinstance(value, dict):
        raise JsonPolicyError(path, "an object is needed here")
    kind = value.get("is", next(iter(nodes)) if len(nodes) == 1 else None)
    if not isinstance(kind, str) or kind not in nodes:
        raise JsonPolicyError(f"{path}.is", f"one of {', '.join(nodes)} is needed here")
    made = nodes[kind]
    shown = {field.name: field for field in _shown(made)}
    for name in value:
        if name != "is" and name not in shown:
            raise JsonPolicyError(f"{path}.{_field(name)}", f"unknown; a {kind} has {', '.join(shown)}")
    found = {}
    for name, field in shown.items():
        if name in value:
            found[name] = _read(_hints(made)[name], value[name], f"{path}.{name}", depth + 1)
            if found[name] != field.default or field.default is MISSING:
                _check_words(WORDS.get((kind, name)), found[name], f"{path}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise JsonPolicyError(f"{path}.{name}", "missing")
    node = made(**found)
    if kind in WHOLE:
        try:
            WHOLE[kind](node)
        except BadValueError as error:
            raise JsonPolicyError(path, _said(error)) from None
    return node


def _check_words(word: Word | None, value: Any, path: str) -> None:
    if word is None or value is None:
        return
    several = isinstance(value, tuple)
    for number, each in enumerate(value if several else (value,)):
        try:
            word.check(each)
        except BadValueError as error:
            place = f"{path}[{number}]" if several else path
            raise JsonPolicyError(place, f"{excerpt(str(each))}: {_said(error)}") from None


def _said(error: BadValueError) -> str:
    return f"{error.message}; expected {error.expected}{f' ({error.hint})' if error.hint else ''}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the field {excerpt(name)} is there twice")
            seen.add(name)
    return found


def _field(name: str) -> str:
    """A field's name in a path, whatever it is."""
    return name if name.isascii() and name.isidentifier() and len(name) <= EXCERPT_MAX else excerpt(name)


def _network(value: Any, path: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError as error:
        raise JsonPolicyError(path, f"not an address block: {error}") from None
