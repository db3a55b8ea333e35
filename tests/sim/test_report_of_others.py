"""The page of a folder that somebody else sent: it is opened in a browser, and what is in it is anybody's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest

from router.cli import main

MARKUP = "<script>alert(1)</script>"


def _each_value(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of single values in what JSON says; one place for all elements of a list."""
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from _each_value(inside, (*path, key))
    elif isinstance(value, list):
        for inside in value:
            yield from _each_value(inside, (*path, "*"))
    else:
        yield path


def _marked(value: Any, place: tuple[str, ...]) -> Any:
    if not place:
        return f"{value}{MARKUP}"
    if isinstance(value, dict):
        return {key: _marked(inside, place[1:]) if key == place[0] else inside for key, inside in value.items()}
    if isinstance(value, list) and place[0] == "*":
        return [_marked(inside, place[1:]) for inside in value]
    return value


def test_a_page_of_somebody_else_s_folder_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever in its story is markup: it is shown, or the folder is called damaged."""
    folder = tmp_path / "run"
    assert main(["sim", "run", "smoke", "--out", str(folder), "--json"]) == 0
    told = json.loads((folder / "story.json").read_text())
    places = set(_each_value(told))
    assert len(places) > 15
    shown = 0
    for place in sorted(places):
        (folder / "story.json").write_text(json.dumps(_marked(told, place)))
        (folder / "report.html").unlink(missing_ok=True)
        if main(["sim", "report", str(folder)]) == 0:
            page = (folder / "report.html").read_text()
            assert MARKUP not in page, place
            shown += escape(MARKUP) in page
    assert shown > 5
    capsys.readouterr()
