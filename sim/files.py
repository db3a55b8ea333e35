"""The files that a scenario names: the one place where it is said why one cannot be read."""

from __future__ import annotations

import errno
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sim.quantities import shown

NAME_BYTES_MAX: Final = 255
"""Of one part of a path, on Linux."""
_REMEDIES: Final[Mapping[int | None, str]] = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "there is no such file",
    errno.EACCES: "permission denied; let whoever runs this read it",
    errno.ENAMETOOLONG: f"a file's name has at most {NAME_BYTES_MAX} bytes; give its path, not what is in it",
    errno.ELOOP: "symbolic links point at each other in a circle",
}


class Unreadable(ValueError):  # noqa: N818  (what it is about, as a sentence has it)
    """A file cannot be read; `reason` says why and what to do, the message whose it is, too."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{named(path)}: {reason}")
        self.reason = reason


def is_file(path: Path) -> bool:
    """Whether there is a file of that name. No name is too long, and no directory too private, to ask:
    `Path.is_file` raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_directory(path: Path) -> bool:
    """As `is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def content(path: Path) -> bytes:
    """All of a file. Raises `Unreadable`; a pipe or a device, which may never end, is not read."""
    if "\0" in str(path):
        raise Unreadable(path, "a file's name has no NUL byte in it")
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise Unreadable(path, "is a directory; name a file in it")
        if not stat.S_ISREG(kind):
            raise Unreadable(path, "is a pipe or a device; name a file")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(path, _REMEDIES.get(error.errno, (error.strerror or str(error)).lower())) from None


def named(path: str | Path) -> str:
    """A path for a message: never with what a terminal would obey, and cut when it is no path at all."""
    written = str(path)
    return written if written.isprintable() and len(written) <= NAME_BYTES_MAX else shown(written)
