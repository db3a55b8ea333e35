"""What a change of policy would move, and what a policy would have done with recorded traffic."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from lattice.types import SECOND
from router.decision.access_log import Recorded, Unreadable
from router.decision.decide import decide
from router.decision.nearby import location_at
from router.decision.plan import RouteTable
from router.decision.program import Program
from router.decision.proofs import kinds_of_requests
from router.decision.request import Request
from router.decision.scenario_run import users_of
from router.policy.zones import read_client

UNREADABLE_SHOWN_MAX: Final = 5
SYNTHETIC_MAX: Final = 50_000
"""Requests made up for a comparison, of all kinds together: some seconds."""
USERS_MAX: Final = 1_000
"""Users of one kind: the share of them that moves is known to 3 % or so."""
STRETCHES_MAX: Final = 4_096
_MINUTE_US: Final = 60 * SECOND


class Timeline:
    """A policy's tables over time: planned once for each stretch between two edges of its windows."""

    def __init__(self, planned: Callable[[int], RouteTable], now_us: int, *, fixed: bool = False) -> None:
        """`now_us` is when what says no time is decided; everything, when `fixed`."""
        self._planned, self._now_us, self._fixed = planned, now_us, fixed
        self._starts: list[int] = []
        self._tables: list[RouteTable] = []

    def at(self, moment_us: int | None) -> RouteTable:
        if moment_us is None or self._fixed:
            moment_us = self._now_us
        place = bisect_right(self._starts, moment_us) - 1
        if place >= 0:
            until = self._tables[place].valid_until
            if until is None or moment_us < until:
                return self._tables[place]
        if len(self._starts) >= STRETCHES_MAX:
            self._starts, self._tables, place = [], [], -1
        start = moment_us - moment_us % _MINUTE_US  # windows open and close on whole minutes
        self._starts.insert(place + 1, start)
        self._tables.insert(place + 1, self._planned(start))
        return self._tables[place + 1]


@dataclass(slots=True)
class Study:
    """Counts over requests. `moves` is by (region before, region after); "deny 503" stands for a denial."""

    requests: int = 0
    moved: int = 0
    users: set[str] = field(default_factory=set)
    """By address, and by kind of request where they are made up."""
    users_moved: set[str] = field(default_factory=set)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    first_unreadable: list[Unreadable] = field(default_factory=list)
    """Some of them, to see what is wrong with the log."""

    def skip(self, line: Unreadable) -> None:
        self.unreadable += 1
        if len(self.first_unreadable) < UNREADABLE_SHOWN_MAX:
            self.first_unreadable.append(line)


def compare(before: Timeline, after: Timeline, log: Iterable[Recorded | Unreadable]) -> Study:
    """What of recorded traffic is decided differently under `after`."""
    study = Study()
    for each in log:
        if isinstance(each, Unreadable):
            study.skip(each)
        else:
            _compare(study, before.at(each.at_us), after.at(each.at_us), each.request, each.request.client)
    return study


def compare_synthetic(before: RouteTable, after: RouteTable, users: int = USERS_MAX) -> Study:
    """The same for made-up traffic: as many users of every kind of request that either policy tells apart, who live
    next to one region after the other."""
    study = Study()
    places = [location_at(region.latitude_e6, region.longitude_e6) for region in after.program.regions.values()]
    kinds = synthetic_kinds(before.program, after.program)
    count = max(1, min(users, SYNTHETIC_MAX // max(1, len(kinds))))
    for number, kind in enumerate(kinds):
        for user, request in enumerate(users_of(after.program, kind, count)):
            living = _elsewhere(after.program, request, user)._replace(location=places[user % len(places)])
            _compare(study, before, after, living, f"{number}/{user}")
    return study


def _elsewhere(program: Program, request: Request, user: int) -> Request:
    """The request from another address of its zone, as far as there are any."""
    client = read_client(request.client)
    if client is None:
        return request
    bits = 8 * len(client)
    other = str(ip_address(((int.from_bytes(client, "big") + user) % (1 << bits)).to_bytes(bits // 8, "big")))
    zone_of = program.addresses.zone_of
    return request._replace(client=other) if zone_of(read_client(other)) == zone_of(client) else request


def synthetic_kinds(*programs: Program) -> list[Request]:
    """A request of every kind that some of these policies tell apart: by route, zone and rule."""
    return list(dict.fromkeys(kind for program in programs for kind in kinds_of_requests(program)))


def simulate(tables: Timeline, log: Iterable[Recorded | Unreadable]) -> Study:
    """Where the policy sends recorded traffic."""
    study = Study()
    for each in log:
        if isinstance(each, Unreadable):
            study.skip(each)
            continue
        decision = decide(tables.at(each.at_us), each.request, frozenset())
        study.requests += 1
        study.users.add(each.request.client)
        study.regions[decision.region or f"deny {decision.status}"] += 1
        study.rules[f"{decision.route or 'no route'} {decision.rule}".strip()] += 1
    return study


def _compare(study: Study, before: RouteTable, after: RouteTable, request: Request, user: str) -> None:
    study.requests += 1
    study.users.add(user)
    was, now = (_outcome(table, request) for table in (before, after))
    study.regions[now] += 1
    if was != now:
        study.moved += 1
        study.users_moved.add(user)
        study.moves[was, now] += 1


def _outcome(table: RouteTable, request: Request) -> str:
    decision = decide(table, request, frozenset())
    return decision.region or f"deny {decision.status}"
