"""The control API on a socket: Hypercorn's trio worker, started and stopped by the node.

The socket is bound elsewhere and handed over by descriptor, so that the port is known before anything else starts.
"""

from __future__ import annotations

import logging
import socket

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import ASGIFramework

GRACE_SECONDS = 1.0
"""How long an answer may still take at the stop: handlers take microseconds, so this is for a slow reader."""
READ_TIMEOUT_SECONDS = 10
"""A request that dawdles longer is cut off; operators' tools send a whole one at once."""
HEAD_BYTES_MAX = 16 * 1024

_log = logging.getLogger(f"{__name__}.hypercorn")
_log.setLevel(logging.WARNING)  # where it listens is the node's to say


async def serve_control(
    app: ASGIFramework,
    listener: socket.socket,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` on `listener`, which this call owns from now on, until `stop` is set or the task is cancelled.

    At the stop, answers under way get `GRACE_SECONDS`.
    """
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = _log
    config.accesslog = None
    config.include_server_header = False
    config.graceful_timeout = GRACE_SECONDS
    config.read_timeout = READ_TIMEOUT_SECONDS
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await serve(app, config, shutdown_trigger=stop.wait, mode="asgi", task_status=task_status)

        await nursery.start(run)
        task_status.started()
