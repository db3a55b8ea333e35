"""The envelope of every datagram and stream frame: which cluster, which sender, and unreadable to anybody else.

::

     0         1             5        7          9           25                33
     ├ version ┼ cluster tag ┼ key id ┼ ring tag ┼ sender id ┼ counter (nonce) ┼ body, then a 16-byte tag when sealed
          1           4          2         2          16             8

The first five bytes are the same in every version, so that nodes of two versions refuse each other and can say why; to
read further is left to those of one version. The whole header is authenticated. The body is sealed with AES-256-GCM
under a key of the *sender's* own, derived from one of the cluster's keys by keyed BLAKE2b, with the sender's counter as
nonce: two nodes never share a (key, nonce) pair. The counter starts at the boot time in microseconds, or beyond what an
earlier life had reserved, whichever is greater (`reserve`), and rises by one a frame: so no life of a node, whatever
its clock says, uses a nonce again, and what was heard before shows (`replay`). Nothing in a frame says whom it is for:
the same one may go to several. The key id says which of the cluster's keys it is, the ring tag which keys the sender
has (`key_ring`).

`Plain` is the same envelope with nothing sealed, and no memory of what was heard: for a simulator, and for
`insecure = true`, which is loud.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lattice.errors import WireError
from lattice.key_ring import KEY_ID_BYTES, RING_TAG_BYTES, KeyId, KeyRing
from lattice.replay import ReplayWindows
from lattice.types import Micros, NodeId

VERSION: Final = 7
"""Of the envelope and of the messages in it: whatever either comes to look like, or to say, is another version. 1 had
neither key id nor ring tag; 2 knew no `Heal`, and claims about members named no row; 3 had
sixteen shards, however many cells; 4 took no row with a lease of more than eight hours, and
drew other trees; 5 did not say how much of a delta follows, and an author's ops took a tree each;
6 had no word on rollouts in a row."""
_SEALED: Final = 0x80
"""The version byte's top bit: a sealed cluster never reads a plain frame, nor the other way round."""

KEY_AT: Final = 1 + 4
_RING_AT: Final = KEY_AT + KEY_ID_BYTES
SENDER_AT: Final = _RING_AT + RING_TAG_BYTES
COUNTER_AT: Final = SENDER_AT + 16
HEADER_BYTES: Final = COUNTER_AT + 8
_HEADER: Final = Struct(f">{KEY_AT}s{SENDER_AT - KEY_AT}s{COUNTER_AT - SENDER_AT}sQ")
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES
_SAID: Final = Struct(f">{KEY_AT}x{COUNTER_AT - KEY_AT}sQ")
_VOICE: Final = Struct(f"{KEY_ID_BYTES}s{RING_TAG_BYTES}s16s")
_NONCE: Final = bytes(4)
"""What stands before the counter in a nonce."""
SENDERS_CACHED_MAX: Final = 20_000

COUNTER_MAX: Final = 2**63 - 1
"""As `canonical.INTEGER_MAX`, so that it can be written down: microseconds until the year 294,000."""
RESERVED_COUNTERS: Final = 1 << 20
"""So many counters are reserved on disk at a time: at 10,000 frames a second, one write in 100 seconds."""


class Seal(Protocol):
    """Puts bodies into envelopes and takes them out again."""

    def close(self, sender: NodeId, body: bytes, now: Micros) -> bytes: ...

    def open(self, frame: bytes) -> tuple[NodeId, bytes]:
        """(sender, body) of a frame. Raises `WireError`; state is unchanged."""
        ...

    @property
    def windows(self) -> ReplayWindows | None:
        """What was heard, for whoever remembers it between lives; None when the seal proves no sender."""
        ...

    def begin_beyond(self, counter: int) -> None:
        """No frame of ours from here on has a counter up to this one."""
        ...

    def reserve(self, now: Micros) -> int | None:
        """The counter up to which frames may be closed once it is durable, when that is to be written; else None."""
        ...

    def closed(self, counter: int) -> bool:
        """Whether a frame in our name with this counter is one that this seal closed, since it last leapt ahead."""
        ...


