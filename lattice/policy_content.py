"""What the policy Doc holds, and what it means: blocks, versions and heads.

* ``blocks``: content hash → the text of one top-level policy statement. A changed statement is one new block.
* ``versions``: version hash → manifest: which blocks in which order, by whom, when, and why.
* ``heads``: policy/author/seq → "this policy is that version from now on, in place of those heads".
* ``rollouts``: how a version comes to all sites by stages (`rollouts`).

Every key is written once: a block and a version are named by their content, a head by the op that set it first. So no
two writes with different values ever compete for a key, and Yrs's rule for such a contest (the highest client id wins)
never decides anything. An author's chain is whole in itself: its heads count with the versions and blocks that it
carries, so no other author's checkpoint can take anything from it. Which version serves is a pure function of the
heads, below: a multi-value register, in which two concurrent publishes both stay visible.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b

from lattice import canonical
from lattice.errors import MalformedError, OpError
from lattice.grants import Role
from lattice.health import NAME_LENGTH_MAX
from lattice.rollouts import ROOT as ROLLOUTS
from lattice.rollouts import check_rollout_write, is_start
from lattice.types import AuthorId, VersionId
from lattice.yrs_gate import UPDATE_BYTES_MAX, Write

BLOCK_BYTES_MAX = UPDATE_BYTES_MAX - 512
BLOCKS_MAX = 512
MESSAGE_LENGTH_MAX = 200
SUPERSEDES_MAX = 32
NOTHING = VersionId(bytes(16))
"""The version of a policy that was deleted."""
_FORMAT = 1
_POLICY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_HEAD_KEY = re.compile(r"([a-z0-9][a-z0-9._-]{0,31})/([0-9a-f]{32})/([1-9][0-9]{0,18})")


def check_policy_name(name: str) -> str:
    """The name itself. Raises ValueError with what is allowed."""
    if not _POLICY_NAME.fullmatch(name):
        raise ValueError(f"policy name {name!r}: expected 1 to 32 of a-z 0-9 . _ -, beginning with a letter or digit")
    return name


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=16, person=b"edgelattice cntt").digest()


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of one policy."""

    policy: str
    blocks: tuple[bytes, ...]
    """Content hashes, in order."""
    parent: bytes
    """The version this one was made from, or nothing."""
    author: AuthorId
    message: str
    published_ms: int

    def packed(self) -> bytes:
        return canonical.pack(
            (_FORMAT, self.policy, self.blocks, self.parent, self.author, self.message, self.published_ms)
        )

    @property
    def version(self) -> VersionId:
        return VersionId(_hash(self.packed()))


@dataclass(frozen=True, slots=True)
class Head:
    """A claim that a policy is at a version."""

    key: str
    policy: str
    version: VersionId
    hlc: int
    supersedes: tuple[str, ...]
    """Keys of the heads its author had seen: with each, every earlier one of that author."""

    @property
    def author(self) -> AuthorId:
        return AuthorId(bytes.fromhex(self.key.split("/")[1]))

    @property
    def seq(self) -> int:
        return int(self.key.split("/")[2])

    @property
    def context(self) -> dict[AuthorId, int]:
        """How far into each author's heads its author had seen."""
        seen: dict[AuthorId, int] = {}
        for key in self.supersedes:
            _, author, seq = split_head_key(key)
            seen[author] = max(seq, seen.get(author, 0))
        return seen

    def ends(self, other: Head) -> bool:
        """Whether this head takes the place of another author's. It cannot end a later one, so one always stands."""
        return self.context.get(other.author, 0) >= other.seq and other.hlc < self.hlc

    def packed(self) -> bytes:
        return canonical.pack((_FORMAT, self.version, self.hlc, self.supersedes))


def block_write(text: str) -> Write:
    data = text.encode()
    return Write("blocks", _hash(data).hex(), data)


def version_write(manifest: Manifest) -> Write:
    return Write("versions", manifest.version.hex(), manifest.packed())


def head_key(policy: str, author: AuthorId, seq: int) -> str:
    return f"{policy}/{author.hex()}/{seq}"


def split_head_key(key: str) -> tuple[str, AuthorId, int]:
    """(policy, author, seq). Raises `MalformedError`."""
    parts = _HEAD_KEY.fullmatch(key)
    if parts is None:
        raise MalformedError("bad shape", f"head {key!r} is not policy/author/seq")
    return parts[1], AuthorId(bytes.fromhex(parts[2])), int(parts[3])


def head_write(head: Head) -> Write:
    return Write("heads", head.key, head.packed())


