"""Resolving and compacting: signed here, from what is checked here."""

from __future__ import annotations

from pathlib import Path

import pytest

from lattice.identity import Ed25519Verifier
from lattice.policy_ops import open_op
from lattice.types import VersionId
from router.control.author_chain import AuthorChain
from router.control.client import ControlError
from router.control.publish import Compacted, compact, publish, resolve
from tests.router.control.fake_node import AUTHOR, CLUSTER, KEY, OTHER, OTHER_KEY, FakeNode, text_of

NOW_MS = 1_800_000_000_000


@pytest.fixture
def memory(tmp_path: Path) -> AuthorChain:
    return AuthorChain(tmp_path / "operator.key")


def torn() -> FakeNode:
    """Two authors published at once, each at a node that had not heard of the other."""
    node, elsewhere = FakeNode(), FakeNode()
    publish(node, KEY, "default", text_of(1), "ours", NOW_MS)
    publish(elsewhere, OTHER_KEY, "default", text_of(2), "theirs", NOW_MS + 5)
    for op in elsewhere.store.ops():
        node.store.admit(op)
    return node


@pytest.mark.parametrize("keeps", [0, 1])
def test_resolving_publishes_the_chosen_version_as_the_successor_of_all(keeps: int, memory: AuthorChain) -> None:
    node = torn()
    standing = node.versions("default").versions
    assert [(version.message, version.serves) for version in standing] == [("theirs", True), ("ours", False)]
    chosen = standing[keeps]
    version = VersionId(bytes.fromhex(chosen.version))
    resolve(node, KEY, "default", version, chosen.text, "we talked", NOW_MS + 10, memory)
    (only,) = node.versions("default").versions
    assert (only.text, only.author, only.message) == (chosen.text, AUTHOR.hex(), "we talked")
    (manifest,) = [node.store.manifest(VersionId(bytes.fromhex(only.version)))]
    assert manifest is not None
    assert manifest.parent == version, "the history says which one it was made from"
    assert node.store.policies()[0].rivals == ()


def test_a_deletion_may_be_what_is_kept(memory: AuthorChain) -> None:
    node = torn()
    resolve(node, KEY, "default", VersionId(bytes(16)), None, "", NOW_MS + 10, memory)
    assert node.store.policies() == ()
    assert [version.text for version in node.versions("default").versions] == [None]


def test_a_node_that_could_not_take_several_publishes_is_sent_them_all(
    memory: AuthorChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk was full: with the last alone in memory, no node could ever take a publish of this key again."""

    def full(policy: str, ops: list[bytes]) -> None:
        raise ControlError("the disk is full", 503)

    node = FakeNode()
    with monkeypatch.context() as patch:
        patch.setattr(node, "submit_ops", full)
        for number in range(3):
            with pytest.raises(ControlError, match="full"):
                publish(node, KEY, "default", text_of(number), "", NOW_MS + number, memory)
    publish(node, KEY, "default", text_of(7), "there is room", NOW_MS + 10, memory)
    (only,) = node.versions("default").versions
    assert only.text == text_of(7)


# --- compacting


def busy(memory: AuthorChain, publishes: int = 60) -> FakeNode:
    node = FakeNode()
    for number in range(publishes):
        publish(node, KEY, f"p{number % 2}", text_of(1_000 + number), "", NOW_MS + number, memory)
    return node


def test_a_checkpoint_leaves_what_stands_and_the_chain_goes_on(memory: AuthorChain) -> None:
    node = busy(memory)
    before = {policy.policy: policy.version for policy in node.store.policies()}
    would = compact(node, KEY, NOW_MS + 100, memory, dry_run=True)
    assert node.store.held(AUTHOR) == 60
    done = compact(node, KEY, NOW_MS + 100, memory)
    assert done == would
    assert isinstance(done, Compacted)
    assert (done.ops_before, done.policies) == (60, ("p0", "p1"))
    assert node.store.weight(AUTHOR) == done.bytes < done.bytes_before // 10
    assert {policy.policy: policy.version for policy in node.store.policies()} == before
    assert compact(node, KEY, NOW_MS + 101, memory) is None, "all of it lives"
    publish(node, KEY, "p0", text_of(7), "", NOW_MS + 102, memory)
    assert text_of(7) in node.texts()
    assert node.store.forked() == ()


def test_it_is_made_along_with_a_publish_only_when_it_is_due(memory: AuthorChain) -> None:
    node = busy(memory, 3)
    assert compact(node, KEY, NOW_MS + 100, memory, if_due=True) is None
    for number in range(200):
        publish(node, KEY, "default", text_of(2_000 + number), "", NOW_MS + 200 + number, memory)
        compact(node, KEY, NOW_MS + 200 + number, memory, if_due=True)
        assert node.store.weight(AUTHOR) < 20 * 1_024
    assert node.store.chain(AUTHOR).base > 1


def test_a_node_that_lags_is_told_before_the_checkpoint(memory: AuthorChain) -> None:
    node, lagging = busy(memory), FakeNode()
    for op in node.store.ops()[:-1]:
        lagging.store.admit(op)
    compact(lagging, KEY, NOW_MS + 100, memory)
    assert text_of(1_059) in lagging.texts(), "the last publish was sent along, and restated"


def test_a_node_can_not_have_us_sign_what_we_never_published(memory: AuthorChain) -> None:
    class Liar(FakeNode):
        def policy_ops(self) -> list[bytes]:
            ops = super().policy_ops()
            return [*ops[:-1], ops[-1].replace(b"endpoint", b"endp0int")]

    node = Liar()
    node.store = busy(memory).store
    with pytest.raises(ControlError, match="an op that does not hold: bad op signature"):
        compact(node, KEY, NOW_MS + 100, memory)


def test_a_node_that_keeps_ops_back_is_found_out(memory: AuthorChain) -> None:
    class Forgetful(FakeNode):
        def policy_ops(self) -> list[bytes]:
            return super().policy_ops()[:-1]

    node = Forgetful()
    node.store = busy(memory).store
    with pytest.raises(ControlError, match="did not send all ops"):
        compact(node, KEY, NOW_MS + 100, memory)


def test_nobody_elses_chain_is_touched(memory: AuthorChain) -> None:
    node = torn()
    for number in range(60):
        publish(node, KEY, "mine", text_of(number + 1), "", NOW_MS + 20 + number, memory)
    theirs = [op for op in node.store.ops() if open_op(op, Ed25519Verifier(CLUSTER)).op.author == OTHER]
    compact(node, KEY, NOW_MS + 100, memory)
    assert [op for op in node.store.ops() if open_op(op, Ed25519Verifier(CLUSTER)).op.author == OTHER] == theirs
    assert len(node.versions("default").versions) == 2, "a checkpoint resolves nothing"


def test_whoever_published_nothing_has_nothing_to_compact(memory: AuthorChain) -> None:
    assert compact(FakeNode(), KEY, NOW_MS, memory) is None
