"""The messages, and their bytes: a msgpack array `[type, fields…]` inside the envelope of `seal`.

========== ======================================================================================================
Ping       "are you there?" carries the sender's root, news of members, and its row when the peer may not have it
Ack        the answer; also passed on by whoever a `PingReq` asked, hence `subject`
PingReq    "ping that one for me" (SWIM's indirect probe)
Nack       "it does not answer me either": the helper is well, and so is its path to us (Lifeguard)
News       claims about members that may not wait for a ping
Rumour     fresh cells, pushed; whoever finds one new passes it on
Heal       cells that the other side of a partition knew, pushed through our side
IHave      ids of cells that the sender can give, along the announcement trees
Graft      "give me these"
Compare    "our roots differ; here are my shards' fingerprints" opens a reconciliation
Digest     a Bloom filter over the sender's cells in the shards that differ; asks for one in return, or ends
Delta      the cells that the peer's digest did not show
Leave      the sender is about to stop
Challenge  "say this number from where you are", to an address from which nobody has proven to speak (`challenges`)
Response   the number
========== ======================================================================================================

Decoding checks every length and range, and raises `WireError`; there is nothing a peer can send that raises anything
else.

An idle cluster sends nothing but pings and acks without news, a busy one mostly announcements and rumours of one cell.
What msgpack makes of these differs in the fields alone, so they are written and read by their layout, for a fifth of
the instructions (a rumour is only read so, for half); whatever is spelt otherwise goes the general way, and a law says
that both agree. Pings and acks are written from their fields, and those that carry nothing are read as fields (`bare`):
as values they would be made for one reader, who takes them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, TypeAlias, TypeVar

from lattice import canonical
from lattice.canonical import pack
from lattice.cells import FINGERPRINT_BYTES, SHARDS_MAX, SHARDS_MIN, CellKind, Shards
from lattice.digest import Bloom
from lattice.equivocation import PROOF_BYTES_MAX
from lattice.errors import MalformedError, WireError
from lattice.health import LEASE_MS_MAX, ROW_BYTES_MAX
from lattice.membership import MemberState, MemberUpdate
from lattice.policy_ops import OP_BYTES_MAX
from lattice.record import Record
from lattice.types import CellId, Endpoint, NodeId

UPDATES_MAX: Final = 64
CELLS_MAX: Final = 1_024
IDS_MAX: Final = 64
AGE_MS_MAX: Final = LEASE_MS_MAX
_CELL_BYTES_MAX: Final = max(ROW_BYTES_MAX, OP_BYTES_MAX, PROOF_BYTES_MAX)
_KINDS: Final = tuple(CellKind)
"""From 1. (To ask the class for a member of a number takes ten times as long.)"""
_STATES: Final = tuple(MemberState)
"""From 0."""


class WireCell(Record):
    """A cell in transit. `age_ms` is how long the sender has held it, plus how old it was then: leases need it."""

    kind: CellKind
    data: bytes
    age_ms: int = 0


class Ping(Record):
    nonce: int
    root: bytes
    updates: tuple[MemberUpdate, ...] = ()
    cells: tuple[WireCell, ...] = ()


class Ack(Record):
    nonce: int
    subject: NodeId
    root: bytes
    seen_as: Endpoint
    """The address that the ping came from: how a node behind a wildcard socket learns its own."""
    updates: tuple[MemberUpdate, ...] = ()
    cells: tuple[WireCell, ...] = ()


class PingReq(Record):
    nonce: int
    subject: NodeId
    target: Endpoint


class Nack(Record):
    nonce: int
    subject: NodeId


class News(Record):
    updates: tuple[MemberUpdate, ...]


class Rumour(Record):
    cells: tuple[WireCell, ...]


class Heal(Record):
    cells: tuple[WireCell, ...]


class IHave(Record):
    ids: tuple[CellId, ...]


class Graft(Record):
    ids: tuple[CellId, ...]


class Compare(Record):
    salt: int
    """Under which the fingerprints are, and the peer is to build its filter: chosen by whoever will read it."""
    fingerprints: tuple[bytes, ...]


class Digest(Record):
    shards: Shards
    salt: int
    """The salt of this filter."""
    bloom: Bloom
    answer_salt: int
    """The salt for the filter wanted in return; 0 if none is."""


class Delta(Record):
    root: bytes
    """The sender's root when it sent this: if ours still differs, there is more to ask for."""
    cells: tuple[WireCell, ...]
    left: int = 0
    """How many more of this answer follow."""


