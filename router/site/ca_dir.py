"""A directory with the cluster's CA: its key, its certificate, what it issued, and what it took back (edge).

::

    ca.key     the CA's private key: whoever has it can make nodes and operators; keep it off the sites
    ca.crt     its certificate, the same on every site
    ca.crl     what was revoked, the same on every site; made by the first `revoke`
    ca.issued  one line a certificate: serial, role, name, day it ends
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lattice.certificates import (
    ISSUED_DAYS,
    Authority,
    Certificate,
    CertificateError,
    Revocations,
    Role,
    date_text,
    issue,
    make_authority,
    revoke,
)
from lattice.identity import private_key_from
from lattice.types import Micros
from router.site.key_file import KeyFileError, read_secret, replace_file, write_secret

CA_KEY_FILE = "ca.key"
CA_CERTIFICATE_FILE = "ca.crt"
CA_REVOKED_FILE = "ca.crl"
CA_ISSUED_FILE = "ca.issued"
SERIAL_BYTES = 16


class CaError(Exception):
    """The CA cannot do that; the message says why and what to do. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Issued:
    serial: int
    role: str
    name: str
    until: str


class CaDir:
    """An existing CA."""

    def __init__(self, directory: Path) -> None:
        """Raises `CaError` when the certificate is missing or none of ours; the key is read when it is needed."""
        self.directory = directory
        try:
            self.authority = Authority((directory / CA_CERTIFICATE_FILE).read_bytes())
        except FileNotFoundError:
            raise CaError(
                f"{directory / CA_CERTIFICATE_FILE}: no such file; `edgelattice init` or `ca init` makes a CA"
            ) from None
        except (OSError, CertificateError) as error:
            raise CaError(f"{directory / CA_CERTIFICATE_FILE}: {_said(error)}") from None

    @classmethod
    def create(cls, directory: Path, cluster: str, now: Micros, entropy: Callable[[int], bytes] = os.urandom) -> CaDir:
        """Make a CA's key and certificate. Raises `CaError` rather than replace a file."""
        for name in (CA_KEY_FILE, CA_CERTIFICATE_FILE):
            if (directory / name).exists():
                raise CaError(f"{directory / name} exists, and nothing is replaced; choose another directory")
        key = private_key_from(entropy(64))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            replace_file(directory / CA_CERTIFICATE_FILE, make_authority(key, cluster, now).pem, 0o644)
            write_secret(directory / CA_KEY_FILE, key, f"edgelattice CA of {cluster}: makes its nodes and operators")
        except OSError as error:
            raise CaError(f"cannot write into {directory}: {error.strerror}") from None
        return cls(directory)

    @property
    def has_key(self) -> bool:
        return (self.directory / CA_KEY_FILE).exists()

    def issue(
        self,
        public_key: bytes,
        role: Role,
        name: str,
        now: Micros,
        days: int = ISSUED_DAYS,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> Certificate:
        """Certify a key, and note that it was. Raises `CaError`."""
        serial = int.from_bytes(entropy(SERIAL_BYTES), "big") >> 1 or 1
        try:
            certificate = issue(
                self.authority, self._key(), public_key=public_key, role=role, name=name, serial=serial, now=now,
                days=days,
            )  # fmt: skip
            with (self.directory / CA_ISSUED_FILE).open("a", encoding="utf-8") as file:
                file.write(f"{serial:032x} {role} {date_text(certificate.not_after).replace(' ', '_')} {name}\n")
        except (CertificateError, OSError) as error:
            raise CaError(_said(error)) from None
        return certificate

    def issued(self) -> tuple[Issued, ...]:
        """What was issued here, oldest first; lines that are no entries are passed over."""
        try:
            lines = (self.directory / CA_ISSUED_FILE).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return ()
        entries = []
        for line in lines:
            words = line.split(" ", 3)
            try:
                serial, role, until, name = words
                entries.append(Issued(int(serial, 16), role, name, until.replace("_", " ")))
            except ValueError:
                continue
        return tuple(entries)

    def revocations(self) -> Revocations | None:
        """What was revoked. Raises `CaError` for a damaged list."""
        path = self.directory / CA_REVOKED_FILE
        try:
            return self.authority.revocations(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, CertificateError) as error:
            raise CaError(f"{path}: {_said(error)}") from None

    def revoke(self, which: str, now: Micros) -> tuple[tuple[Issued, ...], Revocations]:
        """Take back every certificate of that name, or the one with that serial number. Raises `CaError`."""
        before = self.revocations()
        gone = before.serials if before else frozenset()
        matching = [issued for issued in self.issued() if which in {issued.name, f"{issued.serial:032x}"}]
        taken = tuple(issued for issued in matching if issued.serial not in gone)
        if not taken:
            known = "is revoked already" if matching else "was not issued here; `edgelattice ca show` lists what was"
            raise CaError(f"{which!r} {known}")
        try:
            listed = revoke(self.authority, self._key(), before, [issued.serial for issued in taken], now)
            replace_file(self.directory / CA_REVOKED_FILE, listed.pem, 0o644)
        except (CertificateError, OSError) as error:
            raise CaError(_said(error)) from None
        return taken, listed

    def _key(self) -> bytes:
        try:
            return read_secret(self.directory / CA_KEY_FILE, "CA's key")[0]
        except KeyFileError as error:
            raise CaError(str(error)) from None


def _said(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
