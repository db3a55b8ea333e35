"""Which certificate a client gets, and that a file that cannot be used takes none away."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import Micros
from router.site.server_certificate import (
    ServerCertificate,
    ServerCertificateError,
    choose,
    read_server_certificate,
)
from router.site.tls_files import TlsFiles
from router.traffic.server_tls import ServerTls, ServerTlsError, handshake_fault

LABEL = st.sampled_from(["a", "b", "shop", "xn--bcher-kva"])
NAMES = st.lists(LABEL, min_size=2, max_size=4).map(".".join)
CERTIFICATES = st.lists(
    st.lists(NAMES | NAMES.map("*.{}".format), max_size=3).map(
        lambda names: ServerCertificate(tuple(names), Micros(0))
    ),
    min_size=1,
    max_size=4,
)


def write(directory: Path, ca: trustme.CA, *names: str, stem: str = "site") -> TlsFiles:
    """The files of a fresh certificate for these names, put in place whole."""
    issued = ca.issue_cert(*names)
    files = TlsFiles(directory / f"{stem}.crt", directory / f"{stem}.key")
    for path, content in (
        (files.chain, b"".join(blob.bytes() for blob in issued.cert_chain_pems)),
        (files.key, issued.private_key_pem.bytes()),
    ):
        path.with_suffix(".new").write_bytes(content)
        path.with_suffix(".new").chmod(0o600)
        path.with_suffix(".new").replace(path)
    return files


@given(NAMES, CERTIFICATES)
def test_the_certificate_fits_the_name_whenever_one_does(name: str, certificates: list[ServerCertificate]) -> None:
    def fits(certificate: ServerCertificate) -> int:
        """2 by the very name, 1 by a wildcard, which stands for the first label alone."""
        wild = any(
            sought.startswith("*.") and name.split(".")[1:] == sought[2:].split(".") for sought in certificate.names
        )
        return 2 if name in certificate.names else int(wild)

    best = max(map(fits, certificates))
    chosen = choose(name.upper(), certificates)
    assert fits(certificates[chosen]) == best
    assert chosen == ([fits(certificate) for certificate in certificates].index(best) if best else 0)
    assert choose(None, certificates) == 0


def test_a_certificate_says_its_names_and_its_end() -> None:
    issued = trustme.CA().issue_cert("Shop.Example.com", "*.example.org", "192.0.2.1")
    certificate = read_server_certificate(issued.cert_chain_pems[0].bytes())
    assert certificate.names == ("shop.example.com", "*.example.org")
    assert certificate.not_after > 0
    with pytest.raises(ServerCertificateError, match="no PEM certificate"):
        read_server_certificate(b"-----BEGIN JUNK-----\n")


def test_a_broken_renewal_leaves_the_last_good_certificate_and_a_good_one_replaces_it(tmp_path: Path) -> None:
    ca = trustme.CA()
    files = write(tmp_path, ca, "shop.test")
    tls = ServerTls([files])
    (before,) = tls.certificates
    assert tls.refresh() == []

    files.chain.write_text("half a certif")
    (found,) = tls.refresh()
    assert (found.ok, found.text) == (
        False,
        f"{files.chain}: no PEM certificate in it; the certificate that was in force stays",
    )
    assert tls.certificates[0] == before
    assert tls.refresh() == []  # said once

    write(tmp_path, ca, "shop.test", "new.test")
    (found,) = tls.refresh()
    assert found.ok
    assert found.text.startswith(f"{files.chain}: for shop.test, new.test until ")
    assert tls.certificates[0].names == ("shop.test", "new.test")
    assert [found.ok for found in tls.refresh(everything=True)] == [True]

    files.key.unlink()
    (found,) = tls.refresh()
    assert not found.ok
    assert "no such file" in found.text


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    ca = trustme.CA()
    files, other = write(tmp_path, ca, "a.test"), write(tmp_path, ca, "b.test", stem="other")

    def refused(match: str, files: TlsFiles) -> None:
        with pytest.raises(ServerTlsError, match=match):
            ServerTls([files])

    refused("a certificate and key do not belong|key values mismatch", TlsFiles(files.chain, other.key))
    refused("nowhere.crt: no such file", TlsFiles(tmp_path / "nowhere.crt", files.key))
    refused("nowhere.key: no such file", TlsFiles(files.chain, tmp_path / "nowhere.key"))
    files.key.chmod(0o644)
    refused("everyone on this machine can read the TLS key; chmod 600", files)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n")
    encrypted.chmod(0o600)
    refused("encrypted.key", TlsFiles(files.chain, encrypted))


def test_why_a_handshake_failed_is_a_few_words() -> None:
    fault = ssl.SSLError(1, "[SSL: NO_SHARED_CIPHER] no shared cipher (_ssl.c:1006)")
    fault.reason = "NO_SHARED_CIPHER"
    assert handshake_fault(fault) == "no shared cipher"
    assert handshake_fault(ssl.SSLEOFError(8, "EOF")) == "closed"
    assert handshake_fault(ConnectionResetError(104, os.strerror(104))) == "lost"
