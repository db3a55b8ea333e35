"""The load generator on a virtual clock, against servers made of memory streams."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from lattice.types import SECOND
from router.demo.backend import serve
from router.demo.exchange import ExchangeError
from router.demo.figures import Answer
from router.demo.load import REQUEST_TIMEOUT_US, Connect, Plan, Target, due_us, generate, sender

TARGETS = (
    Target("europe", "ams", 1, ("127.10.0.1", "127.10.1.1")),
    Target("america", "nyc", 2, ("127.11.0.1",)),
)


def plan(requests: int, rate: int = 100) -> Plan:
    return Plan(TARGETS, rate, requests, "shop.example.com")


class Sites:
    """Both sites, each a healthy backend that answers at once, unless a test says otherwise."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.opened: Counter[tuple[str, str]] = Counter()
        self.refused: set[str] = set()
        self.stalled_until: dict[str, float] = {}

    async def connect(self, target: Target, client: str) -> trio.abc.Stream:
        self.opened[target.zone, client] += 1
        if target.zone in self.refused:
            raise ExchangeError("refused", "test")
        near, far = memory_stream_pair()
        self._nursery.start_soon(self._serve, target, far)
        return near

    async def _serve(self, target: Target, stream: trio.abc.Stream) -> None:
        await trio.sleep_until(self.stalled_until.get(target.zone, 0.0))
        await serve(target.host, stream)


async def run(requests: int, *, rate: int = 100, **site_faults: object) -> tuple[list[Answer], Sites]:
    """Every answer of a plan that starts at the virtual second 1."""
    answers: list[Answer] = []
    async with trio.open_nursery() as nursery:
        sites = Sites(nursery)
        for name, value in site_faults.items():
            setattr(sites, name, value)
        await generate(plan(requests, rate), sites.connect, trio.current_time() + 1, answers.append)
        nursery.cancel_scope.cancel()
    return answers, sites


@given(st.integers(1, 1_000), st.integers(1, 600))
def test_the_schedule_is_even_and_does_not_drift(rate: int, seconds: int) -> None:
    assert due_us(0, rate) == 0
    assert due_us(rate * seconds, rate) == seconds * SECOND
    assert due_us(1, rate) <= due_us(rate * seconds + 1, rate) - seconds * SECOND <= due_us(1, rate) + 1


@given(st.integers(0, 100_000))
def test_requests_go_round_the_zones_and_the_clients(index: int) -> None:
    zones = [sender(index + step, TARGETS)[0].zone for step in range(len(TARGETS))]
    assert sorted(zones) == ["america", "europe"]

    target, client = sender(index, TARGETS)
    turns = len(TARGETS) * len(target.clients)
    assert sender(index + turns, TARGETS) == (target, client)
    assert {sender(index + turn, TARGETS)[1] for turn in range(0, turns, len(TARGETS))} == set(target.clients)


async def test_every_request_is_answered_at_its_own_time(autojump_clock: MockClock) -> None:
    answers, sites = await run(requests=50)

    assert len(answers) == 50
    assert not any(answer.error for answer in answers)
    assert Counter((answer.zone, answer.region) for answer in answers) == {
        ("europe", "ams"): 25,
        ("america", "nyc"): 25,
    }
    assert [answer.scheduled_us - answers[0].scheduled_us for answer in answers] == [
        due_us(index, 100) for index in range(50)
    ]
    assert all(answer.done_us == answer.scheduled_us for answer in answers)  # nothing took time on this clock
    assert set(sites.opened.values()) == {1}  # one connection a client, kept alive


async def test_latency_counts_from_the_schedule_however_long_the_stall(autojump_clock: MockClock) -> None:
    start = trio.current_time() + 1
    answers, _ = await run(requests=60, stalled_until={"europe": start + 0.4})

    europe = sorted((answer.scheduled_us, answer.done_us) for answer in answers if answer.zone == "europe")
    assert len(europe) == 30
    released_us = round((start + 0.4) * SECOND)
    for scheduled_us, done_us in europe:
        assert done_us == max(scheduled_us, released_us)  # each one behind the stall says how late it was
    assert all(answer.done_us == answer.scheduled_us for answer in answers if answer.zone == "america")


async def test_a_refused_connection_is_an_error_of_its_zone_alone(autojump_clock: MockClock) -> None:
    answers, sites = await run(requests=20, refused={"america"})

    assert Counter((answer.zone, answer.error, answer.status) for answer in answers) == {
        ("europe", "", 200): 10,
        ("america", "refused", 0): 10,
    }
    assert sites.opened["america", "127.11.0.1"] == 10  # tried anew for each, never again for one


async def test_what_takes_too_long_is_an_error_at_its_deadline(autojump_clock: MockClock) -> None:
    answers, _ = await run(requests=4, stalled_until={"europe": trio.current_time() + 3_600})

    assert [(answer.error, answer.done_us - answer.scheduled_us) for answer in answers if answer.zone == "europe"] == [
        ("timeout", REQUEST_TIMEOUT_US)
    ] * 2
    assert [answer.error for answer in answers if answer.zone == "america"] == ["", ""]


def answering(raw: bytes, close: bool) -> Connect:
    """A site that answers every request with these bytes."""

    async def connect(_target: Target, _client: str) -> trio.abc.Stream:
        near, far = memory_stream_pair()
        await far.send_all(raw)
        if close:
            await far.send_eof()
        return near

    return connect


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", ""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "truncated"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "truncated"),
        (b"", "reset"),
        (b"HTTP/1.1 200", "reset"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "malformed"),
    ],
)
async def test_what_counts_as_an_error(autojump_clock: MockClock, raw: bytes, error: str) -> None:
    answers: list[Answer] = []
    await generate(plan(requests=2), answering(raw, close=True), trio.current_time(), answers.append)

    assert [answer.error for answer in answers] == [error, error]
