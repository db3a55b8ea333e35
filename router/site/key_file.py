"""Keys in files: hexadecimal text, one line, readable by nobody else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

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
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)  # of the very file that is read
            content = file.read(KEY_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise KeyFileError(f"{path}: no such {what} file; `edgelattice init` makes one") from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot read the {what}: {error.strerror}") from None
    if mode & stat.S_IROTH:
        raise KeyFileError(f"{path}: everyone on this machine can read the {what}; chmod 600 {path}")
    lines = [line.strip() for line in content.decode("latin-1").splitlines()]
    digits = "".join(line for line in lines if not line.startswith("#"))
    try:
        key = hex_bytes(KEY_BYTES, what)(digits)
    except NotExpected as wrong:
        # The content is never quoted: it may be most of a key.
        raise KeyFileError(f"{path}: expected the {wrong.expected}{f'; {wrong.hint}' if wrong.hint else ''}") from None
    group_reads = f"{path}: the group can read the {what}; chmod 600 {path}" if mode & stat.S_IRGRP else None
    return key, group_reads


def write_secret(path: Path, key: bytes, comment: str) -> None:
    """Write a key that only its owner can read. Raises `FileExistsError` rather than replace anything."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"# {comment}\n{key.hex()}\n")
