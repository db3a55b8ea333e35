"""Hosts, paths and zones against slow, obvious matchers that share nothing with the fast ones."""

from __future__ import annotations

import fnmatch
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.policy.hosts import HostIndex, covering_patterns
from router.policy.paths import PathPattern
from router.policy.syntax import Cidr, Network, Zone
from router.policy.zones import ZoneIndex, read_client

segments = st.sampled_from(("a", "b", "", "%2F", ".."))
paths = st.lists(segments, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
patterns = st.builds(
    lambda parts, end: "/" + "/".join([*parts, *end]) if parts or end else "/",
    st.lists(st.one_of(segments, st.just("*")), max_size=4),
    st.sampled_from(([], ["**"])),
)


def slow_path_matches(pattern: str, path: str) -> bool:
    """By recursion over segments, straight from the words of the reference."""

    def match(wanted: list[str], given: list[str]) -> bool:
        if wanted == ["**"]:
            return True
        if not wanted or not given:
            return wanted == given
        one = wanted[0] == given[0] or (wanted[0] == "*" and given[0] != "")
        return one and match(wanted[1:], given[1:])

    if pattern == "/**":
        return True
    return path.startswith("/") and match(pattern.split("/")[1:], path.split("/")[1:])


@given(patterns, st.one_of(paths, st.sampled_from(("*", "", "a", "http://a/b"))))
@example("/a/**", "/a")
@example("/a/**", "/a/")
@example("/a/**", "/ab")
@example("/a/*", "/a/")
@example("/a/*", "/a/b/c")
@example("/**", "*")
def test_a_path_matches_as_the_slow_matcher_says(pattern: str, path: str) -> None:
    assert PathPattern.valid(pattern)
    assert PathPattern.compiled(pattern).matches(path) == slow_path_matches(pattern, path)


@given(patterns, patterns, st.lists(paths, max_size=20))
def test_a_pattern_that_covers_another_matches_all_it_matches(wide: str, narrow: str, tried: list[str]) -> None:
    one, other = PathPattern.compiled(wide), PathPattern.compiled(narrow)
    inside = narrow.removesuffix("/**").replace("*", "star") or "/"
    for path in (*tried, inside, f"{inside}/deep/er"):
        if one.covers(other) and other.matches(path):
            assert one.matches(path)
    assert one.covers(one)


def test_cover_is_not_too_shy() -> None:
    def covers(wide: str, narrow: str) -> bool:
        return PathPattern.compiled(wide).covers(PathPattern.compiled(narrow))

    assert covers("/**", "/a/*/c/**")
    assert covers("/a/**", "/a")
    assert covers("/a/**", "/a/*")
    assert covers("/*/b", "/a/b")
    assert not covers("/a/*", "/a/**")
    assert not covers("/a", "/a/**")
    assert not covers("/a/b", "/a/*")
    assert not covers("/a/*", "/a/")


labels = st.sampled_from(("a", "b", "example"))
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
host_patterns = st.one_of(names, names.map(lambda name: f"*.{name}"), st.just("*"))


def slow_host_matches(pattern: str, host: str) -> bool:
    return fnmatch.fnmatchcase(host, pattern)


@given(st.lists(st.lists(host_patterns, min_size=1, max_size=3), max_size=6), names)
def test_a_host_takes_the_routes_the_slow_matcher_gives_it(routes: list[list[str]], host: str) -> None:
    index = HostIndex.of(tuple(map(tuple, routes)))
    expected = [number for number, hosts in enumerate(routes) if any(slow_host_matches(p, host) for p in hosts)]
    for spelling in (host, host.upper(), f"{host}:8080", f"{host}.", f"{host}.:80"):
        assert list(index.routes_for(spelling)) == expected


@given(st.text(alphabet="[]:.*aA", max_size=12))
def test_no_host_raises(host: str) -> None:
    index = HostIndex.of([("*.a",), ("[::a]",), ("a",)])
    assert set(index.routes_for(host)) <= {0, 1, 2}


def test_an_ipv6_host_is_found_with_and_without_a_port() -> None:
    index = HostIndex.of([("[2001:db8::a]",)])
    assert index.routes_for("[2001:DB8::A]:443") == index.routes_for("[2001:db8::a]") == (0,)


def test_patterns_cover_from_the_narrow_to_the_wide() -> None:
    assert covering_patterns("a.b.example") == ["a.b.example", "*.b.example", "*.example", "*"]
    assert covering_patterns("*.b.example") == ["*.b.example", "*.example", "*"]
    assert covering_patterns("[::1]") == ["[::1]", "*"]
    assert covering_patterns("*") == ["*"]


def block(version: int, address: int, prefix: int) -> Network:
    bits = 32 if version == 4 else 128
    prefix = prefix % (bits + 1)
    masked = (address % (1 << bits)) >> (bits - prefix) << (bits - prefix)
    return IPv4Network((masked, prefix)) if version == 4 else IPv6Network((masked, prefix))


# Few distinct bits, so that blocks nest and touch instead of lying far apart.
addresses = st.one_of(
    st.builds(lambda high, shift: high << shift, st.integers(0, 7), st.sampled_from((0, 7, 15, 29))),
    st.integers(0, (1 << 128) - 1),
)
blocks = st.builds(block, st.sampled_from((4, 6)), addresses, st.integers(0, 128))


def slow_zone_of(zones: list[Zone], client: str) -> str:
    """The owner of the longest prefix that holds the client, by asking every block."""
    address = ip_address(client)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    holding = [(cidr.network.prefixlen, zone.name) for zone in zones for cidr in zone.cidrs if address in cidr.network]
    return max(holding, default=(0, ""))[1]


@given(st.dictionaries(blocks, st.sampled_from(("a", "b", "c")), max_size=12), st.lists(addresses, max_size=10))
def test_a_client_is_in_the_zone_of_its_longest_prefix(owners: dict[Network, str], tried: list[int]) -> None:
    zones = [
        Zone(name, tuple(Cidr(network) for network, owner in owners.items() if owner == name))
        for name in ("a", "b", "c")
    ]
    index = ZoneIndex.of(zones)
    edges = [int(edge) for n in owners for edge in (n.network_address, n.broadcast_address)]
    for number in [*tried, *edges, *(edge + 1 for edge in edges), *(edge - 1 for edge in edges if edge)]:
        low = number % (1 << 32)
        for address in (ip_address(low), IPv6Address(number % (1 << 128)), IPv6Address(0xFFFF << 32 | low)):
            assert index.zone_of(read_client(str(address))) == slow_zone_of(zones, str(address))


groups = st.lists(st.sampled_from(("", "0", "1", "a", "ffff", "00a1", "12345", "G")), min_size=1, max_size=9)
octets = st.lists(st.sampled_from(("0", "1", "255", "256", "01", "", "x")), min_size=3, max_size=5).map(".".join)
texts = st.one_of(
    octets,
    st.text(alphabet="0123456789abcdefF:.%", max_size=20),
    st.builds(lambda parts, tail: ":".join([*parts, *tail]), groups, st.lists(octets, max_size=1)),
    st.text(max_size=8),
)


@given(texts)
def test_a_client_is_read_as_ipaddress_reads_it(text: str) -> None:
    bare, scope, _ = text.partition("%")
    try:
        address = IPv6Address(bare) if scope else ip_address(text)
    except ValueError:
        assert read_client(text) is None
        return
    address = getattr(address, "ipv4_mapped", None) or address
    assert read_client(text) == address.packed


def test_reading_a_client_is_strict() -> None:
    assert read_client("192.0.2.1") == bytes((192, 0, 2, 1))
    assert read_client("::ffff:192.0.2.1") == bytes((192, 0, 2, 1))
    assert read_client("fe80::1%eth0") == b"\xfe\x80" + bytes(13) + b"\x01"
    for wrong in (
        "",
        "192.0.2",
        "192.0.2.1 ",
        "192.0.2.01",
        "192.0.2.256",
        "192.0.2.+1",
        "0x7f.1",
        "::1::",
        "1.2.3.4.5",
    ):
        assert read_client(wrong) is None
    assert ZoneIndex.of([Zone("a", (Cidr(ip_network("0.0.0.0/0")),))]).zone_of(None) == ""


@pytest.mark.parametrize(
    ("block", "last"), [("255.0.0.0/8", "255.255.255.255"), ("ff00::/8", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]
)
def test_the_last_block_of_a_family_reaches_to_its_end(block: str, last: str) -> None:
    index = ZoneIndex.of([Zone("z", (Cidr(ip_network(block)),))])
    assert index.zone_of(read_client(last)) == "z"
    assert index.zone_of(read_client("1.1.1.1")) == index.zone_of(read_client("::1")) == ""
