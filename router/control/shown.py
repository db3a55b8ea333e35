"""What a command shows to a control API behind TLS, and what it wants to see of the node (edge: files, sockets)."""

from __future__ import annotations

import ssl
import tempfile
import time
from functools import partial
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.request import HTTPSHandler, Request

from lattice.certificates import Authority, CertificateError, read_certificate
from lattice.errors import UntrustedError
from lattice.grants import Role
from lattice.stream_security import StreamSecurity
from lattice.types import Micros
from router.site.ca_dir import CA_CERTIFICATE_FILE
from router.site.key_file import KeyFileError, read_secret


class ShownError(Exception):
    """Files that cannot be shown; says which, and why."""


class Shown(HTTPSHandler):
    """urllib's https, with a certificate of the cluster's, to nodes of the cluster only."""

    def __init__(self, certificate: Path) -> None:
        """`certificate` has its key, and the CA's certificate, beside it. Raises `ShownError`."""
        key, ca = certificate.with_suffix(".key"), certificate.parent / CA_CERTIFICATE_FILE
        try:
            place = ca
            authority = Authority(ca.read_bytes())
            place = certificate
            ours = read_certificate(certificate.read_bytes())
            secret, _ = read_secret(key, "key")
            security = StreamSecurity(authority, ours, secret, Path(tempfile.gettempdir()))
        except KeyFileError as error:
            raise ShownError(str(error)) from None
        except ssl.SSLError as error:
            raise ShownError(f"{certificate}: {error.reason}; is {key} its key?") from None
        except (OSError, CertificateError) as error:
            said = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
            raise ShownError(f"{place}: {said}") from None
        super().__init__(context=security.client_context)
        self._connect = partial(_NodeConnection, authority=authority, context=security.client_context)

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(self._connect, req)


class _NodeConnection(HTTPSConnection):
    """Nobody but a node answers: any other certificate of the cluster would do for OpenSSL."""

    def __init__(self, host: str, *, authority: Authority, **given: Any) -> None:
        super().__init__(host, **given)
        self._authority = authority

    def connect(self) -> None:
        super().connect()
        shown = self.sock.getpeercert(binary_form=True)
        if not shown:
            raise UntrustedError("no certificate", "the node showed none")
        self._authority.judge(shown, Role.NODE, Micros(time.time_ns() // 1_000))
