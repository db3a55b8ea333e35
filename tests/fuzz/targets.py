"""Every decoder of hostile bytes, by name: what it is fed, what it may raise, and a few good inputs to begin from.

The coverage-guided run (`test_atheris`) and the Hypothesis one (`test_decoders`) both take their targets from here: a
decoder that is added here is fuzzed both ways.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from lattice import canonical, wire, write_ahead_log
from lattice.admission import peer_record
from lattice.authoring import compose, encode_update
from lattice.cells import CellKind, Shards
from lattice.certificates import (
    Authority,
    CertificateError,
    issue,
    make_authority,
    make_request,
    read_certificate,
    read_request,
)
from lattice.checkpoint import compose_checkpoint, compose_deletion
from lattice.digest import BLOCK_BYTES, Bloom
from lattice.equivocation import open_proof, prove
from lattice.errors import LatticeError
from lattice.grants import Grants, Role, sign_revocation
from lattice.health import open_row
from lattice.identity import Ed25519Verifier, author_id_of
from lattice.key_ring import KeyRing, KeyRingError, parse_ring, ring_text
from lattice.membership import MemberState, MemberUpdate
from lattice.policy_content import Manifest, block_write, head_key, parse_head, parse_manifest, version_write
from lattice.policy_ops import GENESIS, open_op
from lattice.policy_store import ChainHead, PolicyStore
from lattice.purges import open_purge, sign_purge
from lattice.rollouts import Entry, Start, parse_entry, parse_start
from lattice.row_records import restored_row
from lattice.seal import Plain, Sealed
from lattice.types import CellId, Micros, NodeId, VersionId
from lattice.wire import (
    Ack,
    Challenge,
    Compare,
    Delta,
    Digest,
    Graft,
    Heal,
    IHave,
    Leave,
    Message,
    Nack,
    News,
    Ping,
    PingReq,
    Response,
    Rumour,
    WireCell,
)
from lattice.yrs_gate import walk
from router.cache.cache_control import read_cache_control, seconds
from router.cache.http_date import read_http_date
from router.policy.errors import PolicyError
from router.policy.parser import parse
from router.site.bundle import Bundle, bundle_text, parse_bundle
from router.site.config_reader import ConfigError
from router.tcp.client_hello import NotTlsError, read_client_hello
from router.traffic.forwarded import Steered, request_for_upstream
from router.traffic.http1 import RequestReader, ResponseReader, parse_request
from router.traffic.http2_head import request_head as http2_request_head
from router.traffic.message_body import ChunkedBody, FramingError, last_chunk
from router.traffic.proxy_protocol import BadProxyHeaderError, proxy_header_v2, read_proxy_header
from router.traffic.strict import BadRequestError, BadResponseError
from router.traffic.trailers import passed_on, trailer_list
from tests.lattice.cluster import CLUSTER, EPOCH, OPERATOR, signer_of
from tests.lattice.strategies import signed_row
from tests.lattice.yrs_bytes import HAZARDS
from tests.router.traffic.bad_requests import BAD_BODIES, BAD_HEADS, get
from tests.router.traffic.odd_requests import ODD

FRAME_BYTES_MAX = 1 << 16
CLIENT = 5
WHO = author_id_of(OPERATOR.public_key)
NODE = NodeId(b"n" * 16)
NOW_MS = 1_800_000_000_000


class HoldsAll:
    """Any signature holds: so the fuzzer gets past it, to the code behind."""

    def verify(self, public_key: bytes, purpose: bytes, payload: bytes, signature: bytes) -> bool:
        return True


@dataclass(frozen=True)
class Target:
    """One decoder. Whatever it is given, it returns or raises one of its `refusals`."""

    decode: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...] = (LatticeError,)

    def __call__(self, data: bytes) -> object:
        try:
            return self.decode(data)
        except self.refusals as error:
            return error


def _messages() -> tuple[bytes, ...]:
    cells = (WireCell(CellKind.ROW, signed_row(0, 1, 1, 0).data, 5), WireCell(CellKind.OP, b"op"))
    update = (MemberUpdate(NODE, MemberState.SUSPECT, 2),)
    ids = (CellId(b"i" * 16), CellId(b"j" * 16))
    made: tuple[Message, ...] = (
        Ping(1, bytes(16), update, cells),
        Ack(1, NODE, bytes(16), ("10.0.0.1", 1), update, cells),
        PingReq(1, NODE, ("::1", 1)),
        Nack(1, NODE),
        Challenge(1),
        Response(1),
        News(update),
        Rumour(cells),
        Heal(cells),
        IHave(ids),
        Graft(ids),
        Compare(1, (bytes(4),) * 32),
        Digest(Shards(32, (0, 3)), 1, Bloom.of(ids, 2, 1), 7),
        Delta(bytes(16), cells),
        Leave(1),
    )
    return tuple(wire.encode(message) for message in made)


def _ops() -> tuple[bytes, ...]:
    first = compose(OPERATOR, ChainHead(0, GENESIS, 0), "p", ["route a {}\n"], message="why", now_ms=NOW_MS).ops
    store = PolicyStore([WHO], Ed25519Verifier(CLUSTER))
    for op in first:
        store.admit(op.data)
    second = compose_checkpoint(OPERATOR, store.chain(WHO), store.live(WHO), NOW_MS)
    third = compose_deletion(OPERATOR, store.chain(WHO), "p", store.context("p"), NOW_MS)
    return tuple(op.data for op in (*first, *second, third))


def _admit(data: bytes) -> object:
    store = PolicyStore([WHO], HoldsAll())
    try:
        return store.admit(data, now_ms=NOW_MS)
    except LatticeError:
        assert not store.ops(), "a refused op leaves nothing behind"
        assert store.waiting() == 0
        raise


def _bare(data: bytes) -> object:
    """The short way and the long one read the same."""
    fields = wire.bare(data)
    if fields is not None:
        message = Ping(*fields) if len(fields) == 2 else Ack(*fields)
        assert wire.decode(data, FRAME_BYTES_MAX) == message
    return fields


def _log() -> bytes:
    """sqlite's write-ahead log of two transactions, a frame each, with pages of 512 bytes."""
    salts = b"saltSALT"
    head = struct.pack(">4I", 0x377F0682, 3_007_000, 512, 0) + salts
    head += struct.pack(">2I", *write_ahead_log.checksum("<", head))
    return head + b"".join(struct.pack(">2I", page, 2) + salts + bytes(8) + bytes(512) for page in (1, 2))


