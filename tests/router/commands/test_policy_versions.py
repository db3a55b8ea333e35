"""`policy resolve` and `policy compact` as people and scripts meet them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from router.cli import main
from router.commands import policy_publish, policy_versions
from router.commands.policy_versions import CompactedBody, ResolvedBody
from router.control.publish import publish
from router.site.key_file import write_secret
from tests.router.control.fake_node import AUTHOR, KEY, OTHER_KEY, FakeNode, text_of

NOW_MS = 1_800_000_000_000


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    write_secret(tmp_path / "operator.key", KEY, "test")
    return tmp_path / "operator.key"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    asked = FakeNode()
    monkeypatch.setattr(policy_versions, "client_for", lambda control: asked)
    monkeypatch.setattr(policy_publish, "client_for", lambda control: asked)
    return asked


def tear(node: FakeNode) -> None:
    elsewhere = FakeNode()
    publish(node, KEY, "default", text_of(1), "open asia", NOW_MS)
    publish(elsewhere, OTHER_KEY, "default", text_of(2), "close asia", NOW_MS + 5)
    for op in elsewhere.store.ops():
        node.store.admit(op)


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def invoke(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        status = main(["policy", *map(str, arguments)])
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return invoke


Run: TypeAlias = Callable[..., Ran]


def test_a_conflict_is_shown_and_ended_by_choosing(run: Run, node: FakeNode, key_file: Path) -> None:
    tear(node)
    shown = run("resolve", "--key", key_file)
    assert shown.status == 1
    for said in ("open asia", "close asia", "serves", "stands against it", "say which shall serve: --keep"):
        assert said in shown.out + shown.err
    ours = node.versions("default").versions[1].version
    done = run("resolve", "--key", key_file, "--keep", ours[:6])
    assert done.status == 0
    assert "to cluster test: it ends" in done.out
    (only,) = node.versions("default").versions
    assert (only.text, only.message) == (text_of(1), f"keep {ours[:8]}")
    again = run("resolve", "--key", key_file)
    assert "one version stands; nothing to resolve" in again.out


def test_resolving_as_json_says_what_there_is_and_what_was_done(run: Run, node: FakeNode, key_file: Path) -> None:
    tear(node)
    asked = run("resolve", "--key", key_file, "--json")
    body = msgspec.json.decode(asked.out, type=ResolvedBody)
    assert ([version.message for version in body.standing], body.version) == (["close asia", "open asia"], None)
    assert asked.status == 1
    done = run("resolve", "--key", key_file, "--json", "--keep", body.standing[0].version)
    body = msgspec.json.decode(done.out, type=ResolvedBody)
    assert body.kept == body.standing[0].version
    assert body.version == node.versions("default").versions[0].version


@pytest.mark.parametrize(("keep", "says"), [("ffff", "names none"), ("", "names several"), ("deleted", "names none")])
def test_a_choice_that_is_none_says_what_there_is(
    run: Run, node: FakeNode, key_file: Path, keep: str, says: str
) -> None:
    tear(node)
    refused = run("resolve", "--key", key_file, "--keep", keep)
    assert refused.status == 2
    assert says in refused.err
    assert "there are" in refused.err
    assert len(node.versions("default").versions) == 2


def test_compacting_says_what_it_saved(run: Run, node: FakeNode, key_file: Path) -> None:
    for number in range(40):
        publish(node, KEY, "default", text_of(number + 1), "", NOW_MS + number)
    would = run("compact", "--key", key_file, "--dry-run")
    assert would.out.startswith("would compact 40 ops of ")
    assert node.store.held(AUTHOR) == 40
    done = msgspec.json.decode(run("compact", "--key", key_file, "--json").out, type=CompactedBody)
    assert (done.done, done.ops_before, done.ops, done.policies) == (True, 40, node.store.held(AUTHOR), ["default"])
    assert "nothing to gain" in run("compact", "--key", key_file).out
    assert not msgspec.json.decode(run("compact", "--key", key_file, "--json").out, type=CompactedBody).done


def test_history_is_shortened_along_with_a_publish(run: Run, node: FakeNode, key_file: Path, tmp_path: Path) -> None:
    for number in range(60):
        publish(node, KEY, "default", text_of(number + 1), "", NOW_MS + number)
    text = tmp_path / "shop.policy"
    text.write_text(text_of(77) + 'route all for "*" path "/**" {\n  primary any\n}\n')
    said = run("publish", text, "--key", key_file)
    assert "history shortened: 61 ops of" in said.err
    assert node.store.held(AUTHOR) < 5


@pytest.mark.parametrize("command", ["resolve", "compact"])
def test_without_a_key_nothing_is_asked(run: Run, node: FakeNode, tmp_path: Path, command: str) -> None:
    refused = run(command, "--key", tmp_path / "none.key")
    assert refused.status == 2
    assert "no such operator's key file" in refused.err
