"""What the policy Doc holds, and what it means: blocks, versions and heads.

* ``blocks``: content hash → the text of one top-level policy statement. A changed statement is one new block.
* ``versions``: version hash → manifest: which blocks in which order, by whom, when, and why.
* ``heads``: policy/author/seq → "this policy is that version from now on, in place of those heads".

Every key is written once: a block and a version are named by their content, a head by the op that wrote it. So the Doc
only grows, no two writes ever compete for a key, and Yrs's rule for such a contest (the highest client id wins) never
decides anything. Which version serves is a pure function of the heads, below: a multi-value register, in which two
concurrent publishes both stay visible.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b

from lattice import canonical
from lattice.errors import MalformedError, OpError
from lattice.health import NAME_LENGTH_MAX
from lattice.types import AuthorId, VersionId
from lattice.yrs_gate import UPDATE_BYTES_MAX, Write

BLOCK_BYTES_MAX = UPDATE_BYTES_MAX - 512
BLOCKS_MAX = 512
MESSAGE_LENGTH_MAX = 200
SUPERSEDES_MAX = 32
_FORMAT = 1
_POLICY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


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
    """Keys of the heads its author had seen."""

    def packed(self) -> bytes:
        return canonical.pack((_FORMAT, self.version, self.hlc, self.supersedes))


def block_write(text: str) -> Write:
    data = text.encode()
    return Write("blocks", _hash(data).hex(), data)


def version_write(manifest: Manifest) -> Write:
    return Write("versions", manifest.version.hex(), manifest.packed())


def head_key(policy: str, author: AuthorId, seq: int) -> str:
    return f"{policy}/{author.hex()}/{seq}"


def head_write(head: Head) -> Write:
    return Write("heads", head.key, head.packed())


def check_write(write: Write, author: AuthorId, seq: int, hlc: int) -> None:
    """The schema step of the apply pipeline: what an op by `author` at `seq` may write. Raises `OpError`."""
    try:
        if write.root == "heads":
            head = parse_head(write.key, write.value)
            if write.key != head_key(head.policy, author, seq):
                raise OpError("bad content", f"head {write.key!r} does not name its own op")
            if head.hlc != hlc:
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
    policy, _, _ = key.partition("/")
    if not _POLICY_NAME.fullmatch(policy):
        raise MalformedError("bad shape", f"head of a policy named {policy!r}")
    fields = canonical.array(canonical.unpack_canonical(value, UPDATE_BYTES_MAX), "head", length=4)
    if canonical.integer(fields[0], "head format") != _FORMAT:
        raise MalformedError("wrong version", f"head format {fields[0]!r}")
    return Head(
        key=key,
        policy=policy,
        version=VersionId(canonical.blob(fields[1], "version", length=16)),
        hlc=canonical.integer(fields[2], "hlc"),
        supersedes=tuple(
            canonical.text(item, "superseded head", 160)
            for item in canonical.array(fields[3], "supersedes", length_max=SUPERSEDES_MAX)
        ),
    )


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


def elect(heads: Iterable[Head], complete: Callable[[VersionId], bool]) -> tuple[Head, tuple[Head, ...]] | None:
    """Which head serves, and which stand against it; None while no head's version is here in full.

    A head ends the older ones it names. Of those nobody ended, the latest by (timestamp, version, key) serves; the
    others are rivals, for a person to resolve. A version of which a block is still on its way does not count yet, so
    the one before it goes on serving.
    """
    known = {head.key: head for head in heads if complete(head.version)}
    ended = {
        key
        for head in known.values()
        for key in head.supersedes
        if key in known and known[key].hlc < head.hlc  # a head cannot end a later one, so one always stands
    }
    standing = sorted(
        (head for key, head in known.items() if key not in ended), key=lambda head: (head.hlc, head.version, head.key)
    )
    if not standing:
        return None
    serving = standing[-1]
    return serving, tuple(head for head in standing[:-1] if head.version != serving.version)
