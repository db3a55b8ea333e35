"""A directory with the cluster's CA: its key, its certificate, what it issued, and what it took back (edge).

::

    ca.key      the CA's private key: whoever has it can make nodes and operators; keep it off the sites
    ca.crt      its certificate, the same on every site
    ca.revoked  the keys that were taken back, a signed statement a line; a node that is given it tells all others
    ca.issued   one line a certificate: serial, role, day it ends, public key, name
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lattice.certificates import (
    ISSUED_DAYS,
    Authority,
    Certificate,
    CertificateError,
    date_text,
    issue,
    make_authority,
)
from lattice.errors import LatticeError, MalformedError
from lattice.grants import Grants, Revocation, Role, sign_revocation
from lattice.identity import Ed25519Signer, Ed25519Verifier, node_id_of, private_key_from
from lattice.types import CLOCK_UNSET_BEFORE_US, Micros
from router.site.key_file import KeyFileError, read_secret, replace_file, write_secret

CA_KEY_FILE = "ca.key"
CA_CERTIFICATE_FILE = "ca.crt"
CA_REVOKED_FILE = "ca.revoked"
REVOKED_BYTES_MAX = 4 * 1024 * 1024
"""Ten thousand statements, and room."""
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
    public_key: bytes


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
        except OSError as error:
            raise CaError(f"{directory / CA_CERTIFICATE_FILE}: {(error.strerror or str(error)).lower()}") from None
        except CertificateError as error:
            raise CaError(f"{directory / CA_CERTIFICATE_FILE}: {error}") from None

    @classmethod
    def create(cls, directory: Path, cluster: str, now: Micros, entropy: Callable[[int], bytes] = os.urandom) -> CaDir:
        """Make a CA's key and certificate. Raises `CaError` rather than replace a file."""
        for name in (CA_KEY_FILE, CA_CERTIFICATE_FILE):
            if (directory / name).exists():
                raise CaError(f"{directory / name} exists, and nothing is replaced; choose another directory")
        if now < CLOCK_UNSET_BEFORE_US:
            raise CaError(f"this machine's clock says {date_text(now)}: set it first")
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
        """Certify a key, and note that it was. Raises `CaError`; a key that was taken back is never certified again.

        By a clock that is behind the CA's beginning none is: it would be over before it is carried to its site.
        """
        if now < self.authority.not_before:
            made = date_text(self.authority.not_before)
            raise CaError(f"this machine's clock says {date_text(now)}, and the CA was made on {made}: set it first")
        if node_id_of(public_key) in self.revoked():
            raise CaError(f"the key of {name!r} was revoked for good: make a new one (a site's is NAME.state/node.key)")
        if public_key == self.authority.public_key:
            raise CaError(f"{name!r} would have the CA's own key, which signs certificates and nothing else")
        serial = int.from_bytes(entropy(SERIAL_BYTES), "big") >> 1 or 1
        try:
            certificate = issue(
                self.authority, self._key(), public_key=public_key, role=role, name=name, serial=serial, now=now,
                days=days,
            )  # fmt: skip
            until = date_text(certificate.not_after).replace(" ", "_")
            with (self.directory / CA_ISSUED_FILE).open("a", encoding="utf-8") as file:
                file.write(f"{serial:032x} {role} {until} {public_key.hex()} {name}\n")
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
            try:
                serial, role, until, key, name = line.split(" ", 4)
                entries.append(Issued(int(serial, 16), role, name, until.replace("_", " "), bytes.fromhex(key)))
            except ValueError:
                continue
        return tuple(entries)

    def revoked(self) -> frozenset[bytes]:
        """Whose keys were taken back: node and author ids. Raises `CaError` for a damaged list."""
        path = self.directory / CA_REVOKED_FILE
        grants = Grants(self.authority.public_key, Ed25519Verifier(self.authority.cluster))
        try:
            return frozenset(grants.open_revocation(data).key for data in read_revoked(path))
        except (OSError, LatticeError) as error:
            raise CaError(f"{path}: {_said(error)}") from None

    def find(self, which: str) -> tuple[Issued, ...]:
        """Every certificate of that name, the one with that serial number, or whoever has that public key (64 hex
        digits) although it was never issued one. Raises `CaError`."""
        found = tuple(one for one in self.issued() if which in {one.name, f"{one.serial:032x}", one.public_key.hex()})
        if found:
            return found
        if re.fullmatch(r"[0-9a-f]{64}", which):
            return (Issued(0, Role.OPERATOR, "", "", bytes.fromhex(which)),)
        raise CaError(f"{which!r} was not issued here; `edgelattice ca show` lists what was")

    def revoke(self, public_key: bytes, seq: int = 0, op: bytes = bytes(16)) -> Revocation:
        """Take a key back, for good; of an author what led up to op `seq` goes on counting. Raises `CaError`."""
        path = self.directory / CA_REVOKED_FILE
        revocation = sign_revocation(
            Ed25519Signer(self._key(), self.authority.cluster), node_id_of(public_key), seq, op
        )
        try:
            lines = [*read_revoked(path), revocation.data]
            replace_file(path, "".join(f"{data.hex()}\n" for data in lines).encode("ascii"), 0o644)
        except (LatticeError, OSError) as error:
            raise CaError(f"{path}: {_said(error)}") from None
        return revocation

    def _key(self) -> bytes:
        try:
            return read_secret(self.directory / CA_KEY_FILE, "CA's key")[0]
        except KeyFileError as error:
            raise CaError(str(error)) from None


def read_revoked(path: Path) -> tuple[bytes, ...]:
    """The statements in a list of revoked keys, unchecked; none when there is no such file.

    Raises OSError, or `MalformedError` with the line that is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(REVOKED_BYTES_MAX + 1)
    except FileNotFoundError:
        return ()
    if len(content) > REVOKED_BYTES_MAX:
        raise MalformedError("oversized", f"more than {REVOKED_BYTES_MAX} bytes")
    statements = []
    for number, line in enumerate(content.decode("latin-1").splitlines(), 1):
        try:
            statements.append(bytes.fromhex(line))
        except ValueError:
            raise MalformedError("bad shape", f"line {number} is not hexadecimal digits") from None
    return tuple(statement for statement in statements if statement)


def _said(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
