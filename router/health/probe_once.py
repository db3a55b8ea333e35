"""One health probe: a connection of its own, over TLS if the endpoint speaks it, and a question (edge)."""

from __future__ import annotations

import errno
import os
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import trio

from lattice.types import MILLISECOND, SECOND, Endpoint
from router.health.grade import Sample
from router.health.grpc_question import GrpcQuestion
from router.health.http_question import BadAnswerError, HttpQuestion
from router.policy.probe import Probe, ProbeKind
from router.site.config_reader import endpoint_text

READ_BYTES = 4096
_OUR_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Out of descriptors, memory or local ports."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe saw."""

    ok: bool
    """The endpoint answered as the probe says it should, in time."""
    latency_us: int
    """From the first packet to the first byte of the answer, or to the failure; of a TCP probe, to the connection."""
    connect_failed: bool
    """Nobody listens there, or no way leads there."""
    detail: str
    """For people: "200", "503", "connected", "NOT_SERVING", "connection refused", "no answer in 200 ms"."""
    connect_us: int | None = None
    """How long the connection alone took: a round trip, as near as this node can tell. None without one."""
    ours: bool = False
    """This node could not even try (no descriptor, no port): evidence of nothing."""

    def sample(self) -> Sample:
        """What grading wants of it."""
        return Sample(self.ok, self.latency_us, self.connect_failed)


class _Question(Protocol):
    def to_send(self) -> bytes: ...
    def receive(self, data: bytes) -> tuple[bool, str] | None: ...


async def probe_once(
    endpoint: Endpoint,
    probe: Probe,
    timeout_us: int,
    *,
    tls: str | None = None,
    context: ssl.SSLContext | None = None,
    unix: Path | None = None,
) -> ProbeResult:
    """Ask one endpoint. Never raises for what it does; bounded in time and bytes.

    `tls` is the name its certificate must be for, checked against `context` or the system's authorities. `unix` is the
    socket by which the endpoint is reached, in place of its address.
    """
    started = trio.current_time()
    connect_us: int | None = None
    answered: float | None = None

    def result(ok: bool, detail: str) -> ProbeResult:
        until = trio.current_time() if answered is None else answered
        latency_us = round((until - started) * SECOND)
        return ProbeResult(ok, latency_us, connect_us is None, detail, connect_us)

    family = trio.socket.AF_INET6 if ":" in endpoint[0] else trio.socket.AF_INET
    family = family if unix is None else trio.socket.AF_UNIX
    try:
        sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    except OSError as error:
        return ProbeResult(False, 0, connect_failed=True, detail=f"this node: {error.strerror}", ours=True)
    with trio.move_on_after(timeout_us / SECOND), sock:
        try:
            await sock.connect(endpoint if unix is None else str(unix))
            connect_us = round((trio.current_time() - started) * SECOND)
            stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = trio.SocketStream(sock)
            if tls is not None:
                stream = _over_tls(trio.SocketStream(sock), tls, probe, context)
                await stream.do_handshake()
            if probe.kind is ProbeKind.TCP:
                return result(True, "connected")
            question = _question(probe, endpoint, tls)
            while True:
                if words := question.to_send():
                    await stream.send_all(words)
                piece = await stream.receive_some(READ_BYTES)
                answered = trio.current_time() if answered is None else answered
                if (judged := question.receive(bytes(piece))) is not None:
                    return result(*judged)
        except (OSError, trio.BrokenResourceError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and cause.errno in _OUR_ERRNOS:
                return ProbeResult(False, 0, connect_failed=True, detail=f"this node: {cause.strerror}", ours=True)
            return result(False, _why(cause or error))
        except BadAnswerError as error:
            return result(False, str(error))
    return result(False, f"no answer in {timeout_us // MILLISECOND} ms")


def _question(probe: Probe, endpoint: Endpoint, tls: str | None) -> _Question:
    host = tls or endpoint_text(endpoint)
    if probe.kind is ProbeKind.GRPC:
        return GrpcQuestion(probe, host, "http" if tls is None else "https")
    return HttpQuestion(probe, host)


def _over_tls(
    stream: trio.SocketStream, name: str, probe: Probe, context: ssl.SSLContext | None
) -> trio.SSLStream[trio.SocketStream]:
    h2 = probe.kind is ProbeKind.GRPC
    return trio.SSLStream(stream, context or _usual_context(h2), server_hostname=name, https_compatible=True)


@lru_cache(maxsize=2)
def _usual_context(h2: bool) -> ssl.SSLContext:
    """The system's authorities; loading them takes milliseconds, so once."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"] if h2 else ["http/1.1"])
    return context


def _why(error: BaseException) -> str:
    """The system's words for an error, without the address that trio puts before them."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {(error.reason or 'failed').lower().replace('_', ' ')}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return type(error).__name__
