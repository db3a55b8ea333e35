"""What a command says when a publish was not confirmed: never that nothing happened when something may have."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from router.commands.publishing import not_done
from router.control.author_chain import AuthorChain
from router.control.client import ControlError
from router.control.publish import UnconfirmedError, publish
from tests.router.control.fake_node import KEY, FakeNode, text_of

NOW_MS = 1_800_000_000_000


def said(error: Exception) -> str:
    return str(not_done("published", error, Path("ops/eva.key")))


def test_what_may_have_been_taken_is_not_said_to_be_nothing() -> None:
    taken = "the policy was taken and goes to the other nodes, but this node may lose it if it stops now"
    assert said(UnconfirmedError(taken, 503)) == (
        f"not confirmed: {taken}\n"
        "What was signed stays in ops/eva.key.chain, and goes along with whatever you publish next"
    )
    assert said(UnconfirmedError("version 12ab is kept, but 34cd serves", 409)) == (
        "kept, but not in force: version 12ab is kept, but 34cd serves"
    )
    assert said(ControlError("no node answers")) == "nothing was published: no node answers"
    assert said(ControlError("author without capability", 422)) == "nothing was published: author without capability"
    full = OSError(errno.ENOSPC, "No space left on device", "ops/eva.key.chain")
    assert said(full).startswith("nothing was published: ops/eva.key.chain: no space left on device; ")


@pytest.mark.parametrize(("status", "confirmed"), [(0, False), (409, False), (422, True), (503, False), (500, False)])
def test_only_a_refusal_leaves_no_doubt(tmp_path: Path, status: int, confirmed: bool) -> None:
    def refuse(policy: str, ops: list[bytes]) -> None:
        raise ControlError("so it is", status)

    node, memory = FakeNode(), AuthorChain(tmp_path / "eva.key")
    node.submit_ops = refuse  # type: ignore[method-assign, assignment]  # the node's answer
    with pytest.raises(ControlError, match="so it is") as caught:
        publish(node, KEY, "default", text_of(1), "", NOW_MS, memory)
    assert isinstance(caught.value, UnconfirmedError) is not confirmed
    assert bool(memory.last("test")) is not confirmed, "what may have been taken is remembered"


def test_a_full_disk_at_the_operator_s_names_the_file_and_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    node, memory = FakeNode(), AuthorChain(tmp_path / "eva.key")
    publish(node, KEY, "default", text_of(1), "", NOW_MS, memory)
    before = memory.path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        publish(node, KEY, "default", text_of(2), "", NOW_MS + 1, memory)
    assert caught.value.filename == str(memory.path)
    assert memory.path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eva.key.chain", "eva.key.chain.lock"]
    assert [version.text for version in node.versions("default").versions] == [text_of(1)]
