"""The JSON form refuses what it does not know, and says where: tried all over a policy that uses the whole language."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from router.policy.bounds import BOUNDS
from router.policy.json_form import JSON_BYTES_MAX, JsonPolicyError, from_json, to_json
from router.policy.span import Span
from router.policy.syntax import Policy
from tests.router.decision.wasm.corpus import program

FORM = json.loads(to_json(program().policy))


def nodes(value: Any, path: str = "$") -> Iterator[tuple[str, Any]]:
    """Every value of the form, with its path as errors write it."""
    yield path, value
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nodes(inner, f"{path}.{key}" if isinstance(value, dict) else f"{path}[{key}]")


def refused(value: Any) -> JsonPolicyError:
    with pytest.raises(JsonPolicyError) as caught:
        from_json(json.dumps(value))
    return caught.value


def test_an_unknown_field_anywhere_is_an_error_with_its_path() -> None:
    kinds = set()
    for path, node in nodes(FORM):
        if isinstance(node, dict) and node["is"] not in kinds:
            kinds.add(node["is"])
            node["colour"] = 1
            error = refused(FORM)
            assert error.path == f"{path}.colour"
            assert str(error).startswith(f"{path}.colour: unknown; a {node['is']} has ")
            del node["colour"]
    assert len(kinds) > 25, kinds
    assert from_json(json.dumps(FORM)) == program().policy


def test_a_value_of_the_wrong_type_is_an_error_with_its_path() -> None:
    for path, node in nodes(FORM):
        for key, value in node.items() if isinstance(node, dict) else ():
            if key != "is" and isinstance(value, int | str) and path.count("[0]") == path.count("["):
                wrong: Any
                for wrong in (1.5, [], {}, "x" if isinstance(value, int) else 7):
                    node[key] = wrong
                    assert refused(FORM).path.startswith(f"{path}.{key}")
                node[key] = value


def test_what_is_missing_is_an_error_with_its_path() -> None:
    for path, node in nodes(FORM):
        if isinstance(node, dict) and "name" in node and path.count("[0]") == path.count("["):
            name = node.pop("name")
            if node["is"] not in ("Key", "Health"):
                assert refused(FORM).path == f"{path}.name"
            node["name"] = name


def test_what_is_no_policy_at_all_is_said_so() -> None:
    for text in ("", "{", "[" * 100_000, "7", "[]", "nul", '{"is":"Route"}', " " * (JSON_BYTES_MAX + 1)):
        with pytest.raises(JsonPolicyError, match=r"^\$"):
            from_json(text)


def test_a_number_that_text_could_not_say_is_an_error_with_its_path() -> None:
    seen = set()
    for path, node in nodes(FORM):
        for key, value in node.items() if isinstance(node, dict) else ():
            numbers = value if isinstance(value, list) else [value]
            if key == "is" or not numbers or any(type(number) is not int for number in numbers):
                continue
            if (node["is"], key) in seen:
                continue
            seen.add((node["is"], key))
            least, most = BOUNDS[node["is"], key]
            for wrong in (least - 1, most + 1, 10**30, -(10**30)):
                node[key] = [wrong] if isinstance(value, list) else wrong
                error = refused(FORM)
                assert error.path == (f"{path}.{key}[0]" if isinstance(value, list) else f"{path}.{key}")
                assert "is out of range" in str(error)
            node[key] = value
    assert len(seen) > 20, seen


def test_every_number_of_the_language_has_its_bounds() -> None:
    kinds: list[type[Any]] = [Policy]
    found: set[tuple[str, str]] = set()
    for kind in kinds:
        for field, hint in get_type_hints(kind).items():
            parts: list[Any] = [hint]
            inner: list[type[Any]] = []
            for part in parts:
                parts += get_args(part)
                inner += [part] if isinstance(part, type) else []
            if int in inner:
                found.add((kind.__name__, field))
            kinds += [each for each in inner if is_dataclass(each) and each is not Span and each not in kinds]
    assert found == set(BOUNDS)