class Leave(Record):
    incarnation: int


class Challenge(Record):
    number: int


class Response(Record):
    number: int


Message: TypeAlias = (
    Ping
    | Ack
    | PingReq
    | Nack
    | News
    | Rumour
    | Heal
    | IHave
    | Graft
    | Compare
    | Digest
    | Delta
    | Leave
    | Challenge
    | Response
)


KINDS: Final[tuple[type[Message], ...]] = (
    Ping,
    Ack,
    PingReq,
    Rumour,
    Compare,
    Digest,
    Delta,
    Leave,
    IHave,
    Graft,
    Nack,
    News,
    Heal,
    Challenge,
    Response,
)
NUMBERS: Final = {kind: number for number, kind in enumerate(KINDS, start=1)}
"""What each begins with: in a body of ours the second byte."""
PING: Final = NUMBERS[Ping]
ACK: Final = NUMBERS[Ack]

_ID: Final = b"\xc4\x10"
"""What stands before 16 bytes."""
_NOTHING: Final = b"\x90\x90"
"""No updates, no cells."""
_IHAVE: Final = b"\x92\x09" + _ID
_IHAVE_BYTES: Final = len(_IHAVE) + 16
_RUMOUR: Final = b"\x92\x04\x91\x93"
"""Of one cell: what stands before its kind."""
_KIND_AT: Final = len(_RUMOUR)
_RUMOUR_BYTES_MIN: Final = _KIND_AT + 4
_SHORT, _LONG = 0xC4, 0xC5
"""Before bytes, and before the one or two that say how many."""
_AGES: Final = {2: 0xCC, 3: 0xCD, 5: 0xCE}
"""How an age begins that takes so many bytes."""
_PING: Final = Struct(">3sQ2s16s2s")
_PING_BEGINS: Final = b"\x95\x01\xcf"
_ACK: Final = Struct(">3sQ2s16s2s16s")
"""As far as `seen_as`."""
_ACK_BEGINS: Final = b"\x97\x02\xcf"
_READ_PING: Final = Struct(">HBQH16sH")
"""The same as `_PING`; whole numbers are compared at once, as bytes are written."""
_READ_ACK: Final = Struct(">HBQH16sH16s")
_PING_TYPE, _ACK_TYPE, _NONCE, _SIXTEEN, _EMPTY = 0x9501, 0x9702, 0xCF, 0xC410, 0x9090
_PING_BYTES: Final = _PING.size
_ACK_BYTES: Final = _ACK.size
_BARE_ACK_BYTES_MAX: Final = _ACK_BYTES + 53
"""Its end is an address of 45 characters, a port, and nothing: whatever is longer carries something."""
_NONCE_MIN: Final = 2**32
"""msgpack spells lesser ones shorter."""
_NONCE_MAX: Final = canonical.INTEGER_MAX
_REMEMBERED_MAX: Final = 16_384
K = TypeVar("K")
V = TypeVar("V")


def encode(message: Message) -> bytes:
    """The body of a frame."""
    if isinstance(message, IHave) and len(message.ids) == 1:
        return _IHAVE + message.ids[0]
    if isinstance(message, Ping):
        return ping_body(message.nonce, message.root, message.updates, message.cells)
    if isinstance(message, Ack):
        return ack_body(message.nonce, message.subject, message.root, message.seen_as, message.updates, message.cells)
    return _encode(message)


def ping_body(
    nonce: int, root: bytes, updates: tuple[MemberUpdate, ...] = (), cells: tuple[WireCell, ...] = ()
) -> bytes:
    """As `encode` of a `Ping` with these fields."""
    if updates or cells or nonce < _NONCE_MIN:
        return _encode(Ping(nonce, root, updates, cells))
    return _PING.pack(_PING_BEGINS, nonce, _ID, root, _NOTHING)


