"""Keys in files: hexadecimal text, one line, readable by nobody else."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from lattice.key_ring import KeyRing, KeyRingError, parse_ring, ring_text
from router.site.config_reader import NotExpected, hex_bytes

KEY_BYTES = 32
"""An Ed25519 private key (RFC 8032, 5.1.5) and a cluster key alike."""

KEY_FILE_BYTES_MAX = 4096
"""Well past any key with a comment: what is larger is another file named by mistake."""


class KeyFileError(Exception):
    """A key file cannot be used; the message names the file, what is wrong and the remedy. Never holds key material."""


def read_secret(path: Path, what: str) -> tuple[bytes, str | None]:
    """The 32 bytes in `path`, and a warning when the group may read them too.

    Lines that begin with `#` are comments. `what` names the key in messages ("cluster key"). Raises `KeyFileError`
    when the file is missing, readable by everyone, or not 64 hexadecimal digits.
    """
    content, warning = read_private(path, what)
    lines = [line.strip() for line in content.splitlines()]
    digits = "".join(line for line in lines if not line.startswith("#"))
    try:
        return hex_bytes(KEY_BYTES, what)(digits), warning
    except NotExpected as wrong:
        # The content is never quoted: it may be most of a key.
        raise KeyFileError(f"{path}: expected the {wrong.expected}{f'; {wrong.hint}' if wrong.hint else ''}") from None


def read_key_ring(path: Path) -> tuple[KeyRing, str | None]:
    """The cluster's keys in `path`, and a warning as of `read_secret`. Raises `KeyFileError`."""
    content, warning = read_private(path, "cluster key")
    try:
        return parse_ring(content), warning
    except KeyRingError as error:
        raise KeyFileError(f"{path}: no cluster key or key ring: {error}") from None


def write_key_ring(path: Path, ring: KeyRing, cluster: str) -> None:
    """Replace or make the file, whole or not at all, for its owner alone. Raises OSError with nothing changed."""
    replace_file(path, ring_text(ring, cluster).encode("ascii"), 0o600)


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that whoever reads it, and whoever pulls the plug, finds the old content or the new.

    Raises OSError with nothing changed.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # for its owner alone
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_private(path: Path, what: str, bytes_max: int = KEY_FILE_BYTES_MAX) -> tuple[str, str | None]:
    """The text of a file that is nobody else's business, and the warning of `read_secret`. Raises `KeyFileError`."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)  # of the very file that is read
            content = file.read(bytes_max + 1)
    except FileNotFoundError:
        raise KeyFileError(f"{path}: no such {what} file; `edgelattice init` makes one") from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot read the {what}: {error.strerror}") from None
    if mode & stat.S_IROTH:
        raise KeyFileError(f"{path}: everyone on this machine can read the {what}; chmod 600 {path}")
    group_reads = f"{path}: the group can read the {what}; chmod 600 {path}" if mode & stat.S_IRGRP else None
    return content.decode("latin-1"), group_reads


def write_secret(path: Path, key: bytes, comment: str) -> None:
    """Write a key that only its owner can read. Raises `FileExistsError` rather than replace anything."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"# {comment}\n{key.hex()}\n")
