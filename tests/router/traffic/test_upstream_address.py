"""What a policy cannot make a site connect to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.traffic.upstream_address import REFUSED, AddressRule

V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("fe80::1", "link-local"),
        ("fd00:ec2::254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("224.0.0.251", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("127.0.0.1", None),
        ("::1", None),
        ("10.0.0.1", None),
        ("fd00::1", None),
        ("192.0.2.1", None),
        ("100.100.100.201", None),
    ],
)
def test_what_is_never_a_region(host: str, why: str | None) -> None:
    assert AddressRule().why_refused(host) == why


@given(V4 | V6)
def test_what_a_site_allows_it_connects_to_and_nothing_else_changes(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    usual, rule = AddressRule(), AddressRule([ipaddress.ip_network("169.254.0.0/16")])
    allowed = address in ipaddress.ip_network("169.254.0.0/16")
    assert rule.why_refused(str(address)) == (None if allowed else usual.why_refused(str(address)))


@given(st.sampled_from([network for network, _ in REFUSED if network.version == 4]), st.integers(0, 2**28 - 1))
def test_no_dress_of_ipv6_hides_an_address(network: ipaddress.IPv4Network, offset: int) -> None:
    address = network[offset % network.num_addresses]
    for dressed in (
        f"::ffff:{address}",
        f"64:ff9b::{address}",
        str(ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80))),
    ):
        assert AddressRule().why_refused(str(ipaddress.ip_address(dressed))) is not None