def ack_body(
    nonce: int,
    subject: NodeId,
    root: bytes,
    seen_as: Endpoint,
    updates: tuple[MemberUpdate, ...] = (),
    cells: tuple[WireCell, ...] = (),
) -> bytes:
    """As `encode` of an `Ack` with these fields."""
    if updates or cells or nonce < _NONCE_MIN:
        return _encode(Ack(nonce, subject, root, seen_as, updates, cells))
    return _ACK.pack(_ACK_BEGINS, nonce, _ID, subject, _ID, root) + _ENDS[seen_as]


def _encode(message: Message) -> bytes:
    if isinstance(message, Rumour):  # the most frequent, and `match` takes a while to take one apart
        return pack((4, _cells(message.cells)))
    match message:
        case Ping(nonce, root, updates, cells):
            return pack((1, nonce, root, _updates(updates), _cells(cells)))
        case Ack(nonce, subject, root, seen_as, updates, cells):
            return pack((2, nonce, subject, root, _unscoped(seen_as), _updates(updates), _cells(cells)))
        case IHave(ids):
            return pack((9, b"".join(ids)))
        case PingReq(nonce, subject, target):
            return pack((3, nonce, subject, _unscoped(target)))
        case Compare(salt, fingerprints):
            return pack((5, salt, b"".join(fingerprints)))
        case Digest(shards, salt, bloom, answer_salt):
            return pack((6, _bitmap(shards), salt, bloom.data, answer_salt))
        case Delta(root, carried, left):
            return pack((7, root, _cells(carried), left))
        case Leave(incarnation):
            return pack((8, incarnation))
        case Graft(ids):
            return pack((10, b"".join(ids)))
        case Nack(nonce, subject):
            return pack((11, nonce, subject))
        case News(claims):
            return pack((12, _updates(claims)))
        case Heal(carried):
            return pack((13, _cells(carried)))
        case Challenge(number):
            return pack((14, number))
        case Response(number):
            return pack((15, number))


def _updates(updates: tuple[MemberUpdate, ...]) -> canonical.Value:
    return [(one.node, one.state, one.incarnation, one.by, one.seq) for one in updates] if updates else ()


def _cells(cells: tuple[WireCell, ...]) -> canonical.Value:
    return [(cell.kind, cell.data, cell.age_ms) for cell in cells] if cells else ()


def decode(body: bytes, bytes_max: int) -> Message:
    """The message in a frame's body. Raises `WireError`; state is unchanged."""
    size = len(body)
    if size == _IHAVE_BYTES and body.startswith(_IHAVE):
        return IHave((CellId(body[len(_IHAVE) :]),))
    if body.startswith(_RUMOUR) and _RUMOUR_BYTES_MIN <= size <= bytes_max:
        return _rumour(body) or _decode(body, bytes_max)
    return _decode(body, bytes_max)


def bare(body: bytes) -> tuple[int, bytes] | tuple[int, NodeId, bytes, Endpoint] | None:
    """(nonce, root) of a ping that carries nothing, (nonce, subject, root, seen as) of such an ack. None of all else,
    and of whatever is spelt otherwise than `encode` spells these two."""
    size = len(body)
    if size == _PING_BYTES:
        begins, wide, nonce, before_root, root, ends = _READ_PING.unpack(body)
        if begins == _PING_TYPE and wide == _NONCE and before_root == _SIXTEEN and ends == _EMPTY:
            return (nonce, root) if nonce <= _NONCE_MAX else None
    elif _ACK_BYTES < size <= _BARE_ACK_BYTES_MAX:
        begins, wide, nonce, before_subject, subject, before_root, root = _READ_ACK.unpack_from(body)
        if begins == _ACK_TYPE and wide == _NONCE and before_subject == _SIXTEEN == before_root:
            seen_as = _SEEN_AS[body[_ACK_BYTES:]]
            return (nonce, subject, root, seen_as) if nonce <= _NONCE_MAX and seen_as is not None else None
    return None


