"""What a health probe asks of an endpoint, and which answer is well."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ProbeKind(Enum):
    """What a probe asks. To an endpoint that speaks TLS it does so over TLS."""

    HTTP = "http"
    """GET a path."""
    TCP = "tcp"
    """Connect, no more."""
    GRPC = "grpc"
    """grpc.health.v1.Health/Check."""


@dataclass(frozen=True, slots=True)
class StatusRange:
    """HTTP statuses, both ends included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Probe:
    """What is asked of an endpoint, and which answer is well."""

    kind: ProbeKind = ProbeKind.HTTP
    target: str = "/healthz"
    """The path to GET, or the gRPC service ("" is the whole server); "" for TCP."""
    statuses: tuple[StatusRange, ...] = (StatusRange(200, 299),)
    """Of HTTP alone."""
    containing: str = ""
    """What the body of an HTTP answer must contain somewhere in its first 16 KiB."""


USUAL_PROBE = Probe()
