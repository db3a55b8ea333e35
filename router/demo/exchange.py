"""The client's side of HTTP/1.1, as little of it as the load generator needs.

`ResponseReader` is sans-IO; `exchange` is one request and its response on a stream. A failure is an `ExchangeError`
whose `kind` is what the load generator counts.
"""

from __future__ import annotations

import httptools
import trio

RECEIVE_BYTES = 65_536
BODY_BYTES_MAX = 1024 * 1024
"""The demo's regions answer in nine bytes; whatever else answers must not fill the memory."""


class ExchangeError(Exception):
    """A request got no usable answer. Whether it reached an application is not known."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind
        """"refused", "reset", "truncated" or "malformed"."""


class ResponseReader:
    """Bytes in, one response out. Interim (1xx) responses are skipped."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names in lower case; the last of equal names wins."""
        self.body = bytearray()
        self.complete = False
        self.reusable = False
        """The connection may carry another request."""
        self._headed = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Raises `ExchangeError` for bytes that are no HTTP response or a body that is too large."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise ExchangeError("malformed", str(error)) from error
        if len(self.body) > BODY_BYTES_MAX:
            raise ExchangeError("malformed", f"the body is longer than {BODY_BYTES_MAX} bytes")

    def end(self) -> None:
        """The peer closed. Completes a response whose end is the connection's; else raises `ExchangeError`."""
        if self.complete:
            return
        if self._headed and "content-length" not in self.headers and "transfer-encoding" not in self.headers:
            self.complete = True
        elif self._headed:
            raise ExchangeError("truncated", f"the connection closed after {len(self.body)} bytes of the body")
        else:
            raise ExchangeError("reset", "the connection closed before a response")

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._headed = self.status >= 200

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        if self._headed:
            self.complete = True
            self.reusable = self._parser.should_keep_alive()
        else:
            self.headers.clear()


async def exchange(stream: trio.abc.Stream, request: bytes) -> ResponseReader:
    """Sends one request and reads its whole response. Raises `ExchangeError`; the stream is then useless."""
    reader = ResponseReader()
    try:
        await stream.send_all(request)
        while not reader.complete:
            data = await stream.receive_some(RECEIVE_BYTES)
            if data:
                reader.feed(bytes(data))
            else:
                reader.end()
    except trio.BrokenResourceError as error:
        raise ExchangeError("truncated" if reader.status else "reset", str(error.__cause__ or "")) from error
    return reader


async def connect(host: str, port: int, source: str | None = None) -> trio.SocketStream:
    """A TCP connection between numeric addresses, from `source` if given. Raises `ExchangeError` ("refused")."""
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        if source is not None:
            await sock.bind((source, 0))
        await sock.connect((host, port))
    except OSError as error:
        sock.close()
        raise ExchangeError("refused", f"{host}:{port}: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
