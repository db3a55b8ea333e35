"""What the seeds' names mean, and go on meaning while nobody can say."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from lattice.events import SeedsResolved
from lattice.types import SECOND, Endpoint
from router.seeding import (
    ADDRESSES_MAX,
    RESOLVE_INTERVAL_US,
    RESOLVE_TIMEOUT_US,
    RESOLVED_AT_ONCE,
    Seeding,
)

NAME: Endpoint = ("seeds.example", 7946)
NUMERIC: Endpoint = ("10.0.0.1", 7946)
EVERY_S, TIMEOUT_S = RESOLVE_INTERVAL_US / SECOND, RESOLVE_TIMEOUT_US / SECOND


class Resolver(trio.abc.HostnameResolver):
    """Says what a test told it of each name, after a while; a name that it was told nothing of is never answered."""

    def __init__(self, **names: list[str] | OSError) -> None:
        self.names: dict[str, list[str] | OSError] = dict(names)
        self.asked: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, family: int = 0, *_: Any) -> list[Any]:
        name = host.decode()
        self.asked.append(name)
        if name not in self.names:
            await trio.sleep_forever()
        found = self.names[name]
        if isinstance(found, OSError):
            raise found
        kinds = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(kinds[":" in at], socket.SOCK_DGRAM, 17, "", (at, port)) for at in found]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise AssertionError("nobody asks")


async def told_within(
    seconds: float, seeds: list[Endpoint], resolver: Resolver, bound: str = "0.0.0.0"
) -> tuple[Seeding, list[tuple[Endpoint, ...]]]:
    """What is told in that time."""
    trio.socket.set_custom_hostname_resolver(resolver)
    told: list[tuple[Endpoint, ...]] = []

    async def submit(change: SeedsResolved) -> None:
        told.append(change.endpoints)

    try:
        seeding = Seeding(seeds, bound, submit)
        with trio.move_on_after(seconds):
            await seeding.keep()
    finally:
        trio.socket.set_custom_hostname_resolver(None)
    return seeding, told


async def test_a_name_is_resolved_again_and_its_new_address_replaces_the_old(
    autojump_clock: trio.testing.MockClock,
) -> None:
    resolver = Resolver(**{NAME[0]: ["10.0.0.7", "10.0.0.8"]})

    async def move() -> None:
        await trio.sleep(EVERY_S / 2)
        resolver.names[NAME[0]] = ["10.0.0.9"]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move)
        _, told = await told_within(3.5 * EVERY_S, [NAME, NUMERIC], resolver)
    assert told == [
        (NUMERIC,),
        (NUMERIC, ("10.0.0.7", 7946), ("10.0.0.8", 7946)),
        (NUMERIC, ("10.0.0.9", 7946)),
    ]
    assert resolver.asked == [NAME[0]] * 4


async def test_the_last_good_addresses_are_kept_and_the_failure_is_counted_and_said_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = Resolver(**{NAME[0]: ["10.0.0.7"]})

    async def fail() -> None:
        await trio.sleep(EVERY_S / 2)
        resolver.names[NAME[0]] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        seeding, told = await told_within(3.5 * EVERY_S, [NAME], resolver)
    assert told == [(), (("10.0.0.7", 7946),)]
    assert seeding.counters["seeds not resolved"] == 3
    assert caplog.text.count("seed seeds.example:7946: Name or service not known; still calling 10.0.0.7:7946") == 1


async def test_a_name_server_that_never_answers_delays_no_other_seed(autojump_clock: trio.testing.MockClock) -> None:
    silent = [(f"silent{number}.example", 1) for number in range(RESOLVED_AT_ONCE - 1)]
    resolver = Resolver(**{NAME[0]: ["10.0.0.7"]})
    seeding, told = await told_within(TIMEOUT_S + 1, [*silent, NAME, NUMERIC], resolver)
    assert told == [(NUMERIC,), (NUMERIC, ("10.0.0.7", 7946))]
    assert seeding.counters["seeds not resolved"] == len(silent)


async def test_both_families_are_taken_as_far_as_the_socket_reaches(autojump_clock: trio.testing.MockClock) -> None:
    resolver = Resolver(**{NAME[0]: ["10.0.0.7", "fd00::7", "fd00::7"]})
    v4, told = await told_within(1, [NAME], resolver)
    assert told[-1] == (("10.0.0.7", 7946),)
    assert v4.counters["seeds of another address family"] == 2
    _, told = await told_within(1, [NAME, NUMERIC], resolver, bound="::")
    assert told[-1] == (("10.0.0.1", 7946), ("10.0.0.7", 7946), ("fd00::7", 7946)), "as members' addresses are written"
    v6, told = await told_within(1, [NAME, NUMERIC], resolver, bound="fd00::1")
    assert told[-1] == (("fd00::7", 7946),), "a socket on one IPv6 address has no way to IPv4"
    assert v6.counters["seeds of another address family"] == 2


async def test_one_name_gives_only_so_many_addresses(autojump_clock: trio.testing.MockClock) -> None:
    resolver = Resolver(**{NAME[0]: [f"10.0.1.{number}" for number in range(200)]})
    _, told = await told_within(1, [NAME], resolver)
    assert len(told[-1]) == ADDRESSES_MAX


async def test_a_site_without_seeds_tells_nothing() -> None:
    assert (await told_within(1, [], Resolver()))[1] == []