def check_write(write: Write, author: AuthorId, seq: int, hlc: int, base: int = 1, role: Role = Role.OPERATOR) -> None:
    """The schema step of the apply pipeline: what an op by `author` at `seq` may write. Raises `OpError`.

    In a generation that begins at `base`, a checkpoint may state a head again that its author set before.
    """
    if role is Role.CONTROLLER and (write.root != ROLLOUTS or is_start(write.key)):
        what = "begins one" if write.root == ROLLOUTS else f"writes {write.root}"
        raise OpError("controller exceeds its role", f"it may advance and abort rollouts, and this op {what}")
    try:
        if write.root == ROLLOUTS:
            check_rollout_write(write.key, write.value, author, seq, hlc, base)
        elif write.root == "heads":
            head = parse_head(write.key, write.value)
            restated = head.seq < base
            if head.author != author or (head.seq != seq and not restated):
                raise OpError("bad content", f"head {write.key!r} does not name its own op")
            if head.hlc >= hlc if restated else head.hlc != hlc:
                raise OpError("bad content", "a head's timestamp differs from its op's")
        elif write.key != _hash(write.value).hex():
            raise OpError("bad content", f"{write.root} key {write.key[:16]!r} is not the hash of its value")
        elif write.root == "versions":
            if parse_manifest(write.value).author != author:
                raise OpError("bad content", "a version in another author's name")
        else:
            _check_block(write.value)
    except MalformedError as error:
        raise OpError("bad content", str(error)) from error


def _check_block(value: bytes) -> None:
    if len(value) > BLOCK_BYTES_MAX:
        raise OpError("bad content", f"a block of {len(value)} bytes, at most {BLOCK_BYTES_MAX}")
    try:
        value.decode()
    except UnicodeDecodeError:
        raise OpError("bad content", "a block that is not UTF-8") from None


def parse_head(key: str, value: bytes) -> Head:
    """Raises `MalformedError`."""
    policy, _, _ = split_head_key(key)
    fields = canonical.array(canonical.unpack_canonical(value, UPDATE_BYTES_MAX), "head", length=4)
    if canonical.integer(fields[0], "head format") != _FORMAT:
        raise MalformedError("wrong version", f"head format {fields[0]!r}")
    head = Head(
        key=key,
        policy=policy,
        version=VersionId(canonical.blob(fields[1], "version", length=16)),
        hlc=canonical.integer(fields[2], "hlc"),
        supersedes=tuple(
            canonical.text(item, "superseded head", 160)
            for item in canonical.array(fields[3], "supersedes", length_max=SUPERSEDES_MAX)
        ),
    )
    if any(split_head_key(superseded)[0] != policy for superseded in head.supersedes):
        raise MalformedError("bad shape", f"head {key!r} ends heads of another policy")
    return head


def parse_manifest(value: bytes) -> Manifest:
    """Raises `MalformedError`."""
    fields = canonical.array(canonical.unpack_canonical(value, UPDATE_BYTES_MAX), "manifest", length=7)
    if canonical.integer(fields[0], "manifest format") != _FORMAT:
        raise MalformedError("wrong version", f"manifest format {fields[0]!r}")
    blocks = canonical.array(fields[2], "blocks", length_max=BLOCKS_MAX)
    parent = canonical.blob(fields[3], "parent", length_max=16)
    return Manifest(
        policy=canonical.text(fields[1], "policy", NAME_LENGTH_MAX),
        blocks=tuple(canonical.blob(block, "block hash", length=16) for block in blocks),
        parent=parent,
        author=AuthorId(canonical.blob(fields[4], "author", length=16)),
        message=canonical.text(fields[5], "message", MESSAGE_LENGTH_MAX),
        published_ms=canonical.integer(fields[6], "published_ms"),
    )


def elect(heads: Iterable[Head], complete: Callable[[Head], bool]) -> tuple[Head, tuple[Head, ...]] | None:
    """Which head of a policy serves, and which stand against it; None while no head's version is here in full.

    A multi-value register with version vectors (Shapiro et al., 2011; Almeida et al., 2014): an author's last head
    takes the place of all its earlier ones, and of every head that it names, with the earlier ones of *that* author. Of
    those nobody ended, the latest by (timestamp, version, key) serves; the others are rivals, for a person to resolve.
    A version of which a block is still on its way does not count yet, so the one before it goes on serving.
    """
    last: dict[AuthorId, Head] = {}
    for head in heads:
        if complete(head) and (head.author not in last or head.seq > last[head.author].seq):
            last[head.author] = head
    standing = sorted(
        (head for head in last.values() if not any(other.ends(head) for other in last.values())),
        key=lambda head: (head.hlc, head.version, head.key),
    )
    if not standing:
        return None
    serving = standing[-1]
    return serving, tuple(head for head in standing[:-1] if head.version != serving.version)
