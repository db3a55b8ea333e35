"""What a node and its workers say to each other, over a pair of Unix sockets. Pure.

    node → worker    Configure (a policy's text), Planned (what tables are made of), Masked (who is out of use),
                     Forget (purged responses), Drain
    worker → node    Ready, Observed (outcomes of attempts), Admitted (a trial of an endpoint),
                     Reported (an endpoint's load), Tried (how requests ended under a policy on trial), Counted,
                     Waiting (for how long requests have been unanswered)

A table is not sent but what it is made of: a worker compiles and plans as the node does, and the same inputs give the
same table (`router.decision`). Every message but Forget says all there is to know of its kind: only the newest matters.

`Observed` are numbered; a `Masked` says up to which number it knows: what a worker has ejected since, it does not lift.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from lattice.types import Endpoint

LENGTH_BYTES: Final = 4
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Beyond any policy; what is longer is no message of ours."""


class Configure(msgspec.Struct, frozen=True, tag=True):
    text: str
    trial: str = ""
    """If the policy is on trial: of what (`Judge.label`)."""
    number: int = 0
    """Of the trial."""


class Planned(msgspec.Struct, frozen=True, tag=True):
    """The arguments of `plan`, beside program and site."""

    levels: dict[str, int]
    saturation_ppm: dict[str, int]
    rtt_us: dict[str, int]
    now: int
    number: int = 0
    """Greater in every later one."""
    away_ppm: dict[str, int] = {}


class Masked(msgspec.Struct, frozen=True, tag=True):
    out: list[Endpoint]
    """Ejected, half open or on trial at the node."""
    seen: int
    suspected: list[Endpoint] = []
    """Those that are out on a suspicion alone."""


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Drop what is cached of these; both are patterns that the node has read already."""

    host: str
    path: str


class Drain(msgspec.Struct, frozen=True, tag=True):
    grace_us: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """It listens, and steers by that `Planned`."""

    number: int


class Outcomes(msgspec.Struct, frozen=True, array_like=True):
    """How one attempt went (see `steering.Router.observed`)."""

    region: str
    tier: str
    endpoint: Endpoint
    outcome: str
    latency_us: int


class Observed(msgspec.Struct, frozen=True, tag=True):
    number: int
    outcomes: list[Outcomes]


class Admitted(msgspec.Struct, frozen=True, tag=True):
    endpoint: Endpoint


class Reported(msgspec.Struct, frozen=True, tag=True):
    """An endpoint's word about itself, the newest."""

    region: str
    tier: str
    endpoint: Endpoint
    saturation_ppm: int


class Tried(msgspec.Struct, frozen=True, tag=True):
    """How requests ended that were decided under a policy on trial, in this order."""

    number: int
    """Of the trial (`Configure`)."""
    endings: list[tuple[str, str, int]]
    """See `steering.Judge.ended`."""
    without_route: list[tuple[str, str]] = []
    """See `steering.Judge.found_no_route`."""


class Waiting(msgspec.Struct, frozen=True, tag=True):
    """For how long the oldest request has waited at endpoints where that is too long: region, endpoint, microseconds.
    Said again and again while there are any, and once that there are none."""

    oldest: list[tuple[str, Endpoint, int]]


class Counted(msgspec.Struct, frozen=True, tag=True):
    counters: dict[str, int]
    """Since the worker began."""


ToWorker: TypeAlias = Configure | Planned | Masked | Forget | Drain
ToNode: TypeAlias = Ready | Observed | Admitted | Reported | Tried | Waiting | Counted

_ENCODER: Final = msgspec.json.Encoder()
_TO_WORKER: Final = msgspec.json.Decoder(ToWorker)
_TO_NODE: Final = msgspec.json.Decoder(ToNode)


def encode(message: ToWorker | ToNode) -> bytes:
    """With its length before it."""
    data = _ENCODER.encode(message)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def decode_to_worker(data: bytes) -> ToWorker:
    message: ToWorker = _TO_WORKER.decode(data)
    return message


def decode_to_node(data: bytes) -> ToNode:
    message: ToNode = _TO_NODE.decode(data)
    return message


class Deframer:
    """Bytes in, whole messages out, still encoded."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Raises ValueError for a length that no message of ours has."""
        self._rest += data
        whole: list[bytes] = []
        at = 0
        while len(self._rest) - at >= LENGTH_BYTES:
            length = int.from_bytes(self._rest[at : at + LENGTH_BYTES], "big")
            if length > MESSAGE_BYTES_MAX:
                raise ValueError(f"a message of {length} bytes")
            end = at + LENGTH_BYTES + length
            if len(self._rest) < end:
                break
            whole.append(bytes(self._rest[at + LENGTH_BYTES : end]))
            at = end
        del self._rest[:at]
        return whole
