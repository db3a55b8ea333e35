"""One worker process: a proxy, and the node's knowledge to steer by (edge).

`python -m router.workers.worker SITE_TOML LINK_FD HTTP_FDS HTTPS_FDS LOG_LEVEL`, as `fleet` starts it. It keeps an
ejection mask of its own, so that what it meets counts before its next decision, and follows the node's, so that what
others met counts too. It lives as long as its node: when the link closes it drains and ends.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import trio

from lattice.events import LocalChange
from lattice.transport import Clock
from lattice.types import Endpoint, Level
from router.cache.turn import SiteCache
from router.compiling import compile_text, load_grammar
from router.control.api import DEFAULT_POLICY
from router.credentials import Credentials
from router.decision.decide import Attempt, Decision, Request
from router.decision.layout import SitePlace
from router.decision.plan import RouteTable, plan
from router.decision.program import Program
from router.decision.request import NO_NEEDS, Needs
from router.decision.seen import SeenClients
from router.health.regional_health import RegionalHealth
from router.journal import Journal
from router.location import Locations
from router.policy.paths import PathPattern
from router.policy.values import read_host_pattern, read_path_pattern
from router.site.site_config import SiteConfig
from router.site.site_file import load_site_config
from router.site.state_dir import node_key_in
from router.traffic.proxy import Proxy, ProxyLimits
from router.traffic.steering import NO_POLICY, Outcome
from router.traffic.trusted_hops import TrustedHops
from router.traffic.upstream_address import AddressRule
from router.traffic.upstream_tls import UpstreamTls
from router.trial import failed
from router.workers.messages import (
    Admitted,
    Configure,
    Counted,
    Deframer,
    Drain,
    Forget,
    Masked,
    Observed,
    Outcomes,
    Planned,
    Ready,
    Reported,
    ToNode,
    ToWorker,
    Tried,
    Waiting,
    decode_to_worker,
    encode,
)

log = logging.getLogger("edgelattice.worker")

BATCH_SECONDS: Final = 0.01
"""How long good news waits for more of it. Bad news does not wait."""
COUNT_SECONDS: Final = 0.5
EXPIRE_SECONDS: Final = 0.1
OUTCOMES_MAX: Final = 20_000
"""Good news kept for a node that does not read; what is more is dropped, and counted."""
WITHOUT_ROUTE_MAX: Final = 64
"""Requests of a batch that found no route: two tell of one that was lost, and anybody can ask for what never was."""
_WHOLE: Final = frozenset({Outcome.OK, Outcome.SERVER_ERROR})


class Telling:
    """The node's trial, as a worker sees it: it is told there, in batches, of a failure at once."""

    def __init__(self, label: str, number: int, wake: Callable[[bool], None]) -> None:
        self.label = label
        self.number = number
        self._wake = wake
        self._endings: list[tuple[str, str, int]] = []
        self._without_route: list[tuple[str, str]] = []

    def found_no_route(self, host: str, path: str) -> None:
        if len(self._without_route) < WITHOUT_ROUTE_MAX:
            self._without_route.append((host, path))
            self._wake(False)

    def ended(self, route: str, ending: str, status: int) -> None:
        outcome = failed(ending, status)
        if outcome is not None and len(self._endings) < OUTCOMES_MAX:
            self._endings.append((route, ending, status))
            self._wake(outcome)

    def take(self) -> Tried | None:
        """What was not told yet."""
        endings, self._endings = self._endings, []
        without_route, self._without_route = self._without_route, []
        return Tried(self.number, endings, without_route) if endings or without_route else None


