"""Rendezvous hashing: every node sends a client to the same endpoint, and nobody keeps a table.

Each endpoint is scored by a hash of the client and the endpoint; the greatest score wins (Thaler and Ravishankar,
"Using name-based mappings to increase hit rates", 1998). When an endpoint goes, only its own clients move, and they
spread evenly over the others; when it returns, the same clients come back.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmh3 import hash64


def ranking(client: bytes, endpoints: Sequence[bytes]) -> list[int]:
    """Indexes of `endpoints`, the one this client belongs to first, then where it goes if that one is lost.

    Equal scores (one in 2^64) keep the order given. Names must be distinct for the spread to be even.
    """
    scores = [hash64(client + name, 0, True, False)[0] for name in endpoints]  # seed, x64arch, signed
    return sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
