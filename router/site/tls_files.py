"""Where a TLS certificate and its key lie. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """One certificate that the site shows."""

    chain: Path
    """PEM: the certificate itself, then those that lead to its authority."""
    key: Path
    """PEM, without a password; may be the same file."""
