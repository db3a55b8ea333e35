"""`edgelattice policy rollout` at a terminal: what it says when there is little to say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from lattice.rollouts import Entry, Start, Word
from lattice.types import VersionId
from lattice.view import RolloutView
from router.cli import main
from router.commands import rollout as rollout_command
from router.control.answers import view_body
from router.control.body import RolloutBody, ViewBody
from router.site.key_file import write_secret
from tests.router.control.fake_target import AUTHOR, NOW_MS, POLICY, VERSION, FakeTarget, fake_view

BASE = VersionId(b"\x02" * 16)


def start_of(hlc: int) -> Start:
    return Start("default", VERSION, BASE, (1, 100), ("ams",), AUTHOR, hlc << 16)


def rolled(start: Start, state: str, *sites: tuple[str, bool, Word], stage: int = 0) -> RolloutView:
    abort = Entry(start.id, None, AUTHOR, 9, start.hlc, "default", start.hlc) if state == "aborted" else None
    return RolloutView(
        start.id, start, stage, f"{state} one", state, abort, sites, passed=False, here=Word.UNDECIDED, serves=False
    )


def view_with(*rollouts: RolloutView) -> ViewBody:
    class Rolling(FakeTarget):
        def view(self):  # type: ignore[no-untyped-def]
            return replace(fake_view(), rollouts=rollouts, standings=(("default", VERSION),))

    return view_body(Rolling(), {})


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> list[ViewBody]:
    """Whose view the commands see: the last one in the list."""
    views: list[ViewBody] = []

    class Node:
        def view(self) -> ViewBody:
            return views[-1]

    monkeypatch.setattr(rollout_command, "client_for", lambda _control: Node())
    return views


def status(*arguments: str) -> int:
    return main(["policy", "rollout", "status", *arguments])


def test_a_rollout_that_is_not_there_is_not_taken_for_none(
    node: list[ViewBody], capsys: pytest.CaptureFixture[str]
) -> None:
    known = rolled(start_of(NOW_MS), "under way", ("ams", True, Word.PASSED))
    node.append(view_with(known))
    for options in ([], ["--json"]):
        assert status("00aa", *options) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert f"'00aa' names no rollout; there are {known.id.hex()[:8]} (under way)" in told.err
    assert status(known.id.hex()[:6]) == 0
    assert "under way" in capsys.readouterr().out
    assert status("--name", "A B") == 2
    assert "policy name 'A B': expected" in capsys.readouterr().err


def test_where_nobody_votes_nobody_is_counted_and_that_is_said(
    node: list[ViewBody], capsys: pytest.CaptureFixture[str]
) -> None:
    view = view_with(rolled(start_of(NOW_MS), "under way"))
    node.append(view)
    assert status() == 0
    assert "no site has a word that counts: who is away, or sees every region fail, has none" in capsys.readouterr().out
    assert rollout_command._standing(view.rollouts[0]) == (
        "stage 1 of 2: no site in it has a word that counts (who is away, or sees every region fail, has none)"
    )


@pytest.mark.parametrize("start", ["zz", "00", "98" + "01" * 40])
def test_a_rollout_that_no_node_would_tell_of(
    start: str, node: list[ViewBody], capsys: pytest.CaptureFixture[str]
) -> None:
    view = view_with(rolled(start_of(NOW_MS), "under way"))
    told: RolloutBody = msgspec.structs.replace(view.rollouts[0], start=start)
    node.append(msgspec.structs.replace(view, rollouts=[told]))
    assert status() == 1
    assert "mistake of ours" not in capsys.readouterr().err


def test_a_policy_is_by_the_rollout_that_brought_it_not_by_one_that_was_given_up() -> None:
    given_up = rolled(start_of(NOW_MS - 9_000), "aborted")
    brought = rolled(start_of(NOW_MS), "complete", stage=1)
    (policy,) = view_with(given_up, brought).policies
    assert (policy.message, policy.published_ms) == ("complete one", NOW_MS)


def test_no_more_rollouts_are_begun_than_sites_can_speak_of(
    node: list[ViewBody], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node.append(view_with(*(rolled(start_of(NOW_MS + number), "rolled back") for number in range(16))))
    key, policy = tmp_path / "eva.key", tmp_path / "shop.policy"
    write_secret(key, bytes(range(32)), "test")
    policy.write_text(POLICY)
    assert main(["policy", "rollout", "start", str(policy), "--key", str(key)]) == 1
    assert "there are 16 rollouts since the last publish" in capsys.readouterr().err
