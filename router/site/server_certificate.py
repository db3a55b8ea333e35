"""What a TLS server's certificate is for: the names it holds for, and until when (RFC 5280, RFC 6125). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from cryptography import x509

from lattice.types import SECOND, Micros


class ServerCertificateError(Exception):
    """These bytes hold no certificate; says why."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The first certificate of a PEM file: the server's own, before those that lead to its authority."""

    names: tuple[str, ...]
    """Lower case; a wildcard stands for exactly one label: `*.example.com`. Empty: it holds for no name."""
    not_after: Micros


def read_server_certificate(pem: bytes) -> ServerCertificate:
    """Raises `ServerCertificateError`."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ServerCertificateError("no PEM certificate in it") from None
    first = certificates[0]
    try:
        extension = first.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        names: list[str] = []
    except ValueError:
        raise ServerCertificateError("its extensions cannot be read") from None
    else:
        names = extension.value.get_values_for_type(x509.DNSName)
    not_after = Micros(int(first.not_valid_after_utc.astimezone(UTC).timestamp()) * SECOND)
    return ServerCertificate(tuple(name.lower().rstrip(".") for name in names), not_after)


def choose(asked: str | None, certificates: Sequence[ServerCertificate]) -> int:
    """Which certificate a client gets that asks for this name: one that says the very name, else one with a wildcard
    for it, else the first. Of equals the first."""
    if asked:
        name = asked.lower().rstrip(".")
        for sought in (name, "*." + name.partition(".")[2]):
            for index, certificate in enumerate(certificates):
                if sought in certificate.names:
                    return index
    return 0
