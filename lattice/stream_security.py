"""TLS 1.3 around stream frames, both ends showing a node's certificate (edge: files, sockets).

OpenSSL proves that the peer holds the key of its certificate, and that the cluster's CA signed it; `Authority.judge`
decides what the certificate is good for, by our own clock. Whether its key was taken back is for the driver to ask. No
session is ever
resumed (RFC 8446, 2.2): a resumed one would not show its certificate again.
"""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

import trio

from lattice.certificates import Authority, Certificate, private_pem
from lattice.errors import UntrustedError, WireError
from lattice.grants import Role
from lattice.types import Micros, NodeId

TlsStream = trio.SSLStream[trio.SocketStream]


class StreamSecurity:
    """A node's certificate and what it holds others' against. Made anew when a file changes; open streams go on."""

    def __init__(
        self,
        authority: Authority,
        certificate: Certificate,
        private_key: bytes,
        key_directory: Path,
    ) -> None:
        """`key_directory` is where the private key is written for the moment that OpenSSL reads it. Raises `OSError`
        if it cannot be, and `ssl.SSLError` if key and certificate do not belong together."""
        self.authority = authority
        self.certificate = certificate
        self._private_key = private_key
        self._key_directory = key_directory
        self._server = self._context(ssl.PROTOCOL_TLS_SERVER)
        self._client = self._context(ssl.PROTOCOL_TLS_CLIENT)
        self._server.num_tickets = 0

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # a node is its key; addresses change
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET
        context.load_verify_locations(cadata=self.authority.pem.decode("ascii"))
        self.show_in(context)
        return context

    def show_in(self, context: ssl.SSLContext) -> None:
        """Make `context` show the node's certificate. Raises `OSError`, also as `ssl.SSLError`."""
        with tempfile.NamedTemporaryFile(dir=self._key_directory, prefix=".tls-") as file:  # for its owner alone
            file.write(self.certificate.pem + private_pem(self._private_key))
            file.flush()
            context.load_cert_chain(file.name)

    async def accept(self, stream: trio.SocketStream, now: Micros) -> tuple[TlsStream, NodeId]:
        """The stream inside and which node is at its other end. Raises `WireError` or `UntrustedError`."""
        inside, shown = await self._shake(trio.SSLStream(stream, self._server, server_side=True), Role.NODE, now)
        return inside, shown.node

    async def welcome(self, stream: trio.SocketStream, now: Micros) -> tuple[TlsStream, Certificate]:
        """As `accept`, for whoever has a certificate of the cluster, in whatever role."""
        return await self._shake(trio.SSLStream(stream, self._server, server_side=True), None, now)

    @property
    def client_context(self) -> ssl.SSLContext:
        """For others that call, and judge the certificate that they are shown themselves."""
        return self._client

    async def connect(self, stream: trio.SocketStream, now: Micros) -> tuple[TlsStream, NodeId]:
        """As `accept`, from the end that called."""
        inside, shown = await self._shake(trio.SSLStream(stream, self._client), Role.NODE, now)
        return inside, shown.node

    async def _shake(self, stream: TlsStream, role: Role | None, now: Micros) -> tuple[TlsStream, Certificate]:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            raise tls_error(error) from None
        shown = stream.getpeercert(binary_form=True)
        if not shown:
            raise UntrustedError("no certificate", "the peer showed none")
        return stream, self.authority.judge(shown, role, now)


def tls_error(error: trio.BrokenResourceError) -> WireError:
    """What went wrong under a TLS stream, in the library's few words: fit to be a counter's name."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return WireError(f"tls: {cause.verify_message}", "by OpenSSL")
    if isinstance(cause, ssl.SSLError) and cause.reason:
        return WireError(f"tls: {cause.reason.lower().replace('_', ' ')}", cause.strerror or "")
    return WireError("tls: broken off", type(cause).__name__)
