"""What an operator's machine remembers of its own chain, beside the key: its last publish to each cluster.

An author's ops are a chain, and two ops in one place are a fork, which sets the author aside for good. Two things would
make an innocent operator fork: a node that has not heard the last publish yet, and an answer that was lost on the way.
So a publish is written down before it is sent, the later of memory and node is what the next one follows, and what the
node lacks is sent again with it. Only a definite refusal takes a publish out of the memory.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from lattice.policy_ops import OpId, SignedOp
from lattice.policy_store import ChainHead


class LastPublish(msgspec.Struct, forbid_unknown_fields=True):
    """The ops of one publish, after those that no node confirmed, in base64; and where they left the chain."""

    seq: int
    op: str
    hlc: int
    head: str
    """The key of the head that the publish set; nothing for a checkpoint."""
    ops: list[bytes]
    base: int = 1

    @property
    def chain(self) -> ChainHead:
        return ChainHead(self.seq, OpId(bytes.fromhex(self.op)), self.hlc, self.base)


_decoder = msgspec.json.Decoder(dict[str, LastPublish])


class AuthorChain:
    """The memory of one key, in ``KEYFILE.chain``. Every call raises ValueError if the file is damaged, or OSError."""

    def __init__(self, key_file: Path) -> None:
        self.path = key_file.with_name(key_file.name + ".chain")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process publishes with this key, and keep others waiting meanwhile."""
        with self.path.with_name(self.path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def last(self, cluster: str) -> LastPublish | None:
        return self._read().get(cluster)

    def remember(self, cluster: str, ops: Sequence[SignedOp], head: str, before: Sequence[bytes] = ()) -> None:
        """`before` is what no node has confirmed yet of earlier publishes: without it nobody could take these ops."""
        last = ops[-1]
        data = [*before, *(op.data for op in ops)]
        publish = LastPublish(last.op.seq, last.id.hex(), last.op.hlc, head, data, last.op.base)
        self._write(self._read() | {cluster: publish})

    def put_back(self, cluster: str, publish: LastPublish | None) -> None:
        """Undo `remember` after a definite refusal."""
        kept = {name: known for name, known in self._read().items() if name != cluster}
        self._write(kept if publish is None else kept | {cluster: publish})

    def _write(self, content: dict[str, LastPublish]) -> None:
        """All or nothing."""
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            with fresh.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError as error:  # a full disk names no file
            fresh.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def _read(self) -> dict[str, LastPublish]:
        try:
            return _decoder.decode(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{self.path} is damaged ({error}): if no publish is on its way, remove it; the nodes know the chain"
            ) from None
