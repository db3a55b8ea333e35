"""Kept connections: used again only while they are alive and silent, bounded in number and age."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

import router.traffic.upstream_pool
from lattice.types import SECOND, Endpoint, Level
from router.decision.decide import Attempt
from router.traffic.connection import Connection, connect
from router.traffic.nested_epoll import NestedEpoll
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.upstream_pool import EXPECTED_SECONDS, RTO_MAX_MS, ExhaustedError, Upstream, UpstreamPool
from tests.router.traffic.upstreams import Wire, deaf, hanging, listen, refusing

RTO_MAX = 44
LIMITS = ProxyLimits(idle_per_endpoint_max=2, upstream_idle_timeout_us=4 * SECOND)


@pytest.fixture
async def pool() -> AsyncIterator[UpstreamPool]:
    pool = UpstreamPool(LIMITS)
    yield pool
    pool.close_idle()


async def give_back(pool: UpstreamPool, *upstreams: Upstream) -> None:
    for upstream in upstreams:
        upstream.reusable = True
        pool.release(upstream, trio.current_time())


async def test_the_connection_used_last_is_used_next(pool: UpstreamPool, nursery: trio.Nursery) -> None:
    endpoint = (await listen(nursery, hanging)).endpoint
    first, second = await pool.acquire(endpoint), await pool.acquire(endpoint)
    await give_back(pool, first, second)
    assert await pool.acquire(endpoint) is second
    assert await pool.acquire(endpoint) is first
    assert pool.counters == {"opened": 2, "reused": 2}
    first.close()
    second.close()


async def test_who_was_put_back_after_one_that_was_left_may_do(pool: UpstreamPool, nursery: trio.Nursery) -> None:
    endpoint = (await listen(nursery, hanging)).endpoint
    older, left, later = [await pool.acquire(endpoint) for _ in range(3)]
    await give_back(pool, older, left)
    assert await pool.acquire(endpoint) is left
    await trio.sleep(0.001)
    await give_back(pool, later)
    pool.discard_as_old(left)
    assert older.sock.fileno() == -1
    assert await pool.acquire(endpoint) is later
    assert pool.idle == 0
    pool.discard_as_old(left)
    left.close()
    later.close()


async def test_a_connection_is_not_reused_unless_it_says_so(pool: UpstreamPool, nursery: trio.Nursery) -> None:
    endpoint = (await listen(nursery, hanging)).endpoint
    upstream = await pool.acquire(endpoint)
    await give_back(pool, upstream)
    assert await pool.acquire(endpoint) is upstream
    pool.release(upstream, trio.current_time())  # reusable was taken back on the way out
    assert pool.idle == 0
    assert upstream.sock.fileno() == -1


def bounds_its_timeouts() -> bool:
    """Whether the kernel does."""
    with socket.socket() as sock:
        try:
            sock.getsockopt(socket.IPPROTO_TCP, RTO_MAX)
        except OSError:
            return False
    return True


@pytest.mark.skipif(not bounds_its_timeouts(), reason="Linux 6.15 and later can")
async def test_what_is_lost_is_sent_again_soon_unless_more_than_a_request_is_at_stake(
    pool: UpstreamPool, nursery: trio.Nursery
) -> None:
    """Else who waits when a cut network heals waits as long again: the kernel doubles the time."""
    upstream = await pool.acquire((await listen(nursery, hanging)).endpoint)
    assert upstream.sock.getsockopt(socket.IPPROTO_TCP, RTO_MAX) == RTO_MAX_MS
    upstream.outlive_cuts()
    assert upstream.sock.getsockopt(socket.IPPROTO_TCP, RTO_MAX) == 120_000
    upstream.close()


@pytest.mark.parametrize("farewell", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_closed_and_talkative_connections_are_not_reused(
    farewell: bytes, pool: UpstreamPool, nursery: trio.Nursery
) -> None:
    async def script(wire: Wire) -> None:
        await wire.send(farewell)

    endpoint = (await listen(nursery, script)).endpoint
    upstream = await pool.acquire(endpoint)
    await give_back(pool, upstream)
    await trio.lowlevel.wait_readable(upstream.sock)
    fresh = await pool.acquire(endpoint)
    assert fresh is not upstream
    assert pool.counters["stale"] == 1
    fresh.close()


async def test_a_connection_that_closed_a_moment_ago_is_not_used_by_a_task(nursery: trio.Nursery) -> None:
    """A task may run before the nest has looked again: it asks the kernel, which costs no vain read."""
    nest = NestedEpoll()
    await nursery.start(nest.run)
    pool = UpstreamPool(LIMITS, nest)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint: Endpoint = server.getsockname()
        for closes in (False, True):
            upstream = await pool.acquire(endpoint)
            peer, _ = server.accept()
            await give_back(pool, upstream)
            await trio.testing.wait_all_tasks_blocked()
            with peer:
                if closes:
                    peer.close()
                assert not upstream.ready, "nobody has looked"
                assert (pool.take(endpoint, trio.current_time()) is None) is closes
                upstream.close()
    assert pool.counters["stale"] == 1


async def test_old_connections_are_not_reused_but_swept(
    pool: UpstreamPool, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    endpoint = (await listen(nursery, hanging)).endpoint
    old, young = await pool.acquire(endpoint), await pool.acquire(endpoint)
    await give_back(pool, old)
    mock_clock.jump(3)
    await give_back(pool, young)
    mock_clock.jump(2)
    pool.sweep()
    assert (pool.idle, old.sock.fileno()) == (1, -1)
    mock_clock.jump(3)
    fresh = await pool.acquire(endpoint)
    assert fresh is not young
    assert young.sock.fileno() == -1
    fresh.close()


async def test_a_standby_of_long_ago_that_is_decided_again_is_wanted_at_once(
    pool: UpstreamPool, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    first, standby = [(await listen(nursery, hanging)).endpoint for _ in range(2)]
    attempts = [Attempt("r", "primary", Level.HEALTHY, endpoint) for endpoint in (first, standby)]
    for _ in range(2):
        pool.expect(attempts)
        assert pool.wanted.is_set()
        async with trio.open_nursery() as warming:
            pool.keep_warm(warming)
        pool.expect(attempts)
        assert not pool.wanted.is_set(), "it is known"
        mock_clock.jump(EXPECTED_SECONDS + 1)
        pool.keep_warm(nursery)


async def test_a_standby_is_renewed_before_the_old_connections_are_too_old(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """While new ones are on their way, the old ones are still there."""
    pool = UpstreamPool(ProxyLimits(upstream_idle_timeout_us=4 * SECOND))
    first, standby = [(await listen(nursery, hanging)).endpoint for _ in range(2)]
    attempts = [Attempt("r", "primary", Level.HEALTHY, endpoint) for endpoint in (first, standby)]
    ready = []
    for _ in range(12):  # a second each, of which a connection may live four
        pool.expect(attempts)
        async with trio.open_nursery() as warming:
            pool.keep_warm(warming)
            ready.append(pool.idle)
        mock_clock.jump(1)
    assert ready[0] == 0
    assert min(ready[1:]) >= 2, ready
    pool.close_idle()
    assert pool.counters["warmed"] >= 6, "renewed"


async def test_connections_on_their_way_are_not_opened_again(
    pool: UpstreamPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Endpoint] = []

    async def hung(host: str, port: int, *_: object) -> Upstream:
        begun.append((host, port))
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(router.traffic.upstream_pool, "connect", hung)
    standby = ("127.0.0.1", 2)
    attempts = [Attempt("r", "primary", Level.HEALTHY, endpoint) for endpoint in (("127.0.0.1", 1), standby)]
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            pool.expect(attempts)
            pool.keep_warm(nursery)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert begun == [standby] * LIMITS.warm_per_standby


async def test_what_is_kept_is_bounded(pool: UpstreamPool, nursery: trio.Nursery) -> None:
    endpoint = (await listen(nursery, hanging)).endpoint
    upstreams = [await pool.acquire(endpoint) for _ in range(3)]
    await give_back(pool, *upstreams)
    assert pool.idle == 2
    pool.discard(endpoint)
    assert pool.idle == 0
    assert all(upstream.sock.fileno() == -1 for upstream in upstreams)


async def test_refusal_is_an_error(pool: UpstreamPool) -> None:
    with pytest.raises(ConnectionRefusedError):
        await pool.acquire(refusing())


async def test_a_connection_to_itself_is_a_refusal() -> None:
    # Bound to the very port it connects to, a socket meets itself, as happens by chance among ephemeral ports.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address: Endpoint = probe.getsockname()
    plain = socket.socket

    def bound(family: int, kind: int) -> socket.socket:
        sock = plain(family, kind)
        sock.bind(address)
        return sock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", bound)
        with pytest.raises(ConnectionRefusedError, match="itself"):
            await connect(*address, SECOND, Connection)


async def test_an_endpoint_that_does_not_answer_takes_the_connect_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with deaf() as address, pytest.raises(trio.TooSlowError):
        await connect(*address, SECOND, Connection)


async def test_running_out_here_is_no_evidence_against_the_endpoint(
    pool: UpstreamPool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = (await listen(nursery, hanging)).endpoint
    await give_back(pool, await pool.acquire(endpoint))

    async def exhausted(*arguments: object) -> Upstream:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(router.traffic.upstream_pool, "connect", exhausted)
    with pytest.raises(ExhaustedError):
        await pool.acquire(("127.0.0.1", 1))
    assert pool.idle == 0  # descriptors are given back first
