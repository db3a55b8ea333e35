"""TLS towards clients: several certificates by the name that is asked for (SNI), renewed while the node runs (edge).

Every handshake begins in one *front* context, which lives as long as the node and therefore keeps the keys of its
session tickets: who was here before resumes (RFC 8446, 2.2), whatever certificate was renewed meanwhile. As soon as the
client's hello has been read, the context of the certificate it asks for takes the front's place (SSL_set_SSL_CTX).

A file that cannot be used changes nothing: the certificate that was in force stays, and who calls `refresh` is told.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lattice.certificates import date_text
from router.site.key_file import KeyFileError, read_private
from router.site.server_certificate import (
    ServerCertificate,
    ServerCertificateError,
    choose,
    read_server_certificate,
)
from router.site.tls_files import TlsFiles

PEM_BYTES_MAX: Final = 256 * 1024
"""Of a file with a chain or a key: some hundred certificates."""
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2, those with forward secrecy and authenticated encryption (RFC 9325, 4.2); TLS 1.3 has no others."""


class ServerTlsError(Exception):
    """A certificate's files cannot be used together; says which and why. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What `refresh` found."""

    text: str
    ok: bool


class ServerTls:
    """The certificates of one site's TLS listeners. `context` is what listeners wrap their sockets in."""

    def __init__(
        self,
        files: Sequence[TlsFiles],
        minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        protocols: Sequence[str] = ("http/1.1",),
    ) -> None:
        """`protocols` are offered by ALPN, most wanted first. Raises `ServerTlsError`."""
        assert files, "a TLS listener shows a certificate"
        self._files = tuple(files)
        self._minimum = minimum
        self._protocols = list(protocols)
        self._stamps = [_stamp(each) for each in self._files]
        loaded = [self._load(each) for each in self._files]
        self._certificates = [certificate for certificate, _ in loaded]
        self._contexts = [context for _, context in loaded]
        self.context = self._new_context()
        self.context.sni_callback = self._take_name

    @property
    def certificates(self) -> Sequence[ServerCertificate]:
        """Those in force, in the order of the site file."""
        return self._certificates

    def refresh(self, *, everything: bool = False) -> list[Refreshed]:
        """Load what has changed since the last look, or everything. A few stat calls when nothing has."""
        found = []
        for index, files in enumerate(self._files):
            stamp = _stamp(files)
            if stamp == self._stamps[index] and not everything:
                continue
            self._stamps[index] = stamp
            try:
                self._certificates[index], self._contexts[index] = self._load(files)
            except ServerTlsError as error:
                found.append(Refreshed(f"{error}; the certificate that was in force stays", ok=False))
            else:
                certificate = self._certificates[index]
                names = ", ".join(certificate.names) or "no name"
                found.append(Refreshed(f"{files.chain}: for {names} until {date_text(certificate.not_after)}", ok=True))
        return found

    def _take_name(self, shaking: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        shaking.context = self._contexts[choose(name, self._certificates)]
        if isinstance(shaking, ssl.SSLSocket):
            shaking.server_hostname = name  # a client's sockets have it from the start, a server's nowhere

    def _load(self, files: TlsFiles) -> tuple[ServerCertificate, ssl.SSLContext]:
        place = files.chain
        context = self._new_context()
        try:
            with files.chain.open("rb") as file:
                certificate = read_server_certificate(file.read(PEM_BYTES_MAX))
            place = files.key
            place.stat()
            read_private(files.key, "TLS key", PEM_BYTES_MAX)
            context.load_cert_chain(files.chain, files.key, password=_no_password)
        except _EncryptedError:
            raise ServerTlsError(f"{files.key}: the key is encrypted; write it without a password, chmod 600") from None
        except ssl.SSLError as error:
            why = (error.reason or "unusable").lower().replace("_", " ")
            raise ServerTlsError(f"{files.chain} with {files.key}: {why}") from None
        except KeyFileError as error:
            raise ServerTlsError(str(error)) from None
        except OSError as error:
            raise ServerTlsError(f"{place}: {(error.strerror or 'cannot be read').lower()}") from None
        except ServerCertificateError as error:
            raise ServerTlsError(f"{place}: {error}") from None
        return certificate, context

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._minimum
        context.set_ciphers(CIPHERS)
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python 3.11.2 sets it: a loss would look like an end
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(self._protocols)
        return context


class _EncryptedError(Exception):
    """OpenSSL asks for a password; it would otherwise ask the terminal."""


def _no_password() -> str:
    raise _EncryptedError


def _stamp(files: TlsFiles) -> tuple[tuple[int, int, int], ...]:
    """Changes when a file does; a missing one is a change too."""
    stamps = []
    for path in (files.chain, files.key):
        try:
            found = path.stat()
        except OSError:
            stamps.append((0, 0, 0))
        else:
            stamps.append((found.st_mtime_ns, found.st_ino, found.st_size))
    return tuple(stamps)


def name_asked_for(sock: socket.socket) -> str:
    """The SNI of a client's handshake, in lower case; "" without one, and without TLS."""
    return (sock.server_hostname or "").lower() if isinstance(sock, ssl.SSLSocket) else ""


def handshake_fault(error: OSError) -> str:
    """Why a handshake failed, in OpenSSL's few words or ours: fit to be a counter's name."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}".lower()
    if isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING":
        return "closed"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return "lost"
