"""HTTP by IPv4, by IPv6, and over a Unix socket, for whoever stands in front of a node on the same machine."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from router.errors import ListenError
from router.listening import cannot_listen, listen_unix
from router.site.site_config import SiteConfig
from router.site.site_file import load_site_config
from tests.router.test_node import Backend, exchange, running, site_config, until

GET = "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"
PORT_RULE = """edition 1
region fra {{
  at 50 8
  endpoint {endpoint}
}}
route shop for "*" path "/**" {{
  rule admin {{
    when port in 9
    deny 403 "not here"
  }}
  primary any
}}
"""


def with_socket(directory: Path) -> SiteConfig:
    site_config(directory, "ams")
    text = (directory / "site.toml").read_text()
    (directory / "site.toml").write_text(
        text.replace(
            '[http]\nlisten = ["127.0.0.1:0"', '[http]\nunix_listen = ["http.sock"]\nlisten = ["127.0.0.1:0", "[::1]:0"'
        )
    )
    return load_site_config(directory / "site.toml")


async def ask(path: Path) -> bytes:
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(GET.encode())
        return b"".join([bytes(part) async for part in stream])


async def test_a_node_serves_on_a_unix_socket_and_takes_it_away_when_it_leaves(tmp_path: Path) -> None:
    path = tmp_path / "ams" / "http.sock"
    fra = Backend("fra")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(with_socket(tmp_path / "ams")) as ams:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert await ams.publish(PORT_RULE.format(endpoint=f"127.0.0.1:{fra.endpoint[1]}")) == 200

            async def answered() -> bool:
                return (await ask(path)).startswith(b"HTTP/1.1 200 ")

            await until(answered)
            assert (await ask(path)).endswith(b"fra here\n")
            assert [host for host, _ in ams.bound.http] == ["127.0.0.1", "::1"]
            for at in ams.bound.http:
                assert (await exchange(at, GET))[0] == 200
            assert (await ams.view())["counters"].get("proxy internal_error", 0) == 0
        regions.cancel_scope.cancel()
    assert not path.exists()


def test_only_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen_unix(path, "k"), pytest.raises(ListenError, match=r"k: cannot listen on .*/s: Address already in use"):
        listen_unix(path, "k")
    assert path.exists()  # left behind, as by a node that was killed
    listen_unix(path, "k").close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ListenError, match="File exists"):
        listen_unix(tmp_path / "file", "k")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(ListenError, match="longer than a socket's can be"):
        listen_unix(tmp_path / ("x" * 200), "k")


def test_a_unix_socket_is_not_mistaken_for_a_port() -> None:
    from router.traffic.exchange import _port_of
    from router.traffic.request_body import Client

    near, far = socket.socketpair()
    with near, far:
        assert _port_of(Client(near)) == 0


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        (errno.EADDRINUSE, "stop whatever has the port"),
        (errno.EADDRNOTAVAIL, "no interface here has that address"),
        (errno.EACCES, "ports below 1024 are for root"),
    ],
)
def test_why_nothing_can_listen_there_says_what_to_do(why: int, remedy: str) -> None:
    error = cannot_listen(("192.0.2.1", 80), "http.listen", OSError(why, os.strerror(why)))
    assert str(error).startswith(f"http.listen: cannot listen on 192.0.2.1:80: {os.strerror(why)}; {remedy}")
