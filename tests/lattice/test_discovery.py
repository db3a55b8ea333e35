"""mDNS on loopback with real zeroconf instances: peers are found, everything else is counted and ignored."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace

import ifaddr
import pytest
import trio
from zeroconf import ServiceInfo, Zeroconf

from lattice import discovery as edge
from lattice.discovery import ADDRESSES_MAX, HINTS_BURST, SERVICE_TYPE, Discovery, Interface, usable_interfaces
from lattice.seal import cluster_tag
from lattice.types import Endpoint, NodeId

AMS, FRA, GRU = NodeId(b"a" * 16), NodeId(b"f" * 16), NodeId(b"g" * 16)
LOOPBACK = ["127.0.0.1"]
LO = Interface(1, "lo", ("127.0.0.1",), ("127.0.0.1",))
ETH = Interface(2, "eth0", ("10.0.0.1",), ("10.0.0.1",))


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
        (record(OURS, "127.0.0.1", "224.0.0.251", "0.0.0.0", "255.255.255.255"), [], "mdns: no address to use"),
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
    read = reader._read(info, ETH)
    assert reader.counters[counted] == 1
    if endpoints is None:
        assert len(read) == ADDRESSES_MAX
    else:
        assert read == endpoints


def test_our_own_record_is_nobody() -> None:
    reader = discovery(AMS, 1001, Found())
    assert reader._read(record({**OURS, "n": AMS.hex()}, "127.0.0.1"), LO) == []


async def test_without_mdns_the_node_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(self: Discovery, interface: Interface) -> Zeroconf:
        raise OSError("no multicast here")

    monkeypatch.setattr(Discovery, "_open", broken)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(discovery(AMS, 1001, Found()).run)
        with trio.fail_after(10):
            while "seeds only" not in caplog.text:  # noqa: ASYNC110  (a log tells of no event)
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


# --- interfaces


def adapter(index: int, name: str, *addresses: str) -> ifaddr.Adapter:
    ips = [ifaddr.IP((address, 0, 0) if ":" in address else address, 24, name) for address in addresses]
    return ifaddr.Adapter(name, name, ips, index)


HOST = [
    adapter(1, "lo", "127.0.0.1", "::1"),
    adapter(2, "eth0", "10.0.0.1", "fd00::1", "fe80::1"),
    adapter(3, "eth1", "192.0.2.7"),
    adapter(4, "veth", "fe80::2"),
]


@pytest.mark.parametrize(
    ("bound", "wanted", "announced"),
    [
        ("0.0.0.0", [], {"eth0": ("10.0.0.1",), "eth1": ("192.0.2.7",)}),
        ("0.0.0.0", ["192.0.2.7"], {"eth1": ("192.0.2.7",)}),
        ("0.0.0.0", ["127.0.0.1"], {"lo": ("127.0.0.1",)}),
        ("10.0.0.1", [], {"eth0": ("10.0.0.1",)}),
        ("127.0.0.1", [], {"lo": ("127.0.0.1",)}),
        ("::", [], {"eth0": ("10.0.0.1", "fd00::1"), "eth1": ("192.0.2.7",)}),
        ("::", ["fe80::2"], {"veth": ("fe80::2",)}),
        ("10.0.0.1", ["192.0.2.7"], {}),
    ],
)
def test_each_interface_announces_its_own_addresses(
    bound: str, wanted: list[str], announced: dict[str, tuple[str, ...]]
) -> None:
    usable = usable_interfaces(HOST, bound, wanted)
    assert {interface.name: interface.announces for interface in usable} == announced


def test_where_there_is_nothing_else_link_local_addresses_do_and_have_the_scope_of_their_interface() -> None:
    host = [adapter(1, "lo", "::1"), adapter(2, "eth0", "fe80::1"), adapter(3, "eth1", "fe80::3", "169.254.0.3")]

    def announced(bound: str) -> dict[str, tuple[str, ...]]:
        return {interface.name: interface.announces for interface in usable_interfaces(host, bound, [])}

    assert announced("::") == {"eth0": ("fe80::1",), "eth1": ("fe80::3", "169.254.0.3")}
    assert announced("0.0.0.0") == {"eth1": ("169.254.0.3",)}
    reader = Discovery(cluster="test", node=AMS, endpoint=("::", 7946), interfaces=(), found=Found())
    read = reader._read(record(OURS, "fe80::9", "fd00::9", "10.0.0.9"), ETH)
    assert sorted(read) == [("10.0.0.9", 7946), ("fd00::9", 7946), ("fe80::9%eth0", 7946)]


def test_an_address_that_cannot_be_bound_yet_is_as_if_it_were_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a tentative one is, for a second or two: a node that was quicker to start was never heard of by mDNS."""
    host = [
        adapter(1, "lo", "127.0.0.1", "::1"),
        adapter(2, "eth0", "192.0.2.7", "2001:db8::7"),
        adapter(3, "eth1", "fe80::3"),
    ]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: host)
    found = {each.name: [ip.ip for ip in each.ips] for each in edge._adapters()}
    assert found == {"lo": ["127.0.0.1", ("::1", 0, 0)], "eth0": ["192.0.2.7"], "eth1": []}
    assert usable_interfaces(host, "::", []) == (Interface(2, "eth0", ("192.0.2.7",), ("192.0.2.7",)),)