def _rumour(body: bytes) -> Rumour | None:
    """One that begins as a rumour of one cell does; None if it goes on in another way, or wrongly."""
    kind, width, length = body[_KIND_AT : _KIND_AT + 3]
    begins = _KIND_AT + 3
    if width == _LONG:
        length, begins = length << 8 | body[begins], begins + 1
    elif width != _SHORT:
        return None
    ends = begins + length
    age_bytes = len(body) - ends
    if age_bytes == 1:
        age_ms = body[ends]
        if age_ms > 127:
            return None
    elif age_bytes in _AGES and body[ends] == _AGES[age_bytes]:
        age_ms = int.from_bytes(body[ends + 1 :], "big")
    else:
        return None
    if not 1 <= kind <= len(_KINDS) or length > _CELL_BYTES_MAX or age_ms > AGE_MS_MAX:
        return None
    return Rumour((WireCell(_KINDS[kind - 1], body[begins:ends], age_ms),))


class _Remembered(dict[K, V]):
    """What a function gave for so many arguments, then begun anew. No order of use is kept: `lru_cache` writes to four
    places in memory for that whenever it is asked."""

    def __init__(self, of: Callable[[K], V]) -> None:
        super().__init__()
        self._of = of

    def __missing__(self, key: K) -> V:
        if len(self) >= _REMEMBERED_MAX:
            self.clear()
        value = self[key] = self._of(key)
        return value


def _ends(seen_as: Endpoint) -> bytes:
    """How an ack without news ends: mostly the same way."""
    return pack(_unscoped(seen_as)) + _NOTHING


def _unscoped(endpoint: Endpoint) -> Endpoint:
    """As another machine may read it: a link-local address's scope is ours."""
    host, port = endpoint
    return (host.partition("%")[0], port) if "%" in host else endpoint


def _ended(ends: bytes) -> Endpoint | None:
    """What an ack that ends so was seen as; None if it is no end of one that carries nothing. It is mostly the same."""
    if not ends.endswith(_NOTHING):
        return None
    data = ends[: -len(_NOTHING)]
    try:
        return canonical.endpoint(canonical.unpack(data, len(data)), "seen as")
    except MalformedError:
        return None


_ENDS: Final = _Remembered(_ends)
_SEEN_AS: Final = _Remembered(_ended)


def _decode(body: bytes, bytes_max: int) -> Message:
    try:
        fields = canonical.unpack(body, bytes_max)
        if type(fields) is not tuple or not fields or type(fields[0]) is not int:
            raise WireError("bad shape", "a message is an array that begins with its type")
        return _parse(fields[0], fields)
    except WireError:
        raise
    except MalformedError as error:
        raise WireError(error.reason, error.detail) from None


_LENGTHS: Final = dict(enumerate((5, 7, 4, 2, 3, 5, 4, 2, 2, 2, 3, 2, 2, 2, 2), start=1))
"""How many fields a message of each type has, the type included."""


def _parse(kind: int, fields: tuple[object, ...]) -> Message:
    if len(fields) != _LENGTHS.get(kind):
        if kind not in _LENGTHS:
            raise WireError("unknown message", f"type {kind}")
        raise WireError("bad shape", f"{len(fields)} fields in a message of type {kind}, expected {_LENGTHS[kind]}")
    match kind:  # the frequent first
        case 9:
            return IHave(_read_ids(fields[1]))
        case 4:
            return Rumour(_read_cells(fields[1]))
        case 1:
            _, nonce, root, updates, cells = fields
            return Ping(_nonce(nonce), _root(root), _read_updates(updates), _read_cells(cells))
        case 2:
            _, nonce, subject, root, seen_as, updates, cells = fields
            return Ack(
                _nonce(nonce),
                _node(subject),
                _root(root),
                canonical.endpoint(seen_as, "seen as"),
                _read_updates(updates),
                _read_cells(cells),
            )
        case 3:
            _, nonce, subject, target = fields
            return PingReq(_nonce(nonce), _node(subject), canonical.endpoint(target, "target"))
        case 5:
            _, salt, joined = fields
            prints = canonical.blob(joined, "fingerprints", length_max=SHARDS_MAX * FINGERPRINT_BYTES)
            _check_count(len(prints), FINGERPRINT_BYTES, "fingerprints")
            cut = range(0, len(prints), FINGERPRINT_BYTES)
            return Compare(_nonce(salt), tuple(prints[at : at + FINGERPRINT_BYTES] for at in cut))
        case 6:
            _, shards, salt, filter_data, answer_salt = fields
            return Digest(_read_shards(shards), _nonce(salt), Bloom.from_bytes(filter_data), _nonce(answer_salt))
        case 7:
            _, root, cells, left = fields
            return Delta(_root(root), _read_cells(cells), canonical.integer(left, "left", 0))
        case 8:
            return Leave(canonical.integer(fields[1], "incarnation", 1))
        case 10:
            return Graft(_read_ids(fields[1]))
        case 11:
            _, nonce, subject = fields
            return Nack(_nonce(nonce), _node(subject))
        case 12:
            return News(_read_updates(fields[1]))
        case 14:
            return Challenge(_nonce(fields[1]))
        case 15:
            return Response(_nonce(fields[1]))
        case _:
            return Heal(_read_cells(fields[1]))


