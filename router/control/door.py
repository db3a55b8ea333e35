"""The control API behind mutual TLS: whoever calls shows a certificate of the cluster's CA (edge)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from lattice.errors import UntrustedError, WireError
from lattice.stream_security import StreamSecurity, TlsStream
from lattice.types import Micros, NodeId
from router.control.callers import Caller

HANDSHAKE_SECONDS: Final = 5


class Door:
    """Of one node, whose certificate may be renewed and whose peers' keys may be taken back while it runs."""

    def __init__(
        self, security: Callable[[], StreamSecurity], is_revoked: Callable[[NodeId], bool], now: Callable[[], Micros]
    ) -> None:
        self._security = security
        self._is_revoked = is_revoked
        self._now = now

    async def open(self, stream: trio.SocketStream) -> tuple[TlsStream, Caller]:
        """The stream inside, and who is at its other end. Raises `LatticeError`; `stream` is to be closed then."""
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                inside, certificate = await self._security().welcome(stream, self._now())
        except trio.TooSlowError:
            raise WireError("tls: too slow", f"no handshake within {HANDSHAKE_SECONDS} s") from None
        if self._is_revoked(certificate.node):
            raise UntrustedError("certificate revoked", f"{certificate.role} {certificate.name}")
        return inside, Caller(certificate.role, certificate.name)
