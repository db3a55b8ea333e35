"""Clients that were seen lately: what was decided for them is looked up, not decided again.

A decision is a function of table, request and ejections. A client mostly asks the same host again, and often the same
path, so its last request is kept with the decision and with what that depends on: while the table is the same object,
the request is equal and nothing of it is ejected, so is the decision. Another path keeps the client's zone, which is a
third of a decision's cost. Remembering changes no answer; it is only ever faster. Not shared between threads.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from lattice.types import Endpoint
from router.decision.decide import Decision, Settled, settle
from router.decision.plan import RouteTable
from router.decision.request import Request
from router.policy.zones import Client, ZoneIndex, read_client

CLIENTS_MAX: Final = 16_384
"""About 10 MiB. When they are more, all are forgotten: a client that comes back costs one cold decision."""


class _Seen:
    """One client: where it is, and its last request."""

    __slots__ = ("addresses", "client", "request", "settled", "table", "zone")

    def __init__(self, addresses: ZoneIndex, client: Client | None, zone: str) -> None:
        self.addresses = addresses
        self.client = client
        self.zone = zone
        self.table: RouteTable | None = None
        self.request: Request | None = None
        self.settled: Settled | None = None


class SeenClients:
    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def decide(self, table: RouteTable, request: Request, ejected: AbstractSet[Endpoint]) -> Decision:
        """As `decide.decide`."""
        seen = self._seen.get(request.client)
        if seen is not None and seen.table is table and seen.request == request:
            settled = seen.settled
            assert settled is not None, "it came with the request"
            if not ejected:
                return settled.decision
            if (found := settled.under(ejected)) is not None:
                return found
        if seen is None or seen.addresses is not table.program.addresses:
            seen = self._see(table, request.client)
        decision, settled = settle(table, request, ejected, seen.client, seen.zone)
        if settled is not None:
            seen.table, seen.request, seen.settled = table, request, settled
        return decision

    def _see(self, table: RouteTable, text: str) -> _Seen:
        if len(self._seen) >= CLIENTS_MAX:
            self._seen.clear()
        addresses, client = table.program.addresses, read_client(text)
        seen = self._seen[text] = _Seen(addresses, client, addresses.zone_of(client))
        return seen
