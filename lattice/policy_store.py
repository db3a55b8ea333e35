"""Policy ops in, agreed policies out: the apply pipeline, and the pycrdt Doc as materialised view.

Every op passes these steps in order, and the first that fails refuses it with nothing changed:

1. size, shape and signature (`policy_ops.open_op`);
2. capability: its author may write policy here, by the site's own list or by a grant of the cluster's CA (`grants`);
   what a controller may say of it is looked at in step 5;
3. chain: its predecessor is known, and its generation not below its author's checkpoint (`policy_chains`). A gap
   waits, bounded; two ops in one place are proof of a forked key;
4. the strict walk of its Yrs bytes, under its own client id (`yrs_gate`);
5. content: every write is what its op may say (`policy_content.check_write`);
6. a trial on a scratch Doc, whose result must be exactly the walked writes;
7. commit to the Doc.

The state is the *set* of ops; the Doc and the elected policies are functions of it. So order of arrival cannot matter,
not even for a forked author: all of its ops from the fork on are set aside, on every node alike, and what it had
published before goes on serving. Nor when a checkpoint arrives: a sealed generation makes the author's earlier ones
void on every node alike, and the Doc begins anew without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import pycrdt

from lattice.errors import LatticeError, MalformedError, OpError, UntrustedError
from lattice.grants import Grants, Role
from lattice.identity import Grant, Verifier, author_id_of
from lattice.policy_chains import Chains
from lattice.policy_content import (
    NOTHING,
    Head,
    Manifest,
    check_write,
    elect,
    head_key,
    head_write,
    parse_head,
    parse_manifest,
)
from lattice.policy_ops import GENESIS, NAMESPACE, Op, OpId, SignedOp, client_id_of, hlc_ms, open_op
from lattice.rollout_book import RolloutBook, still_counts
from lattice.rollouts import ROOT as ROLLOUTS
from lattice.rollouts import Rollout, RolloutId, Start, is_start, parse_entry, parse_start
from lattice.types import CLOCK_UNSET_BEFORE_US, AuthorId, VersionId
from lattice.view import ForkView, PolicyView
from lattice.yrs_gate import ROOTS, Write, walk

PolicyDoc: TypeAlias = "pycrdt.Doc[pycrdt.Map[bytes]]"
OPS_MAX = 50_000
CHECKPOINT_OPS_MAX = 2_048
"""So many more while a checkpoint comes in: a store that is full must still take what will empty it."""
AHEAD_MS_MAX = 5 * 60_000
"""How far an op's date may be ahead of ours: what Kerberos allows (RFC 4120: 5 minutes), and what a certificate of ours
is dated back. Every later timestamp must be above it, so it is also how far one author can drag everybody's clock."""


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where an author's chain stands: what the author's next op must follow."""

    seq: int
    id: OpId
    hlc: int
    """The greatest timestamp seen from anybody."""
    base: int = 1
    """Where the author's generation in force begins."""


