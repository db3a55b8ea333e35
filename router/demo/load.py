"""Open-loop HTTP load: requests leave when the schedule says, whatever became of the ones before.

Latency is counted from the scheduled time, so that a stall anywhere (in the router, or in this very process) shows in
every request that it delayed, instead of quietly lowering the rate (coordinated omission). Arrivals are evenly spaced
and go round the zones, so that no zone's users are silent for longer than zones ÷ rate. Each client address has its
own pool of keep-alive connections to its own site. Nothing is ever retried here: the router must hide a dead region,
not the client.

It runs as a process of its own, so that drawing the screen cannot delay a request. It reads its plan as one line of
JSON on standard input, and leaves when that closes; it writes `{"started_us": …}`, `{"answers": […]}` in batches, and
`{"finished": true}`, one JSON object a line. (trio waits in whole milliseconds, rounded up: a request may leave one
late, and the latency includes it.)
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import trio

from lattice.types import MILLISECOND, SECOND
from router.demo.exchange import ExchangeError, connect, exchange
from router.demo.figures import Answer
from router.demo.processes import Lines, until_stdin_closes

REQUEST_TIMEOUT_US = 5 * SECOND
"""From the scheduled time; what takes longer is an error. A person would have reloaded the page."""
CONNECTIONS_PER_CLIENT_MAX = 64
"""More than any browser; past it requests wait, and their latency says so."""
START_DELAY_US = 50 * MILLISECOND
FLUSH_INTERVAL_US = 100 * MILLISECOND


class Target(msgspec.Struct, frozen=True):
    """A zone's users and the site that they talk to."""

    zone: str
    host: str
    port: int
    clients: tuple[str, ...]
    """Their source addresses."""


class Plan(msgspec.Struct, frozen=True):
    targets: tuple[Target, ...]
    rate: int
    """Requests a second, over all zones."""
    requests: int
    """How many to send."""
    host: str
    """What the Host header says."""


class LoadMessage(msgspec.Struct, omit_defaults=True):
    """One line of what the process writes."""

    started_us: int | None = None
    answers: list[Answer] = []
    finished: bool = False


Connect = Callable[[Target, str], Awaitable[trio.abc.Stream]]
"""Opens a connection from a client address to a target's site; raises `ExchangeError`."""


def due_us(index: int, rate: int) -> int:
    """When request `index` is due, in microseconds after the start: even spacing, no drift."""
    return index * SECOND // rate


def sender(index: int, targets: tuple[Target, ...]) -> tuple[Target, str]:
    """Whose request it is: round the zones, and within a zone round its clients."""
    turn, which = divmod(index, len(targets))
    target = targets[which]
    return target, target.clients[turn % len(target.clients)]


@dataclass
class Pool:
    """One client's keep-alive connections, the last used first."""

    open: Callable[[], Awaitable[trio.abc.Stream]]
    idle: list[trio.abc.Stream] = field(default_factory=list)
    slots: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(CONNECTIONS_PER_CLIENT_MAX))

    async def send(self, request: bytes) -> tuple[int, str]:
        """The response's status and the region that it names. Raises `ExchangeError`."""
        async with self.slots:
            stream = self._take() or await self.open()
            reusable = False
            try:
                response = await exchange(stream, request)
                reusable = response.reusable
            finally:
                if reusable:
                    self.idle.append(stream)
                else:
                    await trio.aclose_forcefully(stream)
        return response.status, response.headers.get("x-region", "")

    def _take(self) -> trio.abc.Stream | None:
        while self.idle:
            stream = self.idle.pop()
            if not (isinstance(stream, trio.SocketStream) and stream.socket.is_readable()):
                return stream
            stream.socket.close()  # the server closed it, or spoke out of turn: either way it is of no use
        return None


async def generate(plan: Plan, connect: Connect, start: float, answered: Callable[[Answer], None]) -> None:
    """Sends the whole plan from `start` (trio time) on and returns when every request was answered or has failed.

    `answered` gets each outcome as it happens; its times are microseconds of trio's clock.
    """
    pools: dict[tuple[str, str], Pool] = {}
    for target in plan.targets:
        for client in target.clients:
            pools[target.zone, client] = Pool(lambda target=target, client=client: connect(target, client))  # type: ignore[misc]
    async with trio.open_nursery() as nursery:
        for index in range(plan.requests):
            due = start + due_us(index, plan.rate) / SECOND
            await trio.sleep_until(due)
            target, client = sender(index, plan.targets)
            request = f"GET /item/{index} HTTP/1.1\r\nHost: {plan.host}\r\n\r\n".encode("ascii")
            nursery.start_soon(_one, pools[target.zone, client], target.zone, request, due, answered)
    for pool in pools.values():
        for stream in pool.idle:
            await trio.aclose_forcefully(stream)


async def _one(pool: Pool, zone: str, request: bytes, due: float, answered: Callable[[Answer], None]) -> None:
    status, region, error = 0, "", "timeout"
    with trio.move_on_at(due + REQUEST_TIMEOUT_US / SECOND):
        try:
            status, region = await pool.send(request)
            error = "" if 200 <= status < 400 else f"status {status}"
        except ExchangeError as failure:
            error = failure.kind
    answered(Answer(round(due * SECOND), round(trio.current_time() * SECOND), zone, status, region, error))


async def _main() -> None:
    line = await Lines(trio.lowlevel.FdStream(os.dup(0))).next()
    if line is None:
        return  # whoever started this went before saying what for
    plan = msgspec.json.decode(line, type=Plan)
    out = trio.lowlevel.FdStream(os.dup(1))
    encoder = msgspec.json.Encoder()

    async def write(message: LoadMessage) -> None:
        await out.send_all(encoder.encode(message) + b"\n")

    start = trio.current_time() + START_DELAY_US / SECOND
    to_epoch_us = time.time_ns() // 1_000 - round(trio.current_time() * SECOND)
    batch: list[Answer] = []

    def answered(answer: Answer) -> None:
        batch.append(
            msgspec.structs.replace(
                answer, scheduled_us=answer.scheduled_us + to_epoch_us, done_us=answer.done_us + to_epoch_us
            )
        )

    async def flush() -> None:
        sent, batch[:] = batch[:], []
        await write(LoadMessage(answers=sent))

    async def flush_now_and_then() -> None:
        while True:
            await trio.sleep(FLUSH_INTERVAL_US / SECOND)
            if batch:
                await flush()

    async def open_from(target: Target, client: str) -> trio.abc.Stream:
        return await connect(target.host, target.port, client)

    gc.freeze()  # what is loaded now stays: collections then cost microseconds, not a pause that looks like latency
    await write(LoadMessage(started_us=round(start * SECOND) + to_epoch_us))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_stdin_closes, nursery.cancel_scope)
        nursery.start_soon(flush_now_and_then)
        await generate(plan, open_from, start, answered)
        await flush()
        await write(LoadMessage(finished=True))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    try:
        trio.run(_main)
    except* trio.BrokenResourceError:
        pass  # whoever reads the answers has gone
