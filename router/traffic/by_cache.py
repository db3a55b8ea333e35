"""A request whose route says `cache`: answered from what is stored, or asked for and kept (edge).

`router.cache.turn` says what to do; this does it, and waits where somebody else is fetching the same.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from router.cache.stored import Stored
from router.cache.turn import Fetch, Turn
from router.decision.decide import Decision
from router.traffic.cached import answer_of, turn_of
from router.traffic.ending import CLIENT_GONE, After, Ending
from router.traffic.request_body import ClientGoneError

if TYPE_CHECKING:
    from router.traffic.exchange import Exchange

_log: Final = logging.getLogger(__name__)


async def serve_by_cache(exchange: Exchange, turn: Turn, decision: Decision) -> Ending:
    """From what is stored, or through it."""
    plane = exchange.plane
    try:
        found = turn.look(plane.wall_ms())
        if isinstance(found, Fetch):
            await _wait_for(exchange, found)
            found = turn.look(plane.wall_ms())
        if isinstance(found, Stored):
            if turn.revalidates:
                plane.nest.start(_refresh(exchange, found, decision))
            return await answer_stored(exchange, found)
        if turn.only_if_cached:
            return await exchange.answer(504, "not in the cache, and nobody else was to be asked", "uncached")
        if decision.region is None:
            return await exchange.fail(decision.status, decision.reason, "denied")
        return await exchange.ask(turn, decision)
    finally:
        turn.close()


async def _wait_for(exchange: Exchange, fetch: Fetch) -> None:
    """Until somebody's fetch of the same is over, or has taken too long."""
    over = trio.Event()
    fetch.waiters.append(over.set)  # before anything is awaited: it may be over at any moment
    await exchange.nest.become_task()
    with trio.move_on_after(exchange.limits.collapse_timeout_us / 1e6):
        await over.wait()


async def _refresh(heard: Exchange, stored: Stored, decision: Decision) -> None:
    """Ask again for what was given stale. Nobody waits for it."""
    plane, head = heard.plane, heard.head
    assert plane.cache is not None
    exchange = heard.unheard()
    turn = exchange.turn = turn_of(plane.cache, decision, plane.scheme_of(heard.client, head), head)
    if turn is None or decision.region is None:
        return
    try:
        turn.lead(stored, plane.wall_ms())
        await exchange.ask(turn, decision)
    except Exception:  # noqa: BLE001 -- a bug met here must not take the process down; nobody else would hear of it
        plane.cache.counters["broken"] += 1
        _log.exception("internal error while asking again for %s", head.target.decode("ascii"))
    finally:
        turn.close()


async def answer_stored(exchange: Exchange, stored: Stored) -> Ending:
    """End with a stored response."""
    plane, turn = exchange.plane, exchange.turn
    assert turn is not None
    head, body = answer_of(stored, turn.request, turn.status.field(plane.site), plane.wall_ms())
    keep = exchange.keeps()
    steered = plane.steered(stored.region, "cache")
    await exchange.nest.pause()  # as for our own answers
    try:
        await exchange.to_client(exchange.head_for_client(head, steered, chunked=False, keep=keep) + body)
    except ClientGoneError:
        return CLIENT_GONE
    return Ending("cached", After.KEEP if keep else After.CLOSE)