def _damage_of_log(data: bytes) -> object:
    """However much of it sqlite has read: what is behind that is damage at most as long as something is."""
    said = [write_ahead_log.damage_of_log(data, frames) for frames in (0, 1, 1 << 20)]
    assert said[2] is None or "head" in said[2]
    return said


def _hello(name: bytes) -> bytes:
    """A ClientHello that asks for this name and offers one cipher suite."""
    host = b"\0" + len(name).to_bytes(2, "big") + name
    listed = len(host).to_bytes(2, "big") + host
    extension = bytes(2) + len(listed).to_bytes(2, "big") + listed
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(extension).to_bytes(2, "big") + extension
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(handshake).to_bytes(2, "big") + handshake


def _cache_control(data: bytes) -> object:
    directives = read_cache_control(data.split(b"\n"))
    assert all(name == name.lower() for name in directives)
    return seconds(directives, b"max-age")


def _request_head(data: bytes) -> object:
    """What is let in is let in again as we write it, and means the same."""
    reader = RequestReader()
    reader.receive(data)
    head = reader.next_head()
    if head is not None and not head.websocket:
        written = request_for_upstream(head, "192.0.2.1", ("192.0.2.2", 80), Steered("ams", "fra", "primary"))
        again = parse_request(written)
        assert (again.method, again.target, again.chunked) == (head.method, head.target, head.chunked)
        assert (again.content_length or 0) == (head.content_length or 0)
        reader.receive(data)  # behind the rest: equal bytes on one connection, by the shorter way
        reader.next_head()
    return head


def _http2_request(data: bytes) -> object:
    """A field list, a field a line, as HPACK would have given it; what is let in is written and let in again."""
    headers = [(name, value) for name, _, value in (line.partition(b"=") for line in data.split(b"\n"))]
    head = http2_request_head(headers, RequestReader(), has_body=len(data) % 2 == 0)
    again = parse_request(request_for_upstream(head, "192.0.2.1", ("192.0.2.2", 80), Steered("ams", "fra", "primary")))
    assert (again.method, again.target, again.chunked) == (head.method, head.target, head.chunked)
    return head


