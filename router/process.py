"""A node as an operating-system process: signals, standard input, and a clean end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import trio

from router.site.site_config import BoundEndpoints, SiteConfig

STDIN_READ_BYTES = 4096


class RunNode(Protocol):
    """`router.starting.run_node`: runs until `stop` is set and everything has drained, or raises."""

    async def __call__(
        self,
        config: SiteConfig,
        *,
        ready: Callable[[BoundEndpoints], None],
        stop: trio.Event,
        hangups: trio.MemoryReceiveChannel[None] | None = None,
    ) -> None: ...


async def run_until_told(
    run_node: RunNode,
    config: SiteConfig,
    *,
    ready: Callable[[BoundEndpoints], None],
    told: Callable[[str], None],
    until_stdin_closes: bool = False,
) -> None:
    """Run a node until SIGINT, SIGTERM or, if asked, the end of standard input; then drain and return.

    A second signal does not wait for the drain. SIGHUP makes the node read its files anew. `told` gets one line for
    people whenever any of that happens.
    """
    with contextlib.suppress(OSError, ValueError):  # a connection costs two descriptors; the usual 1,024 are a desk's
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    stop = trio.Event()
    hang_up, hangups = trio.open_memory_channel[None](1)  # one that waits stands for all
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_on_signals, signals, stop, hang_up, nursery.cancel_scope, told)
            if until_stdin_closes:
                nursery.start_soon(_on_stdin_end, stop, _read_stdin, told)
            await run_node(config, ready=ready, stop=stop, hangups=hangups)
            nursery.cancel_scope.cancel()


async def _on_signals(
    signals: AsyncIterator[int],
    stop: trio.Event,
    hang_up: trio.MemorySendChannel[None],
    everything: trio.CancelScope,
    told: Callable[[str], None],
) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        if number == signal.SIGHUP:
            told(f"{name}: reading files anew")
            with contextlib.suppress(trio.WouldBlock):
                hang_up.send_nowait(None)
        elif stop.is_set():
            told(f"{name} again: leaving at once")
            everything.cancel()
        else:
            told(f"{name}: draining; once more to leave at once")
            stop.set()


async def _on_stdin_end(stop: trio.Event, read: Callable[[], Awaitable[bytes]], told: Callable[[str], None]) -> None:
    while await read():
        pass
    if not stop.is_set():
        told("standard input closed: draining")
        stop.set()


async def _read_stdin() -> bytes:
    # In a thread, for standard input may be a file or a terminal, which epoll does not take; left behind at the end.
    return await trio.to_thread.run_sync(os.read, 0, STDIN_READ_BYTES, abandon_on_cancel=True)