# What most messages are made of is looked at in one step; `canonical` is asked only to say what is wrong with it.


def _nonce(value: object) -> int:
    return value if type(value) is int and 0 <= value <= canonical.INTEGER_MAX else canonical.integer(value, "nonce")


def _root(value: object) -> bytes:
    return value if type(value) is bytes and len(value) == 16 else canonical.blob(value, "root", length=16)


def _node(value: object) -> NodeId:
    return NodeId(value if type(value) is bytes and len(value) == 16 else canonical.blob(value, "node id", length=16))


def _bitmap(shards: Shards) -> bytes:
    """A bit for each shard there is, the first one's the lowest of the first byte."""
    return sum(1 << shard for shard in shards.chosen).to_bytes(shards.of // 8, "little")


def _read_shards(value: object) -> Shards:
    bits = canonical.blob(value, "shards", length_max=SHARDS_MAX // 8)
    of = _check_count(len(bits) * 8, 1, "shards")
    chosen = int.from_bytes(bits, "little")
    if not chosen:
        raise WireError("bad shape", "no shards")
    return Shards(of, tuple([shard for shard in range(of) if chosen >> shard & 1]))


def _check_count(size: int, each: int, what: str) -> int:
    """How many shards so many bytes or bits are of, if they can be."""
    count = size // each
    if size % each or not SHARDS_MIN <= count <= SHARDS_MAX or count & (count - 1):
        raise WireError("bad shape", f"{what}: {size} is no power of two of shards, of {each} each")
    return count


def _read_ids(value: object) -> tuple[CellId, ...]:
    if type(value) is bytes and len(value) == 16:
        return (CellId(value),)
    joined = canonical.blob(value, "ids", length_max=IDS_MAX * 16)
    if not joined or len(joined) % 16:
        raise WireError("bad shape", f"{len(joined)} bytes are not whole ids of 16")
    return tuple([CellId(joined[at : at + 16]) for at in range(0, len(joined), 16)])


def _read_updates(value: object) -> tuple[MemberUpdate, ...]:
    if value == ():
        return ()
    return tuple([_read_update(item) for item in canonical.array(value, "updates", length_max=UPDATES_MAX)])


def _read_update(item: object) -> MemberUpdate:
    node, state, incarnation, by, seq = canonical.array(item, "update", length=5)
    return MemberUpdate(
        _node(node),
        _STATES[canonical.integer(state, "state", 0, len(_STATES) - 1)],
        canonical.integer(incarnation, "incarnation", 1),
        _node(by),
        canonical.integer(seq, "row"),
    )


def _read_cells(value: object) -> tuple[WireCell, ...]:
    if value == ():
        return ()
    return tuple([_read_cell(item) for item in canonical.array(value, "cells", length_max=CELLS_MAX)])


def _read_cell(item: object) -> WireCell:
    kind, data, age_ms = canonical.array(item, "cell", length=3)
    return WireCell(
        _KINDS[canonical.integer(kind, "cell kind", 1, len(_KINDS)) - 1],
        canonical.blob(data, "cell", length_max=_CELL_BYTES_MAX),
        canonical.integer(age_ms, "age_ms", 0, AGE_MS_MAX),
    )