def _trailers(data: bytes) -> object:
    """What goes on goes on again, unchanged, and is read as a whole section."""
    came, again = ChunkedBody(), ChunkedBody()
    came.feed(b"0\r\n" + data)
    kept = passed_on(came.trailers, frozenset({b"x-hop"}))
    again.feed(last_chunk(kept))
    assert again.complete
    assert again.trailers == kept == passed_on(kept, frozenset())
    return trailer_list(kept)


def _response_head(data: bytes) -> object:
    reader = ResponseReader()
    reader.receive(data)
    return reader.next_head()


def _chunks(data: bytes) -> object:
    """Cut anywhere, a body is the same body."""
    whole, halves = ChunkedBody(), ChunkedBody()
    payload, surplus = whole.feed(data)
    first, early = halves.feed(data[: len(data) // 2])
    if halves.complete:
        assert (first, early + data[len(data) // 2 :]) == (payload, surplus)
        return payload
    second, late = halves.feed(data[len(data) // 2 :])
    assert (first + second, late, halves.complete) == (payload, surplus, whole.complete)
    return payload


_REQUESTS = (get(b"Host: h"), *(odd.raw for odd in ODD.values()), *(raw for _, raw in BAD_HEADS.values()))
_BODIES = tuple(raw.partition(b"\r\n\r\n")[2] for _, raw in BAD_BODIES.values())

_MANIFEST = Manifest("p", (bytes(16),), b"", WHO, "why", NOW_MS)
_ROWS = tuple(signed_row(0, 1, 1, variant) for variant in range(2))
_HEAD = canonical.pack((1, bytes(16), NOW_MS, (head_key("p", WHO, 1),)))

_START = Start("p", VersionId(bytes(16)), VersionId(bytes(15) + b"b"), (1, 100), ("ams",), WHO, NOW_MS)
_ENTRY = Entry(_START.id, 1, WHO, 2, NOW_MS, "p", NOW_MS, "why")

_RING = KeyRing.of(bytes(32)).add(b"k" * 32, "next")
_CA_KEY, _NODE_KEY = bytes(31) + b"c", bytes(31) + b"n"
_AUTHORITY = make_authority(_CA_KEY, CLUSTER, EPOCH)
_CERTIFICATE = issue(
    _AUTHORITY, _CA_KEY, public_key=signer_of("node").public_key, role=Role.NODE, name="ams", serial=7, now=EPOCH
)
_BUNDLE = Bundle(CLUSTER, _RING, (bytes(32),), (("192.0.2.1", 7946), ("::1", 1)), _AUTHORITY.pem)
_POLICY = b"""edition 1
region fra { at 50.11 8.68 endpoint 127.0.0.1:9001 }
route shop for "*" path "/**" { primary nearest }
"""
_HELLO = _hello(b"shop.test")

TARGETS: dict[str, Target] = {
    "seal.open": Target(Plain(CLUSTER).open, (Plain(CLUSTER).close(NODE, b"body", Micros(1)),)),
    "Sealed.open": Target(
        lambda data: Sealed(CLUSTER, _RING).open(data), (Sealed(CLUSTER, _RING).close(NODE, b"body", Micros(1)),)
    ),
    "read_certificate": Target(
        read_certificate, (_CERTIFICATE.der, _CERTIFICATE.pem, _AUTHORITY.pem), (CertificateError,)
    ),
    "Authority.judge": Target(lambda data: _AUTHORITY.judge(data, None, EPOCH), (_CERTIFICATE.der,)),
    "Authority": Target(Authority, (_AUTHORITY.pem, _CERTIFICATE.pem), (CertificateError,)),
    "read_request": Target(read_request, (make_request(_NODE_KEY, "ams"),), (CertificateError,)),
    "parse_ring": Target(
        lambda data: parse_ring(data.decode("latin-1")),
        (ring_text(_RING, CLUSTER).encode(), b"00" * 32),
        (KeyRingError,),
    ),
    "parse_bundle": Target(
        lambda data: parse_bundle("it", data.decode("latin-1")), (bundle_text(_BUNDLE).encode(),), (ConfigError,)
    ),
    "damage_of_log": Target(_damage_of_log, (_log(), _log()[:-1], bytes(600)), ()),
    "restored_row": Target(lambda data: restored_row(data, EPOCH), (canonical.pack((int(EPOCH) - 1, b"row")),)),
    "peer_record": Target(peer_record, (canonical.pack(("192.0.2.1", 7946)), canonical.pack(("fe80::1%eth0", 7946)))),
    "policy text": Target(lambda data: parse(data.decode("latin-1")), (_POLICY,), (PolicyError,)),
    "ClientHello": Target(read_client_hello, (_HELLO, _HELLO[:50]), (NotTlsError,)),
    "Cache-Control": Target(_cache_control, (b'max-age=5, private="a, b"', b"no-store\nmax-age = 7"), ()),
    "HTTP date": Target(
        lambda data: read_http_date(data, NOW_MS),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994"),
        (),
    ),
    "wire.decode": Target(lambda data: wire.decode(data, FRAME_BYTES_MAX), _messages()),
    "bare": Target(_bare, (wire.encode(Ping(1, bytes(16))), wire.encode(Ack(1, NODE, bytes(16), ("10.0.0.1", 1)))), ()),
    "open_row": Target(lambda data: open_row(data, HoldsAll()), tuple(row.data for row in _ROWS)),
    "open_proof": Target(lambda data: open_proof(data, HoldsAll()), (prove(*_ROWS).data,)),
    "open_revocation": Target(Grants(bytes(32), HoldsAll()).open_revocation, (sign_revocation(OPERATOR, NODE).data,)),
    "open_purge": Target(
        lambda data: open_purge(data, HoldsAll()), (sign_purge(OPERATOR, NOW_MS, "*", "/img/**").data,)
    ),
    "open_op": Target(lambda data: open_op(data, HoldsAll()), _ops()),
    "PolicyStore.admit": Target(_admit, _ops()),
    "yrs_gate.walk": Target(
        lambda data: walk(data, CLIENT),
        (encode_update([block_write("x"), version_write(_MANIFEST)], CLIENT), *(data for _, data in HAZARDS.values())),
    ),
    "canonical.unpack": Target(lambda data: canonical.unpack_canonical(data, FRAME_BYTES_MAX), _messages()),
    "Bloom.from_bytes": Target(Bloom.from_bytes, (bytes(BLOCK_BYTES), Bloom.of([CellId(bytes(16))], 9, 1).data)),
    "parse_manifest": Target(parse_manifest, (_MANIFEST.packed(),)),
    "request head": Target(_request_head, _REQUESTS, (BadRequestError,)),
    "response head": Target(
        _response_head,
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.0 204 \r\n\r\n",
            b"HTTP/1.1 101 S\r\nUpgrade: a\r\n\r\n",
        ),
        (BadResponseError,),
    ),
    "HTTP/2 request": Target(
        _http2_request,
        (
            b":method=GET\n:scheme=https\n:authority=h\n:path=/a?b\ncookie=a\ncookie=b\nte=trailers",
            b":method=POST\n:scheme=https\n:path=*\nhost=h:80\ncontent-length=5",
        ),
        (BadRequestError,),
    ),
    "trailers": Target(_trailers, (b"A: b\r\nX-Hop: c\r\nX_Forwarded_For: d\r\n\r\n", b"\r\n"), (FramingError,)),
    "PROXY header": Target(
        read_proxy_header,
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY UNKNOWN\r\n",
            proxy_header_v2(("192.0.2.1", 1), ("192.0.2.2", 2), "shop.test"),
            proxy_header_v2(("2001:db8::1", 1), ("2001:db8::2", 2)),
        ),
        (BadProxyHeaderError,),
    ),
    "chunks": Target(_chunks, (b"5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n", *_BODIES), (FramingError,)),
    "parse_start": Target(parse_start, (_START.packed(),)),
    "parse_entry": Target(lambda data: parse_entry(_ENTRY.key, data), (_ENTRY.packed(),)),
    "parse_head": Target(lambda data: parse_head(head_key("p", WHO, 3), data), (_HEAD,)),
}