def test_interfaces_beyond_the_limit_are_left_out() -> None:
    many = [adapter(number, f"br{number}", f"10.{number}.0.1") for number in range(1, 200)]
    assert len(usable_interfaces(many, "0.0.0.0", [])) == edge.INTERFACES_MAX


async def test_interfaces_come_and_go_once_they_are_seen_twice_the_same(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The address that is there for one look only (eth0 while it is configured) is never spoken on."""
    new = replace(ETH, announces=("10.0.0.2",), speaks=("10.0.0.2",))
    looks = [(LO, ETH), (LO,), (LO, new), (LO, new), (LO, new), (LO,), (LO,)]
    speaking: list[tuple[float, str, str]] = []

    async def speak(self: Discovery, interface: Interface, scope: trio.CancelScope) -> None:
        with scope:
            speaking.append((trio.current_time() - start, "+", interface.announces[0]))
            try:
                await trio.sleep_forever()
            finally:
                speaking.append((trio.current_time() - start, "-", interface.announces[0]))

    async def look(self: Discovery) -> tuple[Interface, ...]:
        """In no thread: a clock that jumps when every task waits does not wait for threads."""
        return looks.pop(0) if looks else (LO,)

    monkeypatch.setattr(Discovery, "_look", look)
    monkeypatch.setattr(Discovery, "_speak", speak)
    start = trio.current_time()
    with trio.move_on_after(edge.INTERFACES_EVERY_S * 8 - 1):
        await discovery(AMS, 1001, Found()).run()
    every = edge.INTERFACES_EVERY_S
    steps = [(round(at / every), what, address) for at, what, address in speaking[:-1]]
    assert sorted(steps) == [
        (0, "+", "10.0.0.1"),
        (0, "+", "127.0.0.1"),
        (3, "+", "10.0.0.2"),
        (3, "-", "10.0.0.1"),
        (6, "-", "10.0.0.2"),
    ]


# --- hostile neighbours


async def test_hints_are_taken_at_a_bounded_rate(autojump_clock: trio.testing.MockClock) -> None:
    found = Found()
    reader = discovery(AMS, 1001, found)
    for number in range(10_000):
        info = record({**OURS, "n": f"{number:032x}"}, f"10.{number // 62_500}.{number // 250}.{number % 250 + 1}")
        await reader._tell(info, ETH)
    assert len(found.endpoints) == HINTS_BURST
    assert reader.counters["mdns: hints over the rate"] == 10_000 - HINTS_BURST
    await trio.sleep(1)
    await reader._tell(record(OURS, "10.0.0.2"), ETH)
    assert found.endpoints[-1] == ("10.0.0.2", 7946)


@pytest.mark.slow
async def test_names_that_nobody_answers_for_delay_no_true_record() -> None:
    """Thousands of bare names, each good for a look-up of a second and a half; then somebody real comes up."""
    from zeroconf._dns import DNSPointer
    from zeroconf._protocol.outgoing import DNSOutgoing
    from zeroconf.const import _CLASS_IN, _FLAGS_AA, _FLAGS_QR_RESPONSE, _TYPE_PTR

    found = Found()
    at_ams = discovery(AMS, 1001, found)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at_ams.run)
        stranger = await trio.to_thread.run_sync(lambda: Zeroconf(interfaces=LOOPBACK))
        try:
            with trio.fail_after(20):
                number = 0
                while not at_ams.counters["mdns: too many names"]:
                    packet = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
                    for _ in range(200):
                        number += 1
                        alias = f"ghost{number}.{SERVICE_TYPE}"
                        packet.add_answer_at_time(DNSPointer(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN, 120, alias), 0)
                    await trio.to_thread.run_sync(stranger.send, packet)
                    await trio.sleep(0.05)
            nursery.start_soon(discovery(FRA, 1002, Found()).run)
            with trio.fail_after(20):
                await found.something.wait()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(stranger.close)
        nursery.cancel_scope.cancel()
    assert found.endpoints[0] == ("127.0.0.1", 1002)
    assert at_ams.counters["mdns: too many names"] > 0


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


def said(*records: bytes) -> bytes:
    """A response of these records, whatever they are."""
    return struct.pack(">6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def labels(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".")) + b"\0"


def pointer_record(alias: str, ttl_s: int) -> bytes:
    data = labels(alias)
    return labels(SERVICE_TYPE) + struct.pack(">HHIH", 12, 1, ttl_s, len(data)) + data


AT = 12
"""Where the first record of a message begins."""
BAD_PACKETS = {
    "a chain of 3 kB of pointers": said(b"".join(struct.pack(">H", 0xC000 | at + 2) for at in range(AT, 3_000, 2))),
    "a name that points to itself": said(struct.pack(">H", 0xC000 | AT) + bytes(10)),
    "a pointer past the end": said(b"\xff\xff" + bytes(10)),
    "60,000 records promised": struct.pack(">6H", 0, 0x8400, 0, 60_000, 0, 0),
    "a record cut short": said(pointer_record(f"x.{SERVICE_TYPE}", 120))[:-9],
    "labels without an end": said(b"\x3f" + b"a" * 63) * 40,
    "text that is no UTF-8": said(pointer_record("x", 120).replace(b"x", b"\xff")),
    "nothing": b"",
    "a long nothing": bytes(8_000),
}


@pytest.mark.slow
async def test_packets_that_are_none_and_goodbyes_in_others_names_keep_nobody_from_being_found() -> None:
    ams = Found()
    ghosts = [f"{node.hex()[:16]}-{socket.if_nametoindex('lo')}.{SERVICE_TYPE}" for node in (AMS, FRA, GRU)]
    goodbyes = [said(*(pointer_record(ghost, ttl_s) for ghost in ghosts)) for ttl_s in (0, 1, 2**32 - 1, 0)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 5_353))
        stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))

        async def annoy() -> None:
            while True:
                for packet in (*BAD_PACKETS.values(), *goodbyes):
                    stranger.sendto(packet, ("224.0.0.251", 5_353))
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(discovery(AMS, 1001, ams).run)
            nursery.start_soon(annoy)
            await trio.sleep(1)
            for node, port in ((FRA, 1002), (GRU, 1003)):
                nursery.start_soon(discovery(node, port, Found()).run)
                with trio.fail_after(20):
                    while ("127.0.0.1", port) not in ams.endpoints:  # noqa: ASYNC110  (what was found tells of no event)
                        await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    assert set(ams.endpoints) == {("127.0.0.1", 1002), ("127.0.0.1", 1003)}


@pytest.mark.slow
async def test_a_name_that_somebody_else_has_announced_is_left_to_them() -> None:
    """Who took our name before we started would keep us from ever being found."""
    found = Found()
    loopback = socket.if_nametoindex("lo")
    taken = ServiceInfo(SERVICE_TYPE, f"{FRA.hex()[:16]}-{loopback}.{SERVICE_TYPE}", port=7, server="theirs.local.")
    stranger = await trio.to_thread.run_sync(lambda: Zeroconf(interfaces=LOOPBACK))
    try:
        await trio.to_thread.run_sync(stranger.register_service, taken)
        await trio.sleep(1.2)  # who has just said a thing does not say it again for a second (RFC 6762, 6)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discovery(AMS, 1001, found).run)
            nursery.start_soon(discovery(FRA, 1002, Found()).run)
            with trio.fail_after(20):
                await found.something.wait()
            nursery.cancel_scope.cancel()
    finally:
        await trio.to_thread.run_sync(stranger.close)
    assert set(found.endpoints) == {("127.0.0.1", 1002)}
