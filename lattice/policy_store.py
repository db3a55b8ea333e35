"""Policy ops in, agreed policies out: the apply pipeline, and the pycrdt Doc as materialised view.

Every op passes these steps in order, and the first that fails refuses it with nothing changed:

1. size, shape and signature (`policy_ops.open_op`);
2. capability: its author may write policy here;
3. chain: its predecessor is known. A gap waits, bounded; two ops in one place are proof of a forked key;
4. the strict walk of its Yrs bytes, under its own client id (`yrs_gate`);
5. content: every write is what its op may say (`policy_content.check_write`);
6. a trial on a scratch Doc, whose result must be exactly the walked writes;
7. commit to the Doc.

The state is the *set* of ops; the Doc and the elected policies are functions of it. So order of arrival cannot matter,
not even for a forked author: all of its ops from the fork on are set aside, on every node alike, and what it had
published before goes on serving.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import pycrdt

from lattice.errors import LatticeError, OpError, UntrustedError
from lattice.identity import Verifier
from lattice.policy_content import Head, Manifest, check_write, elect, parse_head, parse_manifest
from lattice.policy_ops import GENESIS, NAMESPACE, OpId, SignedOp, client_id_of, hlc_ms, open_op
from lattice.types import AuthorId, VersionId
from lattice.view import PolicyView
from lattice.yrs_gate import ROOTS, Write, walk

PolicyDoc: TypeAlias = "pycrdt.Doc[pycrdt.Map[bytes]]"
WAITING_MAX = 1_024
OPS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where an author's chain stands: what the author's next op must follow."""

    seq: int
    id: OpId
    hlc: int
    """The greatest timestamp seen from anybody."""


