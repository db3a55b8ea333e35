"""One coroutine, two drivers: fibers wait, time out, step aside, become tasks and fibers again, end with the loop."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from lattice.types import SECOND
from router.traffic.connection import RECEIVE_BYTES, Connection, connect
from router.traffic.nested_epoll import EVENTS_MAX, PATIENT_MAX, PATIENT_SECONDS, Fiber, NestedEpoll, Wake
from tests.router.traffic.upstreams import deaf


@asynccontextmanager
async def running() -> AsyncIterator[NestedEpoll]:
    nest = NestedEpoll()
    async with trio.open_nursery() as nursery:
        await nursery.start(nest.run)
        yield nest
        nursery.cancel_scope.cancel()


async def settled() -> None:
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked(0.001)


def patient(sock: socket.socket, nest: NestedEpoll) -> Connection:
    connection = Connection(sock, nest)
    connection.patient = True
    return connection


async def test_a_fiber_waits_for_its_socket() -> None:
    near, far = socket.socketpair()
    got: list[bytes] = []

    async def body(connection: Connection) -> None:
        while data := await connection.receive(SECOND):
            got.append(data)
        connection.close()

    async with running() as nest:
        nest.start(body(Connection(near, nest)))
        for word in (b"one", b"two"):
            far.send(word)
            await settled()
        far.close()
        await settled()
        assert got == [b"one", b"two"]
        assert not nest.fibers


async def test_a_read_that_took_all_it_could_is_followed_by_another_without_a_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The kernel tells of what arrives, not of what was left."""
    near, far = socket.socketpair()
    rest = 1_000
    got: list[int] = []

    async def body(connection: Connection) -> None:
        while sum(got) < RECEIVE_BYTES + rest:
            await connection.readable(SECOND)
            if data := connection.receive_now():
                got.append(len(data))
        connection.close()

    assert far.send(bytes(RECEIVE_BYTES + rest)) == RECEIVE_BYTES + rest
    async with running() as nest:
        nest.start(body(Connection(near, nest)))
        await trio.sleep(5)
    far.close()
    assert got == [RECEIVE_BYTES, rest]


