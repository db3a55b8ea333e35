"""TLS towards endpoints that the policy declares TLS: who they must be, and who we say we are (edge).

Their certificate must be for the name that the policy gives, signed by an authority of `upstream.ca` (or the system's).
If they ask for one, they are shown the site's own: `upstream.certificate`, or else the node's.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from lattice.stream_security import StreamSecurity
from router.site.key_file import KeyFileError, read_private
from router.site.tls_files import TlsFiles
from router.traffic.server_tls import CIPHERS, PEM_BYTES_MAX


class UpstreamTlsError(Exception):
    """The files cannot be used; says which and why. What was in force stays."""


class UpstreamTls:
    """Made anew, as a whole, when a file changes. Connections that are open go on."""

    def __init__(self, ca: Path | None, shown: TlsFiles | None, own: StreamSecurity | None) -> None:
        """`own` is shown when there is no `shown`. Raises `UpstreamTlsError`."""
        self._ca = ca
        self._shown = shown
        self._own = own
        self._contexts: dict[str, ssl.SSLContext] = {}
        if ca is not None or shown is not None:  # to know now; the system's authorities take long to load
            self.context("http/1.1")

    def context(self, protocol: str) -> ssl.SSLContext:
        """For connections that will speak this (its ALPN name). Raises `UpstreamTlsError`."""
        found = self._contexts.get(protocol)
        if found is None:
            found = self._contexts[protocol] = self._new(protocol)
        return found

    def _new(self, protocol: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks names and authorities
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols([protocol])
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python 3.11.2 sets it: a loss would look like an end
        try:
            if self._ca is None:
                context.load_default_certs()
            else:
                self._ca.stat()
                context.load_verify_locations(self._ca)
        except (OSError, ssl.SSLError) as error:
            raise UpstreamTlsError(f"upstream.ca: {self._ca}: {_words(error)}") from None
        try:
            if self._shown is not None:
                self._shown.chain.stat()
                read_private(self._shown.key, "upstream key", PEM_BYTES_MAX)
                context.load_cert_chain(self._shown.chain, self._shown.key, password="")
            elif self._own is not None:
                self._own.show_in(context)
        except (KeyFileError, OSError, ValueError) as error:
            what = self._shown.chain if self._shown is not None else "the node's own"
            raise UpstreamTlsError(f"upstream.certificate: {what}: {_words(error)}") from None
        return context


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unusable").lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)
