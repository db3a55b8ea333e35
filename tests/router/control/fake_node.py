"""A node's policy store behind the control client's face: what operators' tools talk to in tests."""

from __future__ import annotations

from lattice.identity import Ed25519Signer, Ed25519Verifier, author_id_of
from lattice.policy_store import PolicyStore
from lattice.types import AuthorId
from router.control.answers import head_body, standings_body
from router.control.body import HeadBody, PublishedBody, StandingsBody
from router.control.client import ControlClient, ControlError
from router.control.target import head_at, standing_at

CLUSTER = "test"
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
AUTHOR, OTHER = (author_id_of(Ed25519Signer(key, CLUSTER).public_key) for key in (KEY, OTHER_KEY))


class FakeNode(ControlClient):
    """A node's policy store behind the client's face; it can lose answers and refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.store = PolicyStore([AUTHOR, OTHER], Ed25519Verifier(CLUSTER))
        self.fails: ControlError | None = None
        self.loses_answers = False

    def head(self, policy: str, author: bytes) -> HeadBody:
        return head_body(policy, AuthorId(author), head_at(self.store, CLUSTER, policy, AuthorId(author)))

    def versions(self, policy: str) -> StandingsBody:
        return standings_body(policy, standing_at(self.store, policy))

    def policy_ops(self) -> list[bytes]:
        return self.store.ops()

    def submit_ops(self, policy: str, ops: list[bytes]) -> PublishedBody:
        if self.fails is not None:
            raise self.fails
        for op in ops:
            self.store.admit(op)
        if self.loses_answers:
            raise ControlError("no answer")
        serving = self.store.heads(policy)
        return PublishedBody(policy, serving[-1].version.hex() if serving else "", len(ops))

    def texts(self) -> list[str]:
        return ["".join(policy.blocks) for policy in self.store.policies()]


def text_of(number: int) -> str:
    return f"edition 1\nregion r{number} {{\n  at 0 0\n  endpoint 127.0.0.1:{number}\n}}\n"
