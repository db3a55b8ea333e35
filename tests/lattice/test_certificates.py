"""Certificates: what is taken, what is refused and why, and bytes that are none."""

from __future__ import annotations

import base64
import warnings
from enum import StrEnum
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.certificates import (
    CA_DAYS,
    Authority,
    Certificate,
    CertificateError,
    issue,
    make_authority,
    make_request,
    private_pem,
    read_certificate,
    read_request,
)
from lattice.errors import UntrustedError
from lattice.grants import Grants, Role
from lattice.identity import Ed25519Verifier, node_id_of, private_key_from, public_key_of
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
        authority.judge(certificate, role, now)
    return refused.value.reason


def test_a_certificate_says_what_it_was_issued_for() -> None:
    certificate = CA.judge(node_certificate().der, Role.NODE, NOW)
    assert (certificate.cluster, certificate.name, certificate.role) == ("edge", "ams", Role.NODE)
    assert certificate.node == node_id_of(public_key_of(NODE_KEY)), "the key decides who it is"
    assert certificate.not_before < NOW < certificate.not_after <= NOW + 30 * DAY
    assert read_certificate(certificate.pem) == certificate
    assert Authority(CA.pem).judge(certificate.der, None, NOW) == certificate


def test_what_is_refused_and_why() -> None:
    other = make_authority(OTHER_KEY, "edge", NOW)  # the same name, another key
    assert refusal(node_certificate(other, OTHER_KEY).der) == "certificate of another CA"
    assert refusal(node_certificate(now=Micros(NOW - 31 * DAY)).der) == "certificate expired"
    assert refusal(node_certificate(now=Micros(NOW + DAY)).der) == "certificate not yet valid"
    assert refusal(node_certificate(role=Role.OPERATOR).der) == "certificate of another role"
    assert refusal(CA.pem) == "bad certificate", "the CA's own names no role"
    assert refusal(b"") == refusal(b"junk") == "bad certificate"
    assert refusal(make_authority(NODE_KEY, "edge", NOW).pem) == "bad certificate", "self-signed"


def test_a_role_that_nobody_knows_is_refused_by_name() -> None:
    class Elsewhere(StrEnum):
        AUDITOR = "auditor"

    with pytest.raises(CertificateError, match="'auditor': expected node, operator, controller, viewer, region"):
        read_certificate(node_certificate(role=cast("Role", Elsewhere.AUDITOR)).der)


def test_the_moment_is_judged_to_the_second() -> None:
    certificate = node_certificate()
    for moment in (certificate.not_before, certificate.not_after):
        assert CA.judge(certificate.der, Role.NODE, moment) == certificate
    assert refusal(certificate.der, now=Micros(certificate.not_before - 1)) == "certificate not yet valid"
    assert refusal(certificate.der, now=Micros(certificate.not_after + 1)) == "certificate expired"


def test_a_certificate_holds_the_grant_that_rows_and_ops_show() -> None:
    certificate = node_certificate()
    grants = Grants(CA.public_key, Ed25519Verifier("edge"))
    assert certificate.grant is not None
    assert certificate.grant.until_s * SECOND == certificate.not_after
    grants.check_node(certificate.node, certificate.public_key, "ams", certificate.grant, NOW)
    with pytest.raises(UntrustedError, match="bad grant"):
        grants.check_node(certificate.node, certificate.public_key, "fra", certificate.grant, NOW)


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
        CA.judge(bytes(der), Role.NODE, NOW)


@pytest.mark.filterwarnings("ignore:Parsed a")  # the library complains of some of what it parses; we refuse it
@pytest.mark.parametrize("what", ["CA", "request"])
def test_no_single_altered_byte_is_believed_or_raises_something_else(what: str) -> None:
    """The library raises half a dozen ways, some of them late."""
    label, pem, read = {
        "CA": (b"CERTIFICATE", CA.pem, Authority),
        "request": (b"CERTIFICATE REQUEST", make_request(NODE_KEY, "ams"), read_request),
    }[what]
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    for at in range(len(der)):
        for flip in (1, 0x80, 0xFF):
            altered = der[:at] + bytes([der[at] ^ flip]) + der[at + 1 :]
            text = b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, base64.encodebytes(altered), label)
            with pytest.raises(CertificateError):
                read(text)


@pytest.mark.parametrize("attribute", [b"\x03", b"\x0a", b"\x0b"], ids=["name", "organization", "unit"])
def test_a_country_of_too_many_letters_is_refused_without_a_warning(attribute: bytes) -> None:
    """Found by the fuzzer: whoever sent such a certificate had the library write to the terminal."""
    country = node_certificate().der.replace(b"\x55\x04" + attribute, b"\x55\x04\x06")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert refusal(country) == "bad certificate"
        with pytest.raises(CertificateError):
            read_certificate(country)
    assert told == []


@given(st.binary(max_size=400))
def test_hostile_bytes_are_no_certificate(data: bytes) -> None:
    assert refusal(data) == "bad certificate"
    for pem in (data, b"-----BEGIN CERTIFICATE-----\n" + data):
        with pytest.raises(CertificateError):
            Authority(pem)
        with pytest.raises(CertificateError):
            read_request(pem)