def cluster_tag(cluster: str) -> bytes:
    """Four bytes that tell our cluster's frames from another's before any key is tried."""
    return blake2b(cluster.encode(), digest_size=4, person=b"edgelattice clus").digest()


def sender_in(frame: bytes) -> NodeId | None:
    """Who a frame says it is from; whether that is true only `open` can tell. None if it is too short to say."""
    return NodeId(frame[SENDER_AT:COUNTER_AT]) if len(frame) >= HEADER_BYTES else None


def counter_in(frame: bytes) -> int:
    """The counter of a frame that is as long as a frame is."""
    return int.from_bytes(frame[COUNTER_AT:HEADER_BYTES], "big")


class Plain:
    """The envelope without secrecy or proof: whoever can send to the port can speak as anybody."""

    __slots__ = ("_counter", "_keys", "_leapt_to", "_prefix", "_reserved", "_started")

    def __init__(self, cluster: str) -> None:
        self._prefix = bytes([VERSION]) + cluster_tag(cluster)
        self._keys = bytes(KEY_ID_BYTES + RING_TAG_BYTES)
        self._counter = 0
        self._leapt_to = 0
        self._started = False
        self._reserved = 0

    @property
    def windows(self) -> ReplayWindows | None:
        return None

    def begin_beyond(self, counter: int) -> None:
        if counter > self._counter:
            self._counter = self._leapt_to = counter

    def closed(self, counter: int) -> bool:
        return self._leapt_to < counter <= self._counter

    def reserve(self, now: Micros) -> int | None:
        if self._counter + RESERVED_COUNTERS // 2 < self._reserved and self._started:
            return None
        self._start(now)
        self._reserved = self._counter + RESERVED_COUNTERS
        return self._reserved

    def close(self, sender: NodeId, body: bytes, now: Micros) -> bytes:
        return self._header(sender, now) + body

    def open(self, frame: bytes) -> tuple[NodeId, bytes]:
        if len(frame) < HEADER_BYTES or not frame.startswith(self._prefix):
            self._check(frame, HEADER_BYTES)
        return NodeId(frame[SENDER_AT:COUNTER_AT]), frame[HEADER_BYTES:]

    def _start(self, now: Micros) -> None:
        if not self._started:
            self._started = True
            self.begin_beyond(now)

    def _header(self, sender: NodeId, now: Micros) -> bytes:
        if not self._started:
            self._start(now)
        self._counter += 1
        return _HEADER.pack(self._prefix, self._keys, sender, self._counter)

    def _check(self, frame: bytes, least: int) -> None:
        if len(frame) < least:
            raise WireError("truncated", f"{len(frame)} bytes, at least {least}")
        if frame[1:KEY_AT] != self._prefix[1:]:
            raise WireError("wrong cluster", frame[1:KEY_AT].hex())
        ours, theirs = self._prefix[0], frame[0]
        if (ours ^ theirs) & ~_SEALED:
            raise WireError("wrong version", f"{theirs & ~_SEALED}, this node speaks {ours & ~_SEALED}")
        if ours != theirs:
            raise WireError("plain frame" if ours & _SEALED else "sealed frame", "one side has insecure = true")


@dataclass(frozen=True, slots=True)
class HeardKeys:
    """What a sender's frames said of its keys."""

    key: KeyId
    """Its last frame was sealed with this one."""
    ring_tag: bytes
    """And it had these keys."""
    frames: Mapping[KeyId, int]
    """How many of its frames came under each, since this node's ring was last changed."""


class _Voice:
    """What one sender seals under one of its keys, as long as it has the same ring."""

    __slots__ = ("cipher", "frames", "key", "ring_tag", "sender")

    def __init__(self, sender: NodeId, key: KeyId, ring_tag: bytes, cipher: AESGCM) -> None:
        self.sender = sender
        self.key = key
        self.ring_tag = ring_tag
        self.cipher = cipher
        self.frames = 0


