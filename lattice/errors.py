"""What can go wrong in the lattice, and whose fault it is.

::

    LatticeError
    ├── MalformedError       bytes that are not what they claim to be        (the peer's fault)
    │   └── WireError        a whole frame was refused, with a counted reason
    ├── UntrustedError       well-formed, but not signed by one who may      (the peer's or the author's fault)
    └── OpError              a policy op that the apply pipeline refused     (the author's fault)

Every one of these is raised before anything changed. Our own mistakes are assertions.
"""

from __future__ import annotations


class LatticeError(Exception):
    """The root of the tree above. `reason` is short, constant and fit to be a counter's name."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class MalformedError(LatticeError):
    """Bytes that do not parse, or parse to the wrong shape. State is unchanged."""


class WireError(MalformedError):
    """A frame refused at the door. State is unchanged."""


class UntrustedError(LatticeError):
    """A signature that fails, or a signer without the right. State is unchanged."""


class OpError(LatticeError):
    """A policy op that a step of the apply pipeline refused. State is unchanged."""
