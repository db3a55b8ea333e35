"""Certificates: what is taken, what is refused and why, and bytes that are none."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.certificates import (
    CA_DAYS,
    Authority,
    Certificate,
    CertificateError,
    Revocations,
    Role,
    issue,
    make_authority,
    make_request,
    private_pem,
    read_certificate,
    read_request,
    revoke,
)
from lattice.errors import UntrustedError
from lattice.identity import node_id_of, private_key_from, public_key_of
from lattice.types import SECOND, Micros

NOW = Micros(1_800_000_000 * SECOND)
DAY = 86_400 * SECOND
CA_KEY, NODE_KEY, OTHER_KEY = (private_key_from(name * 32) for name in (b"c", b"n", b"o"))
CA = make_authority(CA_KEY, "edge", NOW)


def node_certificate(
    authority: Authority = CA, key: bytes = CA_KEY, now: Micros = NOW, role: Role = Role.NODE, serial: int = 7
) -> Certificate:
    return issue(
        authority, key, public_key=public_key_of(NODE_KEY), role=role, name="ams", serial=serial, now=now, days=30
    )


def refusal(certificate: bytes, authority: Authority = CA, now: Micros = NOW, role: Role | None = Role.NODE) -> str:
    with pytest.raises(UntrustedError) as refused:
        authority.judge(certificate, role, None, now)
    return refused.value.reason


def test_a_certificate_says_what_it_was_issued_for() -> None:
    certificate = CA.judge(node_certificate().der, Role.NODE, None, NOW)
    assert (certificate.cluster, certificate.name, certificate.role) == ("edge", "ams", Role.NODE)
    assert certificate.node == node_id_of(public_key_of(NODE_KEY)), "the key decides who it is"
    assert certificate.not_before < NOW < certificate.not_after <= NOW + 30 * DAY
    assert read_certificate(certificate.pem) == certificate
    assert Authority(CA.pem).judge(certificate.der, None, None, NOW) == certificate


def test_what_is_refused_and_why() -> None:
    other = make_authority(OTHER_KEY, "edge", NOW)  # the same name, another key
    assert refusal(node_certificate(other, OTHER_KEY).der) == "certificate of another CA"
    assert refusal(node_certificate(now=Micros(NOW - 31 * DAY)).der) == "certificate expired"
    assert refusal(node_certificate(now=Micros(NOW + DAY)).der) == "certificate not yet valid"
    assert refusal(node_certificate(role=Role.OPERATOR).der) == "certificate of another role"
    assert refusal(CA.pem) == "bad certificate", "the CA's own names no role"
    assert refusal(b"") == refusal(b"junk") == "bad certificate"
    assert refusal(make_authority(NODE_KEY, "edge", NOW).pem) == "bad certificate", "self-signed"


def test_the_moment_is_judged_to_the_second() -> None:
    certificate = node_certificate()
    for moment in (certificate.not_before, certificate.not_after):
        assert CA.judge(certificate.der, Role.NODE, None, moment) == certificate
    assert refusal(certificate.der, now=Micros(certificate.not_before - 1)) == "certificate not yet valid"
    assert refusal(certificate.der, now=Micros(certificate.not_after + 1)) == "certificate expired"


def test_a_revoked_one_is_refused_from_then_on() -> None:
    first, second = node_certificate(serial=7), node_certificate(serial=8)
    listed = revoke(CA, CA_KEY, None, [7], NOW)
    assert (listed.number, listed.serials) == (1, frozenset({7}))
    with pytest.raises(UntrustedError, match="certificate revoked: node 'ams', serial 7"):
        CA.judge(first.der, Role.NODE, listed, NOW)
    assert CA.judge(second.der, Role.NODE, listed, NOW) == second
    later = revoke(CA, CA_KEY, listed, [8, 7], NOW)
    assert (later.number, later.serials) == (2, frozenset({7, 8}))
    assert CA.revocations(later.pem) == later
    with pytest.raises(CertificateError, match="this cluster's CA did not sign"):
        make_authority(OTHER_KEY, "edge", NOW).revocations(later.pem)


def test_nothing_outlives_the_ca_and_only_its_key_issues() -> None:
    late = Micros(NOW + (CA_DAYS - 3) * DAY)
    assert node_certificate(now=late).not_after == CA.not_after
    with pytest.raises(CertificateError, match="the CA itself expired on"):
        node_certificate(now=Micros(CA.not_after + 1))
    with pytest.raises(CertificateError, match="this key is not the CA's"):
        node_certificate(CA, OTHER_KEY)


@pytest.mark.parametrize(("name", "days"), [("", 1), ("x" * 65, 1), ("a\nb", 1), ("ams", 0), ("ams", 826)])
def test_what_cannot_be_issued(name: str, days: int) -> None:
    with pytest.raises(CertificateError, match="expected 1 to"):
        issue(CA, CA_KEY, public_key=bytes(32), role=Role.NODE, name=name, serial=1, now=NOW, days=days)


def test_a_request_proves_its_key() -> None:
    request = make_request(NODE_KEY, "ams")
    assert read_request(request) == ("ams", public_key_of(NODE_KEY))
    lines = request.split(b"\n")
    lines[2] = lines[2][:10] + (b"A" if lines[2][10:11] != b"A" else b"B") + lines[2][11:]
    for hostile in (b"\n".join(lines), b"", CA.pem, private_pem(NODE_KEY), b"x" * 20_000):
        with pytest.raises(CertificateError):
            read_request(hostile)


@pytest.mark.filterwarnings("ignore:Parsed a")
@given(st.data())
def test_no_altered_byte_is_believed(data: st.DataObject) -> None:
    der = bytearray(node_certificate().der)
    at = data.draw(st.integers(0, len(der) - 1))
    der[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UntrustedError):
        CA.judge(bytes(der), Role.NODE, None, NOW)


@pytest.mark.filterwarnings("ignore:Parsed a")  # the library complains of some of what it parses; we refuse it
@pytest.mark.parametrize("what", ["CA", "request", "list"])
def test_no_single_altered_byte_is_believed_or_raises_something_else(what: str) -> None:
    """The library raises half a dozen ways, some of them late."""
    listed = revoke(CA, CA_KEY, None, [7, 8], NOW)
    label, pem, read = {
        "CA": (b"CERTIFICATE", CA.pem, Authority),
        "request": (b"CERTIFICATE REQUEST", make_request(NODE_KEY, "ams"), read_request),
        "list": (b"X509 CRL", listed.pem, CA.revocations),
    }[what]
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    for at in range(len(der)):
        for flip in (1, 0x80, 0xFF):
            altered = der[:at] + bytes([der[at] ^ flip]) + der[at + 1 :]
            text = b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, base64.encodebytes(altered), label)
            try:
                found = read(text)
            except CertificateError:
                continue
            # A list names its algorithm a second time, outside of what is signed, where nobody reads it.
            assert isinstance(found, Revocations)
            assert (found.number, found.serials) == (listed.number, listed.serials)


@given(st.binary(max_size=400))
def test_hostile_bytes_are_no_certificate(data: bytes) -> None:
    assert refusal(data) == "bad certificate"
    for pem in (data, b"-----BEGIN CERTIFICATE-----\n" + data, b"-----BEGIN X509 CRL-----\n" + data):
        with pytest.raises(CertificateError):
            Authority(pem)
        with pytest.raises(CertificateError):
            CA.revocations(pem)
        with pytest.raises(CertificateError):
            read_request(pem)
    with pytest.raises(CertificateError, match="larger than"):
        CA.revocations(b"x" * 2_000_000)
