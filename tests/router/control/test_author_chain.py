"""An innocent operator never forks: not at a node that lags, not when an answer is lost."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from router.control.author_chain import AuthorChain
from router.control.client import ControlError
from router.control.publish import publish
from tests.router.control.fake_node import AUTHOR, CLUSTER, KEY, FakeNode, text_of


@pytest.fixture
def memory(tmp_path: Path) -> AuthorChain:
    return AuthorChain(tmp_path / "operator.key")


def say(node: FakeNode, memory: AuthorChain | None, number: int) -> None:
    publish(node, KEY, "default", text_of(number), "", 1_000 + number, memory)


def test_publishing_at_a_node_that_lags_does_not_fork(memory: AuthorChain) -> None:
    ams, fra = FakeNode(), FakeNode()
    say(ams, memory, 1)
    say(fra, memory, 2)  # fra has not heard of the first publish: it is sent along
    assert fra.texts() == [text_of(2)]
    assert fra.store.forked() == ()
    assert fra.store.policies()[0].rivals == ()
    assert fra.store.chain(AUTHOR).seq == 2


def test_without_the_memory_it_would(memory: AuthorChain) -> None:
    """The planted bug: what the memory is for."""
    ams, fra = FakeNode(), FakeNode()
    say(ams, None, 1)
    say(fra, None, 2)
    for op in fra.store.ops():
        ams.store.admit(op)
    assert ams.store.forked() == (AUTHOR,)


def test_an_answer_that_is_lost_is_no_harm(memory: AuthorChain) -> None:
    ams = FakeNode()
    ams.loses_answers = True
    with pytest.raises(ControlError, match="no answer"):
        say(ams, memory, 1)
    ams.loses_answers = False
    say(ams, memory, 2)
    assert ams.texts() == [text_of(2)]
    assert (ams.store.forked(), ams.store.policies()[0].rivals) == ((), ())


def test_a_publish_that_never_arrived_is_sent_with_the_next(memory: AuthorChain) -> None:
    ams = FakeNode()
    ams.fails = ControlError("connection refused")
    with pytest.raises(ControlError):
        say(ams, memory, 1)
    ams.fails = None
    say(ams, memory, 2)
    assert ams.texts() == [text_of(2)]
    assert ams.store.chain(AUTHOR).seq == 2


def test_a_definite_refusal_leaves_the_memory_as_it_was(memory: AuthorChain) -> None:
    ams = FakeNode()
    say(ams, memory, 1)
    before = memory.path.read_bytes()
    ams.fails = ControlError("refused", status=422)
    with pytest.raises(ControlError):
        say(ams, memory, 2)
    assert memory.path.read_bytes() == before
    ams.fails = None
    say(ams, memory, 3)
    assert ams.texts() == [text_of(3)]
    assert ams.store.forked() == ()


def test_a_node_that_knows_more_is_believed(memory: AuthorChain, tmp_path: Path) -> None:
    """The same key was used from another machine."""
    ams = FakeNode()
    say(ams, memory, 1)
    say(ams, AuthorChain(tmp_path / "elsewhere.key"), 2)
    say(ams, memory, 3)
    assert ams.texts() == [text_of(3)]
    assert ams.store.forked() == ()


def test_a_damaged_memory_says_so(memory: AuthorChain) -> None:
    for damage in (b"", b"{", b"[]", b"\xff", b'{"test": {"seq": "one"}}'):
        memory.path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"operator\.key\.chain is damaged"):
            say(FakeNode(), memory, 1)


def test_clusters_are_kept_apart(memory: AuthorChain) -> None:
    ams = FakeNode()
    say(ams, memory, 1)
    assert memory.last("another") is None
    known = memory.last(CLUSTER)
    assert known is not None
    memory.put_back("another", known)
    assert memory.last(CLUSTER) == known
    assert stat.S_ISREG(memory.path.stat().st_mode)
