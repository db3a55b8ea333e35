"""Listening sockets, and those who share them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from router.listening import HTTP, TCP, Listeners
from router.site.site_file import load_site_config
from tests.router.test_node import site_config


async def test_no_reload_lets_an_accept_wait_in_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one waits is said of the socket itself, for all processes that share it: a worker that came too late for
    a connection slept in its accept, and with it all requests it had taken."""
    path = site_config(tmp_path / "ams", "ams").path
    listen = 'listen = ["127.0.0.1:0"]'
    text = path.read_text().replace(f"[http]\n{listen}", f'[http]\n{listen}\nunix_listen = ["{tmp_path / "sock"}"]')
    path.write_text(f"{text}\n[tcp]\n{listen}\n")
    config = load_site_config(path)
    before = Listeners.open(config.http, config.tcp)
    shared = before.of(*HTTP, *TCP)
    assert len(shared) == 3
    would_wait: list[bool] = []
    original = socket.socket.dup

    def dup(self: socket.socket) -> socket.socket:
        copy = original(self)
        would_wait.extend(os.get_blocking(each.socket.fileno()) for each in shared)
        return copy

    monkeypatch.setattr(socket.socket, "dup", dup)
    after = Listeners.open(config.http, config.tcp, before)
    again = after.of(*HTTP, *TCP)
    before.close(kept=after)
    after.close()
    for listener in (*shared, *again):
        listener.socket.close()
    assert len(would_wait) == 2 * 3 * 3
    assert not any(would_wait)
