"""What keeps a node from starting, said for whoever starts it."""

from __future__ import annotations


class StartError(Exception):
    """The node cannot run here; the message says what is in the way and what to do. What it had opened is closed."""


class ListenError(StartError):
    """An address cannot be listened on."""