async def test_who_brings_by_and_by_what_it_began_stands_behind_whoever_is_ready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A crowd of them speaks at one moment, and somebody else last of all."""
    crowd = 100
    order: list[int] = []
    at: list[float] = []
    pairs = [socket.socketpair() for _ in range(crowd + 1)]

    async def body(connection: Connection, name: int) -> None:
        assert await connection.receive(SECOND) == b"x"
        order.append(name)
        at.append(trio.current_time())
        connection.close()

    async with running() as nest:
        for name, (near, _) in enumerate(pairs):
            connection = Connection(near, nest)
            connection.patient = name < crowd
            nest.start(body(connection, name))
        await settled()
        began = trio.current_time()
        for _, far in pairs:
            far.send(b"x")
        await trio.sleep(0.1)
        assert not nest.fibers
    for _, far in pairs:
        far.close()
    assert order.index(crowd) <= PATIENT_MAX
    assert [name for name in order if name < crowd] == list(range(crowd)), "each in its turn, and nobody is left"
    turns = Counter(
        round((when - began) / PATIENT_SECONDS) for name, when in zip(order, at, strict=True) if name < crowd
    )
    assert max(turns.values()) == PATIENT_MAX, "so many a millisecond, and time for others between them"


async def test_who_stands_behind_is_served_although_others_are_always_ready() -> None:
    near, far = socket.socketpair()
    busy = [socket.socketpair() for _ in range(EVENTS_MAX)]
    began = 0.0
    served_after: list[float] = []

    async def chatter(nest: NestedEpoll, connection: Connection) -> None:
        with suppress(BrokenPipeError):  # the peer has seen the end first
            while not served_after and nest.clock() < began + 1:
                await connection.receive(SECOND)
                connection.send_now(b"x")  # and its peer is ready at once
        connection.close()

    async def slow(connection: Connection, nest: NestedEpoll) -> None:
        await connection.receive(SECOND)
        served_after.append(nest.clock() - began)
        connection.close()

    async with running() as nest:
        began = nest.clock()
        nest.start(slow(patient(near, nest), nest))
        for one, other in busy:
            nest.start(chatter(nest, Connection(one, nest)))
            nest.start(chatter(nest, Connection(other, nest)))
        await settled()
        far.send(b"x")
        for one, _ in busy:
            one.send(b"x")
        with trio.move_on_after(5):
            while nest.fibers:
                await settled()
    far.close()
    assert served_after
    assert served_after[0] < 1, "before the others were done"


async def test_what_stands_behind_is_void_when_its_fiber_goes_on_for_another_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wakes: list[Wake] = []
    near, far = socket.socketpair()
    pairs = [socket.socketpair() for _ in range(PATIENT_MAX)]
    last, poke = socket.socketpair()

    async def body(nest: NestedEpoll, connection: Connection) -> None:
        assert nest.current is not None
        connection.read_waiter = nest.current
        wakes.append(await nest.current.park())
        wakes.append(await nest.current.park(nest.time() + 1))
        connection.close()

    async def meddler(connection: Connection, fibers: set[Fiber]) -> None:
        """Runs in the look that finds the patient one ready, and nudges it."""
        await connection.receive(SECOND)
        for fiber in fibers:
            fiber.nudge()
        connection.close()

    async def first(connection: Connection) -> None:
        await connection.receive(SECOND)
        connection.close()

    async with running() as nest:
        for one, _ in pairs:  # these are enough for the first turn
            nest.start(first(patient(one, nest)))
        before = set(nest.fibers)
        nest.start(body(nest, patient(near, nest)))
        nest.start(meddler(Connection(last, nest), nest.fibers - before))
        await settled()
        for _, other in pairs:
            other.send(b"x")
        far.send(b"x")
        poke.send(b"x")
        await trio.sleep(2)
        assert wakes == [Wake.NUDGED, Wake.LATE]
    for sock in (far, poke, *(other for _, other in pairs)):
        sock.close()


async def test_tasks_that_wait_for_patient_members_are_woken_so_many_a_millisecond(
    autojump_clock: trio.testing.MockClock,
) -> None:
    crowd = 3 * PATIENT_MAX
    at: list[float] = []
    pairs = [socket.socketpair() for _ in range(crowd)]

    async def body(nest: NestedEpoll, connection: Connection) -> None:
        await nest.become_task()
        assert await connection.receive(SECOND) == b"x"
        at.append(trio.current_time())
        assert connection.read_waiter is None
        with pytest.raises(trio.TooSlowError):
            await connection.receive(SECOND // 2)
        connection.close()

    async with running() as nest:
        for near, _ in pairs:
            nest.start(body(nest, patient(near, nest)))
        await settled()
        began = trio.current_time()
        for _, far in pairs:
            far.send(b"x")
        await trio.sleep(0.4)
        assert Counter(round((when - began) / PATIENT_SECONDS) for when in at) == dict.fromkeys(range(3), PATIENT_MAX)
        await trio.sleep(1)
        assert not nest.fibers
    for _, far in pairs:
        far.close()


async def test_a_task_that_is_called_off_while_it_stands_behind_is_not_woken_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Woken twice, or while it waits for something else, trio would fall."""
    ends: list[str] = []
    pairs = [socket.socketpair() for _ in range(2 * PATIENT_MAX)]
    scopes: list[trio.CancelScope] = []

    async def body(nest: NestedEpoll, connection: Connection) -> None:
        await nest.become_task()
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await connection.receive(SECOND)
            ends.append("heard")
        if scope.cancelled_caught:
            ends.append("called off")
        await trio.sleep(0.1)
        connection.close()

    async with running() as nest:
        for near, _ in pairs:
            nest.start(body(nest, patient(near, nest)))
        await settled()
        for _, far in pairs:
            far.send(b"x")
        await trio.sleep(PATIENT_SECONDS / 2)
        for scope in scopes:
            scope.cancel()
        await trio.sleep(1)
        assert not nest.fibers
    for _, far in pairs:
        far.close()
    assert Counter(ends) == {"heard": PATIENT_MAX, "called off": PATIENT_MAX}


async def test_deadlines_are_met_in_order_and_void_once_their_wait_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    woken: list[tuple[str, float]] = []
    began = trio.current_time()

    async def body(nest: NestedEpoll, name: str, *delays: float) -> None:
        for delay in delays:
            fiber = nest.current
            assert fiber is not None
            assert await fiber.park(nest.time() + delay) is Wake.LATE
            woken.append((name, round(nest.time() - began, 3)))

    async with running() as nest:
        nest.start(body(nest, "a", 5, 1))
        nest.start(body(nest, "b", 2, 2))
        await trio.sleep(10)
    assert woken == [("b", 2.0), ("b", 4.0), ("a", 5.0), ("a", 6.0)]


