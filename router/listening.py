"""Listening sockets, bound before anything else starts, so that a taken port is one clear message (edge)."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from lattice.types import Endpoint
from router.errors import ListenError
from router.site.config_reader import endpoint_text

BACKLOG = 1_024


def listen(endpoint: Endpoint, key: str) -> socket.socket:
    """A listening socket; port 0 lets the kernel choose. `key` names the setting. Raises `ListenError`."""
    family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # [::] and 0.0.0.0 are two listeners
        listener.bind(endpoint)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise cannot_listen(endpoint, key, error) from None
    return listener


def listen_unix(path: Path, key: str) -> socket.socket:
    """A listening Unix socket, for its owner and group. One that nobody listens on any more is replaced, anything else
    is not. Raises `ListenError`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(os.fspath(path))
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        why = "its path is longer than a socket's can be" if error.errno is None else error.strerror
        raise ListenError(f"{key}: cannot listen on {path}: {why}; remove what is there, or choose another") from None
    return listener


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        if caller.connect_ex(os.fspath(path)) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink()


def cannot_listen(endpoint: Endpoint, key: str, error: OSError) -> ListenError:
    """What to tell whoever starts the node."""
    return ListenError(
        f"{key}: cannot listen on {endpoint_text(endpoint)}: {error.strerror}; "
        "stop whatever has the port, or choose another (0 lets the kernel choose)"
    )


def bound_endpoint(listener: socket.socket) -> Endpoint:
    """Where a bound socket really is."""
    host, port = listener.getsockname()[:2]
    return str(host), int(port)
