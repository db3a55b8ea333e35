"""One region's application, as small as an HTTP/1.1 server can be: it says which region answers.

`python -m router.demo.backend --region fra --listen 127.1.0.1:0 --until-stdin-closes` prints one line when it
listens: `ready region=fra listen=127.1.0.1:41001`. A port that was just killed can be taken again at once.
"""

from __future__ import annotations

import sys
from functools import partial

import click
import httptools
import trio

from router.demo.processes import until_stdin_closes

RECEIVE_BYTES = 65_536
BACKLOG = 1_024
HEALTH_PATH = b"/healthz"


class Connection:
    """Sans-IO: request bytes in, response bytes out, in order, pipelined or not."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._parser = httptools.HttpRequestParser(self)
        self._out = bytearray()
        self._target = b""
        self.closing = False
        """After what `receive` returned, close."""

    def receive(self, data: bytes) -> bytes:
        """What to send now, perhaps nothing yet. Malformed bytes get a 400 and the connection is to be closed."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._respond(b"400 Bad Request", b"malformed request\n", keep_alive=False)
        out, self._out = bytes(self._out), bytearray()
        return out

    def _respond(self, status: bytes, body: bytes, keep_alive: bool) -> None:
        self.closing = self.closing or not keep_alive
        self._out += b"HTTP/1.1 %b\r\nX-Region: %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%b\r\n" % (
            status,
            self._region.encode("ascii"),
            len(body),
            b"" if keep_alive else b"Connection: close\r\n",
        )
        if self._parser.get_method() != b"HEAD":
            self._out += body

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._target = b""

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_message_complete(self) -> None:
        body = b"ok\n" if self._target.partition(b"?")[0] == HEALTH_PATH else self._region.encode("ascii") + b" here\n"
        self._respond(b"200 OK", body, self._parser.should_keep_alive())


async def serve(region: str, stream: trio.abc.Stream) -> None:
    """Answers one connection until the peer, or HTTP, ends it."""
    connection = Connection(region)
    try:
        async with stream:
            while not connection.closing and (data := await stream.receive_some(RECEIVE_BYTES)):
                if out := connection.receive(bytes(data)):
                    await stream.send_all(out)
    except trio.BrokenResourceError:
        pass  # the peer has gone: nobody is left to tell


async def _main(region: str, host: str, port: int, tethered: bool) -> None:
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)  # sets SO_REUSEADDR
    host, port = listeners[0].socket.getsockname()[:2]
    async with trio.open_nursery() as nursery:
        if tethered:
            nursery.start_soon(until_stdin_closes, nursery.cancel_scope)
        click.echo(f"ready region={region} listen={host}:{port}")
        sys.stdout.flush()
        await trio.serve_listeners(partial(serve, region), listeners)


@click.command(help=__doc__)
@click.option("--region", required=True)
@click.option("--listen", required=True, metavar="HOST:PORT")
@click.option("--until-stdin-closes", is_flag=True, help="Leave when standard input ends.")
def main(region: str, listen: str, until_stdin_closes: bool) -> None:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise click.BadParameter(f"{listen!r} is not HOST:PORT, for example 127.1.0.1:0", param_hint="--listen")
    try:
        trio.run(_main, region, host, int(port), until_stdin_closes)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {listen}: {error.strerror}") from error


if __name__ == "__main__":
    main()