class PolicyStore:
    """All accepted ops of one node, and what they amount to."""

    def __init__(self, authors: Iterable[AuthorId], verifier: Verifier, grants: Grants | None = None) -> None:
        self._authors = frozenset(authors)
        self._verifier = verifier
        self._grants = grants or Grants(None, verifier)
        self._chains = Chains()
        self._writes: dict[OpId, tuple[Write, ...]] = {}
        self._void: list[SignedOp] = []
        self._put_off: list[SignedOp] = []
        self._hlc = 0
        self._policies: tuple[PolicyView, ...] = ()
        self._outcomes: dict[str, tuple[Head, tuple[Head, ...]]] = {}
        self._begin_doc()

    def _begin_doc(self) -> None:
        self._doc = _new_doc()
        # What the Doc holds, kept beside it write by write: to read it whole after each op would cost all of history.
        self._contents: dict[str, dict[str, bytes]] = {root: {} for root in ROOTS}
        self._carried: dict[AuthorId, set[tuple[str, str]]] = {}
        self._heads: dict[str, dict[AuthorId, list[Head]]] = {}
        self._rollouts = RolloutBook()
        self._complete: set[str] = set()
        self._manifests: dict[VersionId, Manifest] = {}

    # --- reading

    def __contains__(self, op: OpId) -> bool:
        return op in self._chains.ops

    def ops(self) -> list[bytes]:
        """Every op held, in an order in which each follows its predecessor."""
        held = sorted(self._chains.ops.values(), key=lambda signed: (signed.op.author, signed.op.seq, signed.id))
        return [signed.data for signed in held]

    def policies(self) -> tuple[PolicyView, ...]:
        """Every policy with a complete version that nobody deleted, by name."""
        return self._policies

    def chain(self, author: AuthorId) -> ChainHead:
        tip = self._chains.tip(author)
        if tip is None:
            return ChainHead(0, GENESIS, self._hlc)
        return ChainHead(tip.op.seq, tip.id, self._hlc, tip.op.base)

    def heads(self, policy: str) -> tuple[Head, ...]:
        """Every head of a policy that nobody ended, the serving one last."""
        outcome = self._elect(policy)
        return (*outcome[1], outcome[0]) if outcome else ()

    def context(self, policy: str) -> tuple[str, ...]:
        """What a publish supersedes: of every author the last head known of, be it only by another head's word."""
        seen: dict[AuthorId, int] = {}
        for heads in self._heads.get(policy, {}).values():
            for head in heads:
                for author, seq in (*head.context.items(), (head.author, head.seq)):
                    seen[author] = max(seq, seen.get(author, 0))
        return tuple(head_key(policy, author, seen[author]) for author in sorted(seen))

    def head(self, policy: str) -> Head | None:
        """The head that serves, of a policy that is there."""
        outcome = self._outcomes.get(policy)
        return outcome[0] if outcome is not None else None

    @property
    def has_rollouts(self) -> bool:
        """Whether anybody ever began one."""
        return bool(self._rollouts)

    def rollouts(self, policy: str) -> tuple[Rollout, ...]:
        """Those begun since the head that serves came to stand, the earliest first: the others are over."""
        head = self.head(policy)
        return () if head is None or not self._rollouts else self._rollouts.of(policy, head.hlc, self._is_whole)

    def blocks_known(self, author: AuthorId) -> frozenset[str]:
        """The content hashes (hex) of the blocks that this author's chain carries: it need not send them again."""
        return frozenset(key for root, key in self._carried.get(author, ()) if root == "blocks")

    def live(self, author: AuthorId) -> tuple[Write, ...]:
        """What an author's checkpoint must state anew: its standing heads, and what they need.

        A head that another's ended may go: whoever ends it also ends what it had ended. The word that a policy is
        deleted stays while another author's chain still has a head of that policy.
        """
        kept: dict[tuple[str, str], Write] = {}
        for policy in sorted(self._heads):
            last = self._last_complete(policy, author)
            if last is None or last not in self.heads(policy):
                continue
            if last.version == NOTHING:
                if len(self._heads[policy]) == 1:
                    continue
            else:
                self._keep(kept, last.version)
            kept["heads", last.key] = head_write(last)
        for root, key in sorted(self._carried.get(author, ())) if self._rollouts else ():
            if root == ROLLOUTS:
                write = Write(root, key, self._contents[root][key])
                if still_counts(write, author, self._is_over):
                    if is_start(key) and self._is_whole(start := parse_start(write.value)):
                        self._keep(kept, start.version)
                    kept[root, key] = write
        return tuple(kept.values())

    def _keep(self, kept: dict[tuple[str, str], Write], version: VersionId) -> None:
        """A version that is here, with its statements before it."""
        manifest = self._manifest(version)
        assert manifest is not None, "a complete version is here"
        for root, key in [*(("blocks", block.hex()) for block in manifest.blocks), ("versions", version.hex())]:
            kept[root, key] = Write(root, key, self._contents[root][key])

    def _is_over(self, policy: str, started: int) -> bool:
        """Whether a rollout begun then was ended by a later head. Of a policy that is not here nobody can say."""
        outcome = self._elect(policy)
        return outcome is not None and (outcome[0].version == NOTHING or outcome[0].hlc > started)

    def _is_whole(self, start: Start) -> bool:
        """Whether a rollout's version is here in full, of its policy, by its own author's word."""
        manifest = self._manifest(start.version)
        return manifest is not None and manifest.policy == start.policy and self._carries(start.author, manifest)

    def held(self, author: AuthorId) -> int:
        """How many ops are held of an author."""
        return sum(1 for signed in self._chains.ops.values() if signed.op.author == author)

    def weight(self, author: AuthorId) -> int:
        """The bytes of all ops held of an author."""
        return sum(len(signed.data) for signed in self._chains.ops.values() if signed.op.author == author)

    def forked(self) -> tuple[AuthorId, ...]:
        """Authors whose key signed two different ops in one place."""
        return tuple(fork.author for fork in self._chains.forks())

    def forks(self) -> tuple[ForkView, ...]:
        """The same, with the evidence."""
        return self._chains.forks()

    def waiting(self) -> int:
        return self._chains.waiting()

    def waiting_ops(self) -> list[OpId]:
        """The ops that came and wait for their predecessors, sorted."""
        return self._chains.waiting_ops()

    def waits(self, op: OpId) -> bool:
        """Whether this op came and waits for its predecessor."""
        return self._chains.waits(op)

    def take_put_off(self) -> list[SignedOp]:
        """The ops that came since the last call and wait for their predecessors: signed by who may, and no more."""
        put_off, self._put_off = self._put_off, []
        return put_off

    def awaited_by(self, ops: Iterable[OpId]) -> list[OpId]:
        """What these wait for, where that has not come either."""
        return self._chains.awaited_by(ops)

    def take_void(self) -> list[SignedOp]:
        """The ops that checkpoints made void since the last call: whoever keeps them elsewhere may drop them."""
        void, self._void = self._void, []
        return void

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

    def admit(
        self,
        data: bytes,
        own: bool = False,
        now_ms: int | None = None,
        others_now_ms: Callable[[], int] = lambda: 0,
    ) -> list[SignedOp]:
        """Judge one op; the ops it brought in: itself and those that had waited for it, in chain order.

        An empty list: known already, or waiting for its predecessor. Raises `MalformedError`, `UntrustedError` or
        `OpError`, with nothing changed. An op of our `own` operator that would fork its author's chain is refused:
        from a peer the same op is evidence, and must be kept. `now_ms` is this node's date, for ops from the future;
        `others_now_ms` is asked when it says that one is: our clock may be the one that is wrong.
        """
        signed = open_op(data, self._verifier)
        op = signed.op
        self._role_of(op)
        if signed.op.namespace != NAMESPACE:
            raise OpError("unknown namespace", signed.op.namespace)
        if signed.id in self._chains.ops:
            return []
        if now_ms is not None:
            _check_date(signed, now_ms, others_now_ms)
        if own and self._chains.is_taken(signed):
            raise OpError("place taken", f"another op {signed.op.seq} of this author is here: ask for the chain again")
        try:
            writes = self._judge(signed) if self._chains.follows(signed) else None
        except OpError:
            self._chains.refuse(signed.id)  # what follows a bad op, now or later, is bad as well
            raise
        if writes is None:
            if self._chains.wait(signed):
                self._put_off.append(signed)
            return []
        reserve = CHECKPOINT_OPS_MAX if signed.op.base > self._chains.in_force(signed.op.author)[0] else 0
        if len(self._chains.ops) >= OPS_MAX + reserve:
            raise OpError("too many ops", f"{OPS_MAX} are held")
        accepted: list[SignedOp] = []
        if self._accept(signed, writes, accepted):
            self._rebuild()
        else:
            self._apply(accepted)
        self._policies = self._view()
        return accepted

    def check_operator(self, public_key: bytes, grant: Grant | None, date_ms: int) -> None:
        """Raise `UntrustedError` unless this key might write any policy at that date."""
        if self._role(public_key, grant, date_ms) is not Role.OPERATOR:
            raise UntrustedError("author without capability", "a controller may advance and abort rollouts, no more")

    def _role(self, public_key: bytes, grant: Grant | None, date_ms: int) -> Role:
        """As what this key may write policy at that date. Raises `UntrustedError`."""
        author = author_id_of(public_key)
        if author in self._authors:
            return Role.OPERATOR
        return self._grants.author_role(author, public_key, grant, date_ms)

    def _role_of(self, op: Op) -> Role:
        return self._role(op.public_key, op.grant, hlc_ms(op.hlc))

    def revoke(self, author: AuthorId, seq: int, op: OpId) -> None:
        """The CA has taken the author's key back: this op is its last that counts. `take_void` has what goes by it."""
        known = self._chains.knows(author)
        void = self._chains.pin(author, (seq, op))
        if not known:
            return  # a node's key, or its first op is yet to come
        for gone in void:
            del self._writes[gone.id]
        self._void += void
        self._rebuild()
        self._policies = self._view()

    def _rebuild(self) -> None:
        """The Doc, from the ops that count now."""
        self._begin_doc()
        for author in self._chains.authors():
            self._apply(self._chains.standing(author))

    def preview(self, ops: Iterable[bytes]) -> list[tuple[str, str]]:
        """(policy, text) of every new version that these ops would complete. Raises as `admit` does; nothing changes.

        A version that is here already is none: a checkpoint may restate what this edition would not take any more.
        """
        writes: list[Write] = []
        for data in ops:
            op = open_op(data, self._verifier).op
            writes += walk(op.update, client_id_of(op.author, op.seq))
        blocks = self._contents["blocks"] | {write.key: write.value for write in writes if write.root == "blocks"}
        try:
            manifests = [parse_manifest(write.value) for write in writes if write.root == "versions"]
            return [
                (manifest.policy, b"".join(blocks[block.hex()] for block in manifest.blocks).decode())
                for manifest in manifests
                if manifest.version.hex() not in self._contents["versions"]
                and all(block.hex() in blocks for block in manifest.blocks)
            ]
        except (MalformedError, UnicodeDecodeError) as error:
            raise OpError("bad content", str(error)) from None

    def version_set_by(self, op: OpId) -> VersionId | None:
        """The version that an accepted op made the head of its policy; None if it set no head."""
        writes = self._writes.get(op, ())
        return next((parse_head(write.key, write.value).version for write in writes if write.root == "heads"), None)

    def rollout_named_by(self, op: OpId) -> RolloutId | None:
        """Which rollout an accepted op begins, advances or aborts; None if it does none of it."""
        for write in self._writes.get(op, ()):
            if write.root == ROLLOUTS:
                return (
                    parse_start(write.value).id if is_start(write.key) else parse_entry(write.key, write.value).rollout
                )
        return None

    def text_of(self, version: VersionId) -> str | None:
        """The text of any version that is here in full."""
        manifest = self._manifest(version)
        if manifest is None or not self._carries(manifest.author, manifest):
            return None
        return b"".join(self._contents["blocks"][block.hex()] for block in manifest.blocks).decode()

    def manifest(self, version: VersionId) -> Manifest | None:
        """Who published a version, when and why; None if it is not here."""
        return self._manifest(version)

    def seals(self, op: OpId) -> bool:
        """Whether an accepted op ends a checkpoint."""
        signed = self._chains.ops.get(op)
        return signed is not None and signed.op.seals

    def in_chain_order(self, ops: Iterable[bytes]) -> list[bytes]:
        """The same ops, so that each comes after its predecessor: then none has to wait, of which only so many may."""

        def place(data: bytes) -> tuple[int, bytes]:
            try:
                return open_op(data, self._verifier).op.seq, data
            except LatticeError:
                return 0, data  # for `admit` to refuse

        return sorted(ops, key=place)

    def _judge(self, signed: SignedOp) -> tuple[Write, ...]:
        op = signed.op
        if op.seals and not op.update:
            return ()  # a checkpoint of an author that has nothing left
        client_id = client_id_of(op.author, op.seq)
        writes, role = walk(op.update, client_id), self._role_of(op)
        for write in writes:
            check_write(write, op.author, op.seq, op.hlc, op.base, role)
        _try_on_scratch(op.update, writes)
        return writes

    def _accept(self, signed: SignedOp, writes: tuple[Write, ...], accepted: list[SignedOp]) -> bool:
        """Take the op and, in turn, whatever waited for it; a waiting op that proves bad is dropped with its heirs.

        Whether more than these ops counts differently now: a fork, or a checkpoint.
        """
        queue = [(signed, writes)]
        disturbed = False
        while queue:
            signed, writes = queue.pop(0)
            overturned, void = self._chains.add(signed)
            disturbed = disturbed or overturned
            for gone in void:
                del self._writes[gone.id]
            self._void += void
            self._writes[signed.id] = writes
            self._hlc = max(self._hlc, signed.op.hlc)
            accepted.append(signed)
            for heir in self._chains.release(signed.id):
                try:
                    if self._chains.follows(heir):
                        queue.append((heir, self._judge(heir)))
                except OpError:
                    self._chains.refuse(heir.id)
        return disturbed

    # --- from the set of ops to the policies

    def _apply(self, ops: Iterable[SignedOp]) -> None:
        """Bring the ops among these that count into the Doc, and into what is kept beside it."""
        for signed in ops:
            if not self._chains.stands(signed):
                continue
            if signed.op.update:
                self._doc.apply_update(signed.op.update)
            carried = self._carried.setdefault(signed.op.author, set())
            for write in self._writes[signed.id]:
                self._contents[write.root][write.key] = write.value
                carried.add((write.root, write.key))
                if write.root == "heads":
                    head = parse_head(write.key, write.value)
                    self._heads.setdefault(head.policy, {}).setdefault(signed.op.author, []).append(head)
                elif write.root == ROLLOUTS:
                    self._rollouts.take(write)

    def _last_complete(self, policy: str, author: AuthorId) -> Head | None:
        """The author's last head with a whole version; those before it are forgotten, for it has taken their place."""
        heads = self._heads[policy].get(author, [])
        last = max(filter(self._is_complete, heads), key=lambda head: head.seq, default=None)
        if last is not None and len(heads) > 1:
            self._heads[policy][author] = [head for head in heads if head.seq >= last.seq]
        return last

    def _elect(self, policy: str) -> tuple[Head, tuple[Head, ...]] | None:
        last = (self._last_complete(policy, author) for author in list(self._heads.get(policy, ())))
        return elect([head for head in last if head is not None], lambda _: True)

    def _view(self) -> tuple[PolicyView, ...]:
        known = {view.policy: view for view in self._policies}
        for gone in self._outcomes.keys() - self._heads.keys():
            del self._outcomes[gone]  # all that was said of it is void
        views = []
        for policy in sorted(self._heads):
            outcome = self._elect(policy)
            if outcome is None or outcome[0].version == NOTHING:
                self._outcomes.pop(policy, None)
                continue
            if self._outcomes.get(policy) != outcome or policy not in known:
                known[policy] = self._view_of(policy, *outcome)
                self._outcomes[policy] = outcome
            views.append(known[policy])
        return tuple(views)

    def _view_of(self, policy: str, head: Head, rivals: tuple[Head, ...]) -> PolicyView:
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
        known = self._manifests.get(version)
        if known is not None:
            return known
        value = self._contents["versions"].get(version.hex())
        if value is None:
            return None
        manifest = self._manifests[version] = parse_manifest(value)
        return manifest

    def _is_complete(self, head: Head) -> bool:
        if head.key in self._complete or head.version == NOTHING:
            return True
        manifest = self._manifest(head.version)
        if manifest is None or manifest.policy != head.policy or not self._carries(head.author, manifest):
            return False  # of another policy's version it will never be one
        self._complete.add(head.key)
        return True

    def _carries(self, author: AuthorId, manifest: Manifest) -> bool:
        """Whether the author's own chain has all of a version."""
        carried = self._carried.get(author, set())
        return ("versions", manifest.version.hex()) in carried and all(
            ("blocks", block.hex()) in carried for block in manifest.blocks
        )


def _check_date(signed: SignedOp, now_ms: int, others_now_ms: Callable[[], int]) -> None:
    """An op from too far in the future would outrank whatever is published until then. Raises `OpError`.

    A machine whose clock was never set judges nothing: it would refuse every op there is.
    """
    if now_ms * 1_000 < CLOCK_UNSET_BEFORE_US or hlc_ms(signed.op.hlc) - now_ms <= AHEAD_MS_MAX:
        return
    ahead_ms = hlc_ms(signed.op.hlc) - max(now_ms, others_now_ms())
    if ahead_ms > AHEAD_MS_MAX:
        raise OpError(
            "from the future", f"{ahead_ms // 60_000} minutes ahead of this node's clock, and of most others'"
        )


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