class Sealed(Plain):
    """The envelope sealed with the cluster's keys; what was heard once is not heard again."""

    def __init__(self, cluster: str, ring: KeyRing) -> None:
        super().__init__(cluster)
        self._prefix = bytes([VERSION | _SEALED]) + self._prefix[1:]
        self._windows = ReplayWindows()
        self._closers: dict[NodeId, tuple[bytes, AESGCM]] = {}
        """By sender, mostly ourselves: the header up to the counter, and what to close with."""
        self._voices: dict[bytes, _Voice] = {}
        """By what a header says of key, ring and sender: of frames that opened, since the ring was last changed."""
        self._last: dict[NodeId, _Voice] = {}
        """Each sender's last one."""
        self.rekey(ring)

    @property
    def ring(self) -> KeyRing:
        return self._ring

    @property
    def windows(self) -> ReplayWindows:
        return self._windows

    def rekey(self, ring: KeyRing) -> None:
        """From the next frame on, seal with and open with the keys of `ring`. What was heard stays heard."""
        self._ring = ring
        self._secrets = {key.id: key.secret for key in ring.keys}
        self._used = ring.used.id
        self._keys = self._used + ring.tag
        self._closers.clear()
        self._voices.clear()

    def heard(self) -> dict[NodeId, HeardKeys]:
        """What each sender's frames said of its keys, by sender."""
        frames: dict[NodeId, Counter[KeyId]] = {}
        for voice in self._voices.values():
            frames.setdefault(voice.sender, Counter())[voice.key] += voice.frames
        return {
            sender: HeardKeys(last.key, last.ring_tag, dict(sorted(frames.get(sender, {}).items())))
            for sender, last in sorted(self._last.items())
        }

    def close(self, sender: NodeId, body: bytes, now: Micros) -> bytes:
        if not self._started:
            self._start(now)
        closer = self._closers.get(sender)
        if closer is None:
            begins = self._prefix + self._keys + sender
            closer = self._closers[sender] = (begins, self._cipher(self._used, sender))
        begins, cipher = closer
        self._counter += 1
        counter = self._counter.to_bytes(8, "big")
        header = begins + counter
        return header + cipher.encrypt(_NONCE + counter, body, header)

    def open(self, frame: bytes) -> tuple[NodeId, bytes]:
        if len(frame) < OVERHEAD_BYTES or not frame.startswith(self._prefix):
            self._check(frame, OVERHEAD_BYTES)
        header = frame[:HEADER_BYTES]
        said, count = _SAID.unpack(header)
        voice = self._voices.get(said) or self._voice(said)
        try:
            body = voice.cipher.decrypt(_NONCE + header[COUNTER_AT:], frame[HEADER_BYTES:], header)
        except InvalidTag:
            raise WireError("wrong key", "sealed with another secret, or altered on the way") from None
        if count > COUNTER_MAX:
            raise WireError("bad counter", f"{count}, at most {COUNTER_MAX}")
        sender = voice.sender
        self._windows.admit(sender, count)
        if not voice.frames:
            self._remember(said, voice)
        voice.frames += 1
        self._last[sender] = voice
        return sender, body

    def _voice(self, said: bytes) -> _Voice:
        """One that was not heard yet, and is forgotten again if the frame does not open: whoever forges senders fills
        nothing, and deriving a key costs a microsecond."""
        key, ring_tag, sender = _VOICE.unpack(said)
        return _Voice(sender, key, ring_tag, self._cipher(key, sender))

    def _remember(self, said: bytes, voice: _Voice) -> None:
        if len(self._voices) >= SENDERS_CACHED_MAX:
            del self._voices[next(iter(self._voices))]
        self._voices[said] = voice
        if voice.sender not in self._last and len(self._last) >= SENDERS_CACHED_MAX:
            del self._last[next(iter(self._last))]

    def _cipher(self, key: KeyId, sender: NodeId) -> AESGCM:
        secret = self._secrets.get(key)
        if secret is None:
            raise WireError("unknown key", f"{key.hex()}, this node has {', '.join(k.hex() for k in self._secrets)}")
        return AESGCM(blake2b(sender, key=secret, digest_size=32, person=b"edgelattice seal").digest())