class PolicyStore:
    """All accepted ops of one node, and what they amount to."""

    def __init__(self, authors: Iterable[AuthorId], verifier: Verifier) -> None:
        self._authors = frozenset(authors)
        self._verifier = verifier
        self._ops: dict[OpId, SignedOp] = {}
        self._writes: dict[OpId, tuple[Write, ...]] = {}
        self._places: dict[tuple[AuthorId, int], OpId] = {}
        self._tips: dict[AuthorId, SignedOp] = {}
        self._forks: dict[AuthorId, int] = {}
        self._waiting: dict[OpId, dict[OpId, SignedOp]] = {}
        self._waiting_count = 0
        self._hlc = 0
        self._doc = _new_doc()
        # What the Doc holds, kept beside it write by write: to read it whole after each op would cost all of history.
        self._contents: dict[str, dict[str, bytes]] = {root: {} for root in ROOTS}
        self._heads: dict[str, Head] = {}
        self._complete: set[VersionId] = set()
        self._policies: tuple[PolicyView, ...] = ()

    # --- reading

    def __contains__(self, op: OpId) -> bool:
        return op in self._ops

    def policies(self) -> tuple[PolicyView, ...]:
        """Every policy with a complete version, by name."""
        return self._policies

    def chain(self, author: AuthorId) -> ChainHead:
        tip = self._tips.get(author)
        return ChainHead(tip.op.seq, tip.id, self._hlc) if tip else ChainHead(0, GENESIS, self._hlc)

    def heads(self, policy: str) -> tuple[Head, ...]:
        """Every head of a policy that nobody ended, the serving one last."""
        elected = elect((head for head in self._heads.values() if head.policy == policy), self._is_complete)
        return (*elected[1], elected[0]) if elected else ()

    def blocks_known(self) -> frozenset[str]:
        """The content hashes (hex) of every block held."""
        return frozenset(self._contents["blocks"])

    def forked(self) -> tuple[AuthorId, ...]:
        """Authors whose key signed two different ops in one place."""
        return tuple(sorted(self._forks))

    def waiting(self) -> int:
        return self._waiting_count

    def content_hash(self) -> bytes:
        """32 bytes over all values, sorted: equal if and only if the contents are (state vectors are not: they are
        blind to deletions)."""
        digest = blake2b(digest_size=32, person=b"edgelattice cntt")
        for root in ROOTS:
            for key, value in sorted(self._contents[root].items()):
                digest.update(b"%s\0%d\0%s\0%d\0" % (root.encode(), len(key), key.encode(), len(value)))
                digest.update(value)
        return digest.digest()

    # --- the pipeline

    def admit(self, data: bytes) -> list[SignedOp]:
        """Judge one op; the ops it brought in: itself and those that had waited for it, in chain order.

        An empty list: known already, or waiting for its predecessor. Raises `MalformedError`, `UntrustedError` or
        `OpError`, with nothing changed.
        """
        signed = open_op(data, self._verifier)
        if signed.op.author not in self._authors:
            raise UntrustedError("author without capability", f"{signed.op.author.hex()} may not write policy here")
        if signed.op.namespace != NAMESPACE:
            raise OpError("unknown namespace", signed.op.namespace)
        if signed.id in self._ops:
            return []
        try:
            writes = self._judge(signed) if self._follows(signed) else None
        except OpError:
            self._drop_heirs(signed.id)  # what waits for a bad op can never follow it
            raise
        if writes is None:
            self._wait(signed)
            return []
        if len(self._ops) >= OPS_MAX:
            raise OpError("too many ops", f"{OPS_MAX} are held")
        accepted: list[SignedOp] = []
        self._accept(signed, writes, accepted)
        self._settle(accepted)
        return accepted

    def in_chain_order(self, ops: Iterable[bytes]) -> list[bytes]:
        """The same ops, so that each comes after its predecessor: then none has to wait, of which only so many may."""

        def place(data: bytes) -> tuple[int, bytes]:
            try:
                return open_op(data, self._verifier).op.seq, data
            except LatticeError:
                return 0, data  # for `admit` to refuse

        return sorted(ops, key=place)

    def _follows(self, signed: SignedOp) -> bool:
        """Whether the predecessor is here. Raises `OpError` if it is here and cannot be the predecessor."""
        op = signed.op
        if op.previous == GENESIS:
            if op.seq != 1:
                raise OpError("broken chain", f"op {op.seq} names no predecessor")
            return True
        before = self._ops.get(op.previous)
        if before is None:
            return False
        if before.op.author != op.author or before.op.seq + 1 != op.seq or before.op.hlc >= op.hlc:
            raise OpError("broken chain", f"op {op.seq} does not follow op {before.op.seq} it names")
        return True

    def _wait(self, signed: SignedOp) -> None:
        same_gap = self._waiting.setdefault(signed.op.previous, {})
        if signed.id in same_gap:
            return
        if self._waiting_count >= WAITING_MAX:
            raise OpError("too many ops wait", f"{WAITING_MAX} ops wait for predecessors")
        same_gap[signed.id] = signed
        self._waiting_count += 1

    def _judge(self, signed: SignedOp) -> tuple[Write, ...]:
        op = signed.op
        client_id = client_id_of(op.author, op.seq)
        writes = walk(op.update, client_id)
        for write in writes:
            check_write(write, op.author, op.seq, op.hlc)
        _try_on_scratch(op.update, writes)
        return writes

    def _accept(self, signed: SignedOp, writes: tuple[Write, ...], accepted: list[SignedOp]) -> None:
        """Take the op and, in turn, whatever waited for it; a waiting op that proves bad is dropped with its heirs."""
        queue = [(signed, writes)]
        while queue:
            signed, writes = queue.pop(0)
            self._ops[signed.id] = signed
            self._writes[signed.id] = writes
            accepted.append(signed)
            for heir in self._release(signed.id):
                try:
                    if self._follows(heir):
                        queue.append((heir, self._judge(heir)))
                except OpError:
                    self._drop_heirs(heir.id)

    def _release(self, previous: OpId) -> list[SignedOp]:
        heirs = self._waiting.pop(previous, {})
        self._waiting_count -= len(heirs)
        return [heirs[key] for key in sorted(heirs)]

    def _drop_heirs(self, op: OpId) -> None:
        """Whatever waits for this op, directly or not: a chain of any length, hence no recursion."""
        dropped = [op]
        while dropped:
            dropped += [heir.id for heir in self._release(dropped.pop())]

    # --- from the set of ops to the policies

    def _settle(self, accepted: list[SignedOp]) -> None:
        forked = False
        for signed in accepted:
            place = (signed.op.author, signed.op.seq)
            if self._places.setdefault(place, signed.id) != signed.id:
                known = self._forks.get(signed.op.author)
                self._forks[signed.op.author] = signed.op.seq if known is None else min(known, signed.op.seq)
                forked = True
            tip = self._tips.get(signed.op.author)
            if tip is None or (signed.op.seq, signed.id) > (tip.op.seq, tip.id):
                self._tips[signed.op.author] = signed
            self._hlc = max(self._hlc, signed.op.hlc)
        if forked:
            self._doc = _new_doc()
            self._contents = {root: {} for root in ROOTS}
            self._heads.clear()
            self._complete.clear()
            standing = sorted(self._ops.values(), key=lambda signed: (signed.op.author, signed.op.seq))
        else:
            standing = accepted
        for signed in standing:
            if signed.op.seq < self._forks.get(signed.op.author, signed.op.seq + 1):
                self._doc.apply_update(signed.op.update)
                self._note(self._writes[signed.id])
        self._policies = self._elect()

    def _note(self, writes: Iterable[Write]) -> None:
        for write in writes:
            self._contents[write.root][write.key] = write.value
            if write.root == "heads":
                self._heads[write.key] = parse_head(write.key, write.value)

    def _elect(self) -> tuple[PolicyView, ...]:
        by_policy: dict[str, list[Head]] = {}
        for head in self._heads.values():
            by_policy.setdefault(head.policy, []).append(head)
        elected = ((policy, elect(by_policy[policy], self._is_complete)) for policy in sorted(by_policy))
        return tuple(self._view(policy, *outcome) for policy, outcome in elected if outcome is not None)

    def _view(self, policy: str, head: Head, rivals: tuple[Head, ...]) -> PolicyView:
        manifest = self._manifest(head.version)
        assert manifest is not None, "an elected version is complete"
        blocks = self._contents["blocks"]
        return PolicyView(
            policy=policy,
            version=head.version,
            blocks=tuple(blocks[block.hex()].decode() for block in manifest.blocks),
            author=manifest.author,
            message=manifest.message,
            published_ms=hlc_ms(head.hlc),
            rivals=tuple(sorted(rival.version for rival in rivals)),
        )

    def _manifest(self, version: VersionId) -> Manifest | None:
        value = self._contents["versions"].get(version.hex())
        return None if value is None else parse_manifest(value)

    def _is_complete(self, version: VersionId) -> bool:
        if version in self._complete:
            return True
        manifest = self._manifest(version)
        if manifest is None or not all(block.hex() in self._contents["blocks"] for block in manifest.blocks):
            return False
        self._complete.add(version)
        return True


def _new_doc() -> PolicyDoc:
    return pycrdt.Doc()


def _read(doc: PolicyDoc, name: str) -> dict[str, bytes]:
    found = doc.get(name, type=pycrdt.Map).to_py() or {}
    return {key: bytes(value) for key, value in found.items()}


def _try_on_scratch(update: bytes, writes: tuple[Write, ...]) -> None:
    """Apply to an empty Doc, and see that what came out is what was walked. Raises `OpError`."""
    scratch = _new_doc()
    try:
        scratch.apply_update(update)
        found = {(root, key): value for root in ROOTS for key, value in _read(scratch, root).items()}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - pyo3's PanicException is not an Exception (pycrdt issue 117)
        raise OpError("update does not apply", type(error).__name__) from None
    if found != {(write.root, write.key): write.value for write in writes}:
        raise OpError("update does not apply", "the Doc holds something else than the update says")
