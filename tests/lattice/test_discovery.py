"""mDNS on loopback with real zeroconf instances: peers are found, everything else is counted and ignored."""

from __future__ import annotations

import socket

import pytest
import trio
from zeroconf import ServiceInfo, Zeroconf

from lattice.discovery import ADDRESSES_MAX, SERVICE_TYPE, Discovery
from lattice.seal import cluster_tag
from lattice.types import Endpoint, NodeId

AMS, FRA = NodeId(b"a" * 16), NodeId(b"f" * 16)
LOOPBACK = ["127.0.0.1"]


class Found:
    """Collects what a discovery reports."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        self.something = trio.Event()

    async def __call__(self, endpoint: Endpoint) -> None:
        self.endpoints.append(endpoint)
        self.something.set()


def discovery(node: NodeId, port: int, found: Found, cluster: str = "test") -> Discovery:
    return Discovery(cluster=cluster, node=node, endpoint=("127.0.0.1", port), interfaces=LOOPBACK, found=found)


@pytest.mark.slow
async def test_two_nodes_of_a_cluster_find_each_other_and_nobody_else() -> None:
    ams, fra, stranger = Found(), Found(), Found()
    at_ams = discovery(AMS, 1001, ams)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at_ams.run)
        nursery.start_soon(discovery(FRA, 1002, fra).run)
        nursery.start_soon(discovery(NodeId(b"s" * 16), 1003, stranger, "another").run)
        with trio.fail_after(20):
            await ams.something.wait()
            await fra.something.wait()
            while not at_ams.counters["mdns: other cluster"]:  # noqa: ASYNC110  (a counter tells of no event)
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert set(ams.endpoints) == {("127.0.0.1", 1002)}
    assert set(fra.endpoints) == {("127.0.0.1", 1001)}
    assert stranger.endpoints == []


def record(properties: dict[str, str], *addresses: str, port: int = 7946) -> ServiceInfo:
    packed = [socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in addresses]
    return ServiceInfo(SERVICE_TYPE, f"x.{SERVICE_TYPE}", port=port, addresses=packed, properties=properties)


OURS = {"c": cluster_tag("test").hex(), "n": FRA.hex()}


@pytest.mark.parametrize(
    ("info", "endpoints", "counted"),
    [
        (record(OURS, "10.0.0.2"), [("10.0.0.2", 7946)], "mdns: peers heard"),
        (record(OURS, "10.0.0.2", "fe80::1"), [("10.0.0.2", 7946)], "mdns: peers heard"),
        (record(OURS, *(f"10.0.0.{n}" for n in range(1, 40))), None, "mdns: peers heard"),
        (record({**OURS, "c": "00000000"}, "10.0.0.2"), [], "mdns: other cluster"),
        (record({}, "10.0.0.2"), [], "mdns: other cluster"),
        (record(OURS, "10.0.0.2", port=0), [], "mdns: no answer"),
        (None, [], "mdns: no answer"),
    ],
)
def test_a_record_is_a_hint_and_no_more(
    info: ServiceInfo | None, endpoints: list[Endpoint] | None, counted: str
) -> None:
    reader = discovery(AMS, 1001, Found())
    read = reader._read(info)
    assert reader.counters[counted] == 1
    if endpoints is None:
        assert len(read) == ADDRESSES_MAX
    else:
        assert read == endpoints


def test_our_own_record_is_nobody() -> None:
    reader = discovery(AMS, 1001, Found())
    assert reader._read(record({**OURS, "n": AMS.hex()}, "127.0.0.1")) == []


async def test_without_mdns_the_node_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(self: Discovery) -> Zeroconf:
        raise OSError("no multicast here")

    monkeypatch.setattr(Discovery, "_open", broken)
    await discovery(AMS, 1001, Found()).run()
    assert "seeds only" in caplog.text


@pytest.mark.slow
async def test_a_strangers_record_ends_nothing() -> None:
    """A PTR that points outside the service type makes zeroconf raise in the look-up: met in a hostile review."""
    from zeroconf._dns import DNSPointer
    from zeroconf._protocol.outgoing import DNSOutgoing
    from zeroconf.const import _CLASS_IN, _FLAGS_AA, _FLAGS_QR_RESPONSE, _TYPE_PTR

    found = Found()
    at_ams = discovery(AMS, 1001, found)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at_ams.run)
        stranger = await trio.to_thread.run_sync(lambda: Zeroconf(interfaces=LOOPBACK))
        try:
            packet = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
            alias = "printer._http._tcp.local."
            packet.add_answer_at_time(DNSPointer(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN, 120, alias), 0)
            with trio.fail_after(20):
                while not at_ams.counters["mdns: unusable name"]:
                    await trio.to_thread.run_sync(stranger.send, packet)
                    await trio.sleep(0.2)
            nursery.start_soon(discovery(FRA, 1002, Found()).run)
            with trio.fail_after(20):
                await found.something.wait()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(stranger.close)
        nursery.cancel_scope.cancel()
