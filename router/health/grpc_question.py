"""Whether a gRPC server says that it serves: `grpc.health.v1.Health/Check`, one unary call over HTTP/2. Sans-IO.

github.com/grpc/grpc/blob/master/doc/health-checking.md and PROTOCOL-HTTP2.md. The two messages have one field each::

    HealthCheckRequest   1: string service        HealthCheckResponse   1: enum status, SERVING = 1

so they are written and read here; h2 does the framing.
"""

from __future__ import annotations

from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError

from router.health.http_question import BODY_BYTES_MAX, BadAnswerError
from router.policy.probe import Probe

STATUSES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_SERVING: Final = 1
_PREFIX: Final = 5
"""Of a message: compressed or not, and its length in four bytes."""


class GrpcQuestion:
    """One call on a connection of its own."""

    def __init__(self, probe: Probe, host: str, scheme: str) -> None:
        self._answer = bytearray()
        self._headers: dict[str, str] = {}
        self._connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._connection.initiate_connection()
        stream = self._connection.get_next_available_stream_id()
        self._connection.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", scheme),
                (":path", "/grpc.health.v1.Health/Check"),
                (":authority", host),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("user-agent", "edgelattice-health"),
            ],
        )
        service = probe.target.encode("ascii")
        message = b"\x0a" + _varint(len(service)) + service if service else b""
        self._connection.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)

    def to_send(self) -> bytes:
        """What to say next, perhaps nothing."""
        return bytes(self._connection.data_to_send())

    def receive(self, data: bytes) -> tuple[bool, str] | None:
        """Whether all is well, and why, for people; None while more must come. Raises `BadAnswerError`."""
        if not data:
            raise BadAnswerError("connection closed before an answer")
        try:
            events = self._connection.receive_data(data)
        except (ProtocolError, UnicodeDecodeError) as error:
            raise BadAnswerError(f"not gRPC: {type(error).__name__}") from None
        for event in events:
            if self._ended(event):
                return self._judged()
        return None

    def _ended(self, event: Event) -> bool:
        match event:
            case ResponseReceived() | TrailersReceived():
                self._headers |= {str(name): str(value) for name, value in event.headers or ()}
            case DataReceived():
                self._answer += event.data or b""
                if len(self._answer) > BODY_BYTES_MAX:
                    raise BadAnswerError(f"an answer of more than {BODY_BYTES_MAX} bytes")
            case StreamReset():
                raise BadAnswerError(f"stream reset: {event.error_code}")
            case StreamEnded():
                return True
            case _:
                pass
        return False

    def _judged(self) -> tuple[bool, str]:
        if self._headers.get(":status") != "200":
            return False, f"HTTP status {self._headers.get(':status', 'missing')}"
        status = self._headers.get("grpc-status", "missing")
        if status != "0":
            message = self._headers.get("grpc-message", "")
            return False, f"grpc-status {status[:10]}{f': {message[:80]}' if message else ''}"
        serving = _first_field(_message(self._answer))
        return serving == _SERVING, STATUSES.get(serving, f"status {serving}")


def _message(data: bytearray) -> bytes:
    """The one message of an answer."""
    length = int.from_bytes(data[1:_PREFIX], "big")
    if len(data) < _PREFIX or data[0] or len(data) != _PREFIX + length:
        raise BadAnswerError("not gRPC: no plain message")
    return bytes(data[_PREFIX:])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _first_field(message: bytes) -> int:
    """The value of field 1 if it is a varint; 0, as protobuf says, when it is absent."""
    if not message:
        return 0
    if message[0] != 0x08 or not 2 <= len(message) <= 11:
        raise BadAnswerError("not gRPC: no health status")
    value = 0
    for place, byte in enumerate(message[1:]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value
    raise BadAnswerError("not gRPC: no health status")
