"""TLS between real sockets: who gets a frame across, and what everybody else's attempt is counted as."""

from __future__ import annotations

import hashlib
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from lattice.certificates import Authority, Certificate, issue, make_authority, private_pem
from lattice.events import PeerDiscovered, RevocationsSubmitted
from lattice.grants import Role, sign_revocation
from lattice.identity import Ed25519Signer, node_id_of, private_key_from, public_key_of
from lattice.key_ring import KeyRing
from lattice.seal import Sealed
from lattice.stream_security import StreamSecurity, TlsStream
from lattice.types import SECOND, Micros, NodeId
from tests.lattice.cluster import CLUSTER
from tests.lattice.test_driver import SECRET, Node, running, until

DAY = 86_400 * SECOND
CA_KEY, FOREIGN_KEY, PEER_KEY, REVOKED_KEY = (private_key_from(name * 32) for name in (b"c", b"f", b"p", b"r"))


def wall_clock() -> Micros:
    return Micros(time.time_ns() // 1_000)


def authority(key: bytes = CA_KEY) -> Authority:
    return make_authority(key, CLUSTER, Micros(wall_clock() - 400 * DAY))


def node_key(name: str) -> bytes:
    """As `tests.lattice.cluster.signer_of` makes it."""
    return private_key_from(hashlib.blake2b(name.encode(), digest_size=32).digest())


def certified(
    key: bytes,
    *,
    ca_key: bytes = CA_KEY,
    role: Role = Role.NODE,
    serial: int = 1,
    at_days: int = 0,
    days: int = 30,
    name: str = "ams",
) -> Certificate:
    return issue(
        authority(ca_key),
        ca_key,
        public_key=public_key_of(key),
        role=role,
        name=name,
        serial=serial,
        now=Micros(wall_clock() + at_days * DAY),
        days=days,
    )


def security(directory: Path, key: bytes, certificate: Certificate | None = None) -> StreamSecurity:
    return StreamSecurity(authority(), certificate or certified(key), key, directory)


@asynccontextmanager
async def secured(name: str, directory: Path) -> AsyncIterator[Node]:
    certificate = certified(node_key(name), name=name)
    async with running(name, certificate=certificate, ca_key=public_key_of(CA_KEY)) as node:
        node.driver.secure(security(directory, node_key(name)))
        yield node


def revocation_of(key: bytes) -> RevocationsSubmitted:
    ca = Ed25519Signer(CA_KEY, CLUSTER)
    return RevocationsSubmitted((sign_revocation(ca, node_id_of(public_key_of(key))).data,))


def frame_of(key: bytes) -> bytes:
    frame = Sealed(CLUSTER, KeyRing.of(SECRET)).close(node_id_of(public_key_of(key)), b"\x91\x63", wall_clock())
    return len(frame).to_bytes(4, "big") + frame


async def call(node: Node, context: ssl.SSLContext | None, content: bytes) -> None:
    """What a peer with that context does; whether it works is for the node to say."""
    with trio.fail_after(10), suppress(trio.BrokenResourceError, ssl.SSLError):
        async with await trio.open_tcp_stream(*node.transport.endpoint) as tcp:
            stream = tcp if context is None else trio.SSLStream(tcp, context)
            await stream.send_all(content)
            await stream.receive_some(1)


def peer_context(directory: Path, key: bytes, certificate: Certificate) -> ssl.SSLContext:
    return StreamSecurity(authority(), certificate, key, directory)._client


def refusals(node: Node) -> dict[str, int]:
    return {name: number for name, number in node.driver.counters().items() if name.startswith("frame rejected")}


async def test_an_op_larger_than_a_datagram_travels_by_tls(tmp_path: Path) -> None:
    async with secured("ams", tmp_path) as ams, secured("fra", tmp_path) as fra:
        await ams.meets(fra)
        version = await ams.publish("edition 1\n", "region x {}\n" * 1_000)
        await until(lambda: [policy.version for policy in fra.driver.view().policies] == [version])
        for node in (ams, fra):
            assert refusals(node) == {}
            assert not [name for name in node.driver.counters() if "not sent" in name]
    assert os.listdir(tmp_path) == [], "no key is left behind"  # noqa: PTH208


PEERS = {
    "wrong CA": ({"ca_key": FOREIGN_KEY}, "tls: unable to get local issuer certificate"),
    "expired": ({"at_days": -60, "days": 30}, "tls: certificate has expired"),
    "not yet valid": ({"at_days": 2}, "tls: certificate is not yet valid"),
    "an operator's": ({"role": Role.OPERATOR}, "certificate of another role"),
    "a viewer's": ({"role": Role.VIEWER}, "certificate of another role"),
    "revoked": ({}, "certificate revoked"),
}


@pytest.mark.parametrize("peer", PEERS)
async def test_a_certificate_that_is_not_good_enough(peer: str, tmp_path: Path) -> None:
    options, reason = PEERS[peer]
    key = REVOKED_KEY if reason == "certificate revoked" else PEER_KEY
    certificate = certified(key, **options)  # type: ignore[arg-type]
    async with secured("ams", tmp_path) as ams:
        await ams.driver.submit(revocation_of(REVOKED_KEY))
        await until(lambda: len(ams.driver.view().revoked) == 1)
        before = ams.driver.view()
        await call(ams, peer_context(tmp_path, key, certificate), frame_of(key))
        await until(lambda: refusals(ams) == {f"frame rejected: {reason}": 1})
        assert ams.driver.view() is before


async def test_other_ways_in(tmp_path: Path) -> None:
    """Self-signed, without a certificate, TLS 1.2, no TLS at all, and another node's name on the frame."""
    own = make_authority(PEER_KEY, CLUSTER, wall_clock())
    self_signed = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    self_signed.check_hostname, self_signed.verify_mode = False, ssl.CERT_NONE
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    (tmp_path / "own.pem").write_bytes(own.pem + private_pem(PEER_KEY))
    self_signed.load_cert_chain(tmp_path / "own.pem")
    old = peer_context(tmp_path, PEER_KEY, certified(PEER_KEY))
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    good = peer_context(tmp_path, PEER_KEY, certified(PEER_KEY))
    attempts = [
        (self_signed, frame_of(PEER_KEY), "tls: self-signed certificate"),
        (bare, frame_of(PEER_KEY), "tls: peer did not return a certificate"),
        (old, frame_of(PEER_KEY), "tls: unsupported protocol"),
        (good, frame_of(node_key("somebody else")), "sender is not the certificate's"),
        (good, (10).to_bytes(4, "big") + b"x" * 10, "sender is not the certificate's"),
        (good, b"\xff" * 8, "oversized"),
    ]
    async with secured("ams", tmp_path) as ams:
        for context, content, reason in attempts:
            before = refusals(ams).get(f"frame rejected: {reason}", 0)
            await call(ams, context, content)
            await until(lambda: refusals(ams).get(f"frame rejected: {reason}", 0) == before + 1)  # noqa: B023
        for plain in (frame_of(PEER_KEY), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 300):
            before = sum(refusals(ams).values())
            await call(ams, None, plain)
            await until(lambda: sum(refusals(ams).values()) == before + 1)  # noqa: B023
        assert len(refusals(ams)) <= len(attempts) + 3


async def test_a_node_without_a_certificate_gets_nothing_across_and_both_say_so(tmp_path: Path) -> None:
    async with secured("ams", tmp_path) as ams, running("fra") as fra:
        await ams.driver.submit(PeerDiscovered(fra.transport.endpoint))
        await until(lambda: len(fra.driver.view().members) == 2)
        await fra.publish("edition 1\n", "region x {}\n" * 1_000)
        await until(lambda: sum(refusals(ams).values()) > 0)
        assert ams.driver.view().policies == ()
        assert len(ams.driver.view().members) == 1
        assert ams.driver.counters()["row rejected: not granted"] > 0


async def test_many_frames_take_one_connection(tmp_path: Path) -> None:
    async with secured("ams", tmp_path) as ams, secured("fra", tmp_path) as fra:
        await ams.meets(fra)
        security = fra.driver._streams.security
        assert security is not None
        shaken = 0
        accept = security.accept

        async def counted(stream: trio.SocketStream, now: Micros) -> tuple[TlsStream, NodeId]:
            nonlocal shaken
            shaken += 1
            return await accept(stream, now)

        security.accept = counted  # type: ignore[method-assign]
        blocks = [f"region x{number} {{}}\n" * 100 for number in range(30)]
        version = await ams.publish("edition 1\n", *blocks)
        await until(lambda: [policy.version for policy in fra.driver.view().policies] == [version])
        assert shaken == 1
        assert refusals(fra) == {}


async def test_the_caller_judges_too(tmp_path: Path) -> None:
    """A node does not hand its frames to whoever listens at a peer's address."""
    async with secured("ams", tmp_path) as ams, secured("fra", tmp_path) as fra:
        impostor = security(tmp_path, node_key("fra"), certified(node_key("fra"), role=Role.VIEWER))
        fra.driver.secure(impostor)
        await ams.meets(fra)
        await ams.publish("edition 1\n", "region x {}\n" * 1_000)
        await until(lambda: ams.driver.counters().get("stream frames not sent: certificate of another role", 0) > 0)
        assert fra.driver.view().policies == ()


async def test_a_new_certificate_is_used_at_once_and_open_streams_go_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        ams = await stack.enter_async_context(secured("ams", tmp_path))
        stream = trio.SSLStream(
            await trio.open_tcp_stream(*ams.transport.endpoint),
            peer_context(tmp_path, PEER_KEY, certified(PEER_KEY, serial=66)),
        )
        frame = frame_of(PEER_KEY)
        await stream.send_all(frame[:30])
        await ams.driver.call(revocation_of(PEER_KEY))
        ams.driver.secure(security(tmp_path, node_key("ams"), certified(node_key("ams"), serial=2)))
        await stream.send_all(frame[30:])
        await until(
            lambda: ams.driver.counters().get("frame rejected: unknown message", 0) == 1
        )  # heard, and no message; what was begun is finished, and nothing more is heard
        await until(lambda: ams.driver.counters().get("frame rejected: certificate revoked", 0) == 1)
        await call(ams, peer_context(tmp_path, PEER_KEY, certified(PEER_KEY, serial=66)), frame)
        await until(lambda: ams.driver.counters().get("frame rejected: certificate revoked", 0) == 2)
        await stream.aclose()