class Worker:
    """The proxy's `Router`, and the end of the link that belongs to the worker."""

    def __init__(self, config: SiteConfig, link: trio.SocketStream) -> None:
        self._link = link
        self._config = config
        self._clock = Clock()
        self._journal = Journal(self._clock.now)
        self._credentials = Credentials(config, node_key_in(config.site.state_dir), self._clock.now)
        self._seen = SeenClients()
        geo, state_dir = config.geo.database, config.site.state_dir
        self._locations = Locations(geo, state_dir, self._journal, keep=False) if geo else None
        latitude_e6, longitude_e6 = config.site.at_e6 or (0, 0)
        self._place = SitePlace(config.site.name, latitude_e6, longitude_e6, placed=config.site.at_e6 is not None)
        self._health = RegionalHealth()
        self._program: Program | None = None
        self._compiled: dict[str, Program] = {}
        """The last two, by text: whoever gives a policy up goes back to the one before, and at once."""
        self._trial: Telling | None = None
        self._next_trial: Telling | None = None
        """Of what is to be planned."""
        self._table: RouteTable | None = None
        self._outbox: list[Outcomes] = []
        self._admitted: list[Endpoint] = []
        self._reports: dict[Endpoint, Reported] = {}
        self._number = 0
        self._ejected_in: dict[Endpoint, int] = {}  # by which `Observed` the node hears of what we ejected
        self._waiting = trio.Event()
        self._urgent = trio.Event()
        self._dropped = 0
        self._sending = trio.Lock()
        tls = self._credentials.server_tls
        self._proxy = Proxy(
            self,
            config.site.name,
            ProxyLimits(body_bytes_max=config.http.body_bytes_max),
            tls=None if tls is None else tls.context,
            addresses=AddressRule(config.upstream.allow),
            unix=dict(config.upstream.unix),
            announced_by=TrustedHops(config.http.proxy_from),
            forwarders=config.http.forwarders(),
            cache=SiteCache(config.cache.bytes_max, config.cache.object_bytes_max),
        )

    # --- Router

    @property
    def needs(self) -> Needs:
        return NO_NEEDS if self._table is None else self._table.program.needs

    def epoch(self) -> object:
        return self._table, self._health.mask.epoch

    def decide(self, request: Request) -> Decision:
        table = self._table
        if table is None:
            return NO_POLICY
        if self._locations is not None and table.program.needs.place:
            request = self._locations.located(request)
        now = self._clock.now()
        skipped = self._health.kept_from(request.method, now)
        decision = self._seen.decide(table, request, skipped)
        if not decision.attempts and skipped:
            decision = self._seen.decide(table, request, self._health.last_resort())
        if decision.attempts:
            endpoint, before = decision.attempts[0].endpoint, self._health.mask.epoch
            self._health.admit(endpoint, now)
            if self._health.mask.epoch != before:
                self._admitted.append(endpoint)
                self._wake(urgent=True)
        return decision

    def observed(self, attempt: Attempt, outcome: Outcome, latency_us: int, at: float) -> None:
        now = self._clock.at(at)
        changed = not (
            outcome is Outcome.OK and self._health.answered_as_usual(attempt, latency_us, now)
        ) and self._health.answered(attempt, outcome, latency_us, now)
        if changed and outcome is not Outcome.OK:
            for endpoint in self._health.ejected:
                self._ejected_in.setdefault(endpoint, self._number + 1)
        if len(self._outbox) >= OUTCOMES_MAX:
            self._dropped += 1
            return
        self._outbox.append(Outcomes(attempt.region, attempt.tier, attempt.endpoint, outcome.value, latency_us))
        self._wake(urgent=changed or outcome not in _WHOLE)

    def reported(self, attempt: Attempt, saturation_ppm: int) -> None:
        self._reports[attempt.endpoint] = Reported(attempt.region, attempt.tier, attempt.endpoint, saturation_ppm)
        self._wake(urgent=False)

    # --- the link

    async def run(self, listeners: list[trio.SocketListener], tls_listeners: list[trio.SocketListener]) -> None:
        """Serve until told to drain, or until the node is gone."""
        await trio.to_thread.run_sync(load_grammar)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_telling)
            nursery.start_soon(self._keep_counting)
            nursery.start_soon(self._keep_expiring)
            nursery.start_soon(self._keep_looking)
            nursery.start_soon(
                self._credentials.keep, lambda _: None, _leave_to_the_node, self._connect_as, self._journal
            )
            if self._locations is not None:
                nursery.start_soon(self._locations.keep)
            serving = False
            grace_us = self._config.timing.drain_us
            messages = self._messages()
            async for message in messages:
                if isinstance(message, Drain):
                    grace_us = message.grace_us
                    break
                await self._take(message)
                if isinstance(message, Planned):
                    if not serving:
                        serving = True
                        await nursery.start(self._proxy.serve, listeners, tls_listeners)
                    await self._send(Ready(message.number))
            if serving:
                nursery.start_soon(self._hurry, messages)
                await self._proxy.drain(grace_us)
            await self._tell()
            await self._send(Counted(dict(self._proxy.counters)))
            nursery.cancel_scope.cancel()

    async def _hurry(self, messages: AsyncIterator[ToWorker]) -> None:
        """While it drains: a node that leaves, or is gone, gives it less time than one that replaces it."""
        async for message in messages:
            if isinstance(message, Drain):
                await self._proxy.drain(message.grace_us)
        await self._proxy.drain(self._config.timing.drain_us)

    async def _take(self, message: ToWorker) -> None:
        match message:
            case Configure(text, trial, number):
                program = self._compiled.pop(text, None)
                if program is None:
                    program = await trio.to_thread.run_sync(compile_text, text, DEFAULT_POLICY)
                self._compiled = {**dict([*self._compiled.items()][-1:]), text: program}
                self._next_trial = Telling(trial, number, lambda urgent: self._wake(urgent=urgent)) if trial else None
                self._program = program
                self._health.configure(self._program)
                self._connect_as(self._credentials.upstream_tls)
            case Planned(levels, saturation_ppm, rtt_us, now) if self._program is not None:
                known = {region: Level(level) for region, level in levels.items()}
                self._table = plan(self._program, known, self._place, now, saturation_ppm, rtt_us, message.away_ppm)
                self._trial = self._next_trial
                self._proxy.try_out(self._trial)
            case Forget(host, path):
                self._proxy.purge(read_host_pattern(host), PathPattern.compiled(read_path_pattern(path)))
            case Masked(out, seen, suspected):
                ours = {endpoint for endpoint, number in self._ejected_in.items() if number > seen}
                self._ejected_in = {endpoint: self._ejected_in[endpoint] for endpoint in ours}
                self._health.follow({*out}, ours, self._clock.now(), {*suspected})
            case _:
                pass

    def _connect_as(self, tls: UpstreamTls) -> None:
        regions = self._program.regions.values() if self._program is not None else ()
        named = {(each.host, each.port): each.tls for region in regions for each in region.endpoints if each.tls}
        self._proxy.configure(named, tls)

    async def _messages(self) -> AsyncIterator[ToWorker]:
        deframer = Deframer()
        with contextlib.suppress(trio.BrokenResourceError):  # killed, with words of ours unread: an end like any other
            async for data in self._link:
                for message in deframer.feed(bytes(data)):
                    yield decode_to_worker(message)

    def _wake(self, *, urgent: bool) -> None:
        self._waiting.set()
        if urgent:
            self._urgent.set()

    async def _keep_telling(self) -> None:
        while True:
            await self._waiting.wait()
            with trio.move_on_after(BATCH_SECONDS):
                await self._urgent.wait()
            await self._tell()

    async def _tell(self) -> None:
        self._waiting, self._urgent = trio.Event(), trio.Event()
        admitted, self._admitted = self._admitted, []
        for endpoint in admitted:
            await self._send(Admitted(endpoint))
        reports, self._reports = self._reports, {}
        for endpoint in sorted(reports):
            await self._send(reports[endpoint])
        if self._trial is not None and (tried := self._trial.take()) is not None:
            await self._send(tried)
        outcomes, self._outbox = self._outbox, []
        if outcomes:
            self._number += 1
            await self._send(Observed(self._number, outcomes))

    async def _keep_counting(self) -> None:
        while True:
            await trio.sleep(COUNT_SECONDS)
            counters = dict(self._proxy.counters)
            if self._dropped:
                counters["outcomes dropped"] = self._dropped
            await self._send(Counted(counters))

    async def _keep_expiring(self) -> None:
        while True:
            await trio.sleep(EXPIRE_SECONDS)
            self._health.expire(self._clock.now())

    async def _keep_looking(self) -> None:
        """Tell who has waited for too long; the node grades."""
        told: list[tuple[str, Endpoint, int]] = []
        while True:
            await trio.sleep(EXPIRE_SECONDS)
            waiting = self._health.too_old(self._proxy.oldest()) if self._health.minds_the_oldest else []
            if waiting or told:
                told = waiting
                await self._send(Waiting(waiting))

    async def _send(self, message: ToNode) -> None:
        async with self._sending:
            with contextlib.suppress(trio.BrokenResourceError):  # the node is gone, which the reader notices
                await self._link.send_all(encode(message))


async def _leave_to_the_node(_: LocalChange) -> None:
    """What the cluster must hear, the node tells it."""
    await trio.lowlevel.checkpoint()


def _inherited(numbers: str) -> list[trio.SocketListener]:
    sockets = [socket.socket(fileno=int(number)) for number in numbers.split(",") if number]
    return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]


async def _main(site_toml: str, link: int, http: str, https: str) -> None:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=link)))
    await Worker(load_site_config(Path(site_toml)), stream).run(_inherited(http), _inherited(https))


def main(arguments: list[str]) -> int:
    site_toml, link, http, https, level = arguments
    # A terminal and a service manager signal the whole group; a worker leaves when its node says so.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    gc.freeze()  # as `edgelattice run` does
    trio.run(_main, site_toml, int(link), http, https)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