async def test_a_fiber_becomes_a_task_and_a_fiber_again() -> None:
    log: list[object] = []

    async def body(nest: NestedEpoll) -> None:
        kept = "what it knows"
        log.append(nest.current is not None)
        await nest.become_task()
        log.append(nest.current is None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
        await nest.become_fiber()
        log.append(nest.current is not None)
        await nest.pause()
        log.append(kept)

    async with running() as nest:
        nest.start(body(nest))
        await settled()
        assert not nest.fibers
        nest.start_task(body(nest))
        await settled()
    assert log[:4] == [True, True, True, "what it knows"]
    assert log[4:] == [False, True, True, "what it knows"]


async def test_fibers_that_step_aside_take_turns() -> None:
    turns: list[str] = []

    async def body(nest: NestedEpoll, name: str) -> None:
        for _ in range(3):
            turns.append(name)
            await nest.pause()

    async with running() as nest:
        nest.start(body(nest, "a"))
        nest.start(body(nest, "b"))
        await settled()
    assert turns == ["a", "b"] * 3


async def test_a_nudge_wakes_a_wait_and_is_void_after_it() -> None:
    wakes: list[Wake] = []

    async def body(nest: NestedEpoll) -> None:
        fiber = nest.current
        assert fiber is not None
        wakes.append(await fiber.park())
        wakes.append(await fiber.park())

    async with running() as nest:
        nest.start(body(nest))
        (fiber,) = nest.fibers
        fiber.nudge()
        fiber.nudge()
        await settled()
        assert wakes == [Wake.NUDGED], "the second was meant for the same wait"
        fiber.nudge()
        await settled()
        assert wakes == [Wake.NUDGED] * 2


async def test_awaiting_trio_in_a_fiber_is_an_error_where_it_happens() -> None:
    seen: list[str] = []

    async def body() -> None:
        try:
            await trio.lowlevel.checkpoint()
        except RuntimeError as error:
            seen.append(str(error))

    async with running() as nest:
        nest.start(body())
        assert not nest.fibers
    assert "a fiber awaited something of trio's" in seen[0]


async def test_the_end_of_the_loop_ends_every_fiber() -> None:
    ended: list[str] = []

    async def body(nest: NestedEpoll, *, as_task: bool) -> None:
        try:
            if as_task:
                await nest.become_task()
                await trio.sleep_forever()
            fiber = nest.current
            assert fiber is not None
            await fiber.park()
        finally:
            ended.append("task" if as_task else "fiber")

    async with running() as nest:
        nest.start(body(nest, as_task=False))
        nest.start(body(nest, as_task=True))
        await settled()
    assert sorted(ended) == ["fiber", "task"]
    near, far = socket.socketpair()
    with near, far, pytest.raises(OSError, match="no more sockets"):
        nest.join(near.fileno(), Connection.__new__(Connection))


async def test_what_lies_unread_bounds_what_was_heard() -> None:
    nest = NestedEpoll()
    async with trio.open_nursery() as nursery:
        await nursery.start(nest.run)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            Connection(ours, nest)
            await trio.testing.wait_all_tasks_blocked()
            before = nest.clock()
            assert nest.heard_until() >= before, "all is quiet: everything was heard"
            theirs.send(b"x")
            assert nest.heard_until() <= before, "a byte lies there that nobody has seen"
            await trio.testing.wait_all_tasks_blocked()
            assert nest.heard_until() >= nest.clock() - 1e-3
            nest.leave(ours.fileno())
        nursery.cancel_scope.cancel()


async def test_an_event_of_whoever_had_its_descriptor_before_ends_no_connect(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It was taken for a failed connect, and the endpoint's other connections went with it."""
    outcomes: list[type[Exception]] = []

    async def body() -> None:
        try:
            (await connect(where[0], where[1], SECOND, Connection, nest)).close()
        except (OSError, trio.TooSlowError) as error:
            outcomes.append(type(error))

    with deaf() as where:
        async with running() as nest:
            nest.start(body())
            (member,) = nest._members.values()
            fiber, member.write_waiter = member.write_waiter, None
            assert fiber is not None, "not connected yet"
            fiber.resume(Wake.READY)
            assert outcomes == []
            await trio.sleep(2)
            assert outcomes == [trio.TooSlowError]
