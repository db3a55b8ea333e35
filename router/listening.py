"""Listening sockets, bound before anything else starts, so that a taken port is one clear message (edge).

Nobody may wait in an accept. Whether one waits is said of the socket, not of the descriptor: all who have a duplicate
share it, other processes too. Python's `dup` says it anew, as of the original; so originals must not wait either.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import trio

from lattice.types import Endpoint
from router.errors import ListenError
from router.site.config_reader import endpoint_text
from router.site.site_config import HttpPart, TcpPart

BACKLOG = 1_024


Address: TypeAlias = Endpoint | Path


class Listeners:
    """The sockets by which users come, for each key in the order of the site file; owned by this."""

    def __init__(self, opened: Mapping[str, Sequence[tuple[Address, socket.socket]]]) -> None:
        self._opened = opened

    @classmethod
    def open(cls, http: HttpPart, tcp: TcpPart, before: Listeners | None = None) -> Listeners:
        """As these parts say. An address where `before` listens too is the same socket, so that nobody who waits there
        is refused. Raises `ListenError`; then nothing is open that was not."""
        held = [each for opened in before._opened.values() for each in opened] if before is not None else []
        opened: dict[str, list[tuple[Address, socket.socket]]] = {}
        ours = cls(opened)
        try:
            for key, addresses in _wanted(http, tcp):
                for address in addresses:
                    same = next((each for each in held if each[0] == address), None)
                    if same is not None:
                        held.remove(same)  # two of port 0 are two sockets
                    opened.setdefault(key, []).append((address, same[1].dup() if same else _open(address, key)))
        except BaseException:
            ours.close(kept=before)
            raise
        return ours

    def close(self, kept: Listeners | None = None) -> None:
        """Who connects is refused from now on, but where `kept` listens too. Paths are removed. May be called twice."""
        stays = set() if kept is None else {address for opened in kept._opened.values() for address, _ in opened}
        for opened in self._opened.values():
            for address, listener in opened:
                listener.close()
                if isinstance(address, Path) and address not in stays:
                    address.unlink(missing_ok=True)
        self._opened = {}

    def bound(self, *keys: str) -> tuple[Endpoint, ...]:
        """Where the TCP sockets of these keys really are."""
        listening = [listener for key in keys for _, listener in self._opened.get(key, ())]
        return tuple([bound_endpoint(each) for each in listening if each.family != socket.AF_UNIX])

    def of(self, *keys: str) -> list[trio.SocketListener]:
        """The sockets of these keys for a server of its own, which closes them."""
        sockets = [listener.dup() for key in keys for _, listener in self._opened.get(key, ())]
        return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in sockets]


HTTP: Final = "http.listen", "http.unix_listen"
HTTPS: Final = ("http.tls_listen",)
TCP: Final = ("tcp.listen",)
TCP_TLS: Final = ("tcp.tls_listen",)


def _wanted(http: HttpPart, tcp: TcpPart) -> Iterable[tuple[str, tuple[Address, ...]]]:
    yield HTTP[0], http.listen
    yield HTTP[1], http.unix_listen
    yield HTTPS[0], http.tls_listen
    yield TCP[0], tcp.listen
    yield TCP_TLS[0], tcp.tls_listen


def _open(address: Address, key: str) -> socket.socket:
    return listen_unix(address, key) if isinstance(address, Path) else listen(address, key)


def listen(endpoint: Endpoint, key: str) -> socket.socket:
    """A listening socket; port 0 lets the kernel choose. `key` names the setting. Raises `ListenError`."""
    family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setblocking(False)
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
    listener.setblocking(False)
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
    remedy = "stop whatever has the port, or choose another (0 lets the kernel choose)"
    if error.errno == errno.EADDRNOTAVAIL:
        remedy = "no interface here has that address: name one that is here, or listen on all (0.0.0.0 or [::])"
    elif error.errno == errno.EACCES:
        remedy = "ports below 1024 are for root, or for whoever has CAP_NET_BIND_SERVICE: grant it, or choose another"
    return ListenError(f"{key}: cannot listen on {endpoint_text(endpoint)}: {error.strerror}; {remedy}")


def bound_endpoint(listener: socket.socket) -> Endpoint:
    """Where a bound socket really is."""
    host, port = listener.getsockname()[:2]
    return str(host), int(port)
