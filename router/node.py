"""One node, composed: what each part says to the others, and what operators see of them all (edge).

::

    users ──▶ Frontend ──▶ Steering ──levels─▶ lattice (engine on its driver) ─▶ peers
                              ▲                     │ RegionChanged, RegionDoubted
                              └─────────────────────┤ PolicyChanged
                                PolicyKeeper ◀──────┘

All state is touched on the trio thread only.
"""

from __future__ import annotations

import logging
import socket as stdlib_socket
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import trio

from lattice.discovery import Discovery
from lattice.driver import Driver
from lattice.events import (
    LeaveRequested,
    Notification,
    PeerDiscovered,
    PolicyChanged,
    Purged,
    RegionChanged,
    RegionDoubted,
    ServedChanged,
)
from lattice.identity import Ed25519Verifier
from lattice.transport import Clock, Transport
from lattice.types import MILLISECOND, SECOND, AuthorId, Endpoint, VersionId
from lattice.view import LatticeView
from router.compiling import load_grammar
from router.control.api import DEFAULT_POLICY, control_app
from router.control.door import Door
from router.control.server import serve_control
from router.control.target import (
    KeysState,
    NodeEvent,
    PolicyHead,
    Proof,
    Published,
    RefusalError,
    RegionSignal,
    RegionSnapshot,
    RegionSteering,
    Standing,
    Traffic,
    head_at,
    standing_at,
)
from router.credentials import Credentials
from router.decision.decide import Decision, Request
from router.decision.program import Program
from router.frontend import Frontend
from router.health.region_word import RegionWords
from router.journal import Journal
from router.lattice_news import LatticeNews, clock_warning
from router.listening import Listeners
from router.location import Locations
from router.policy_keeper import InForce, PolicyKeeper, redefined
from router.probing import Prober
from router.seeding import Seeding
from router.site.site_config import SiteConfig
from router.site.state_dir import LastGood
from router.steering import Steering
from router.submissions import Submissions
from router.traffic.upstream_tls import UpstreamTlsError
from router.trial import Trial

log = logging.getLogger("edgelattice")

LEAVE_GRACE_US = 200 * MILLISECOND
"""How long the goodbye datagrams get."""
SIGNAL_AHEAD_MS_MAX = 300_000
"""How far a signal's sender may be ahead of us: it would silence the region's other senders for as long."""


class Node:
    """The control API's `ControlTarget`."""

    def __init__(
        self,
        config: SiteConfig,
        driver_of: Callable[[Callable[[Notification], None], Callable[[int, str], None]], Driver],
        clock: Clock,
        last_good: LastGood,
        credentials: Credentials,
        listeners: Listeners,
    ) -> None:
        """`driver_of` makes the driver, given whom to notify, and whom to tell what became of the disk."""
        self._credentials = credentials
        self._config = config
        self._clock = clock
        self._journal = journal = Journal(clock.now)
        self._news = LatticeNews(journal, clock.now, self.view)
        geo, state_dir = config.geo.database, config.site.state_dir
        self._locations = Locations(geo, state_dir, journal) if geo else None
        self._driver = driver = driver_of(self._on_notification, self._on_disk)
        self._prober = Prober(config.upstream, credentials)
        self._steering = Steering(config, driver, self._prober.ask, self._locations, clock, journal)
        self._frontend = Frontend(config, listeners, credentials, self._steering, journal, self._on_site_file)
        self._keeper = PolicyKeeper(
            driver, last_good, self._load_authorities, self._serve_by, journal, self._on_disk, self._now_ms
        )
        self._words = RegionWords(
            credentials.ca_key,
            Ed25519Verifier(config.cluster.name),
            driver.is_revoked,
            unsigned=config.control.unsigned_signals,
        )
        self._seeding = Seeding(config.gossip.seeds, config.gossip.listen[0], driver.submit)
        self._discovery: Discovery | None = None
        self._submissions = Submissions(driver, config.cluster.name, config.policy.author_key, self._now_ms)

    def _now_ms(self) -> int:
        return self._clock.now() // MILLISECOND

    # --- what one part has for the others

    def _on_notification(self, notification: Notification) -> None:
        self._news.tell(notification)
        match notification:
            case RegionChanged():
                self._steering.replan()
            case RegionDoubted(region, _, _):
                self._steering.checker.look_now(region)
            case PolicyChanged(policy, _) if policy == DEFAULT_POLICY:
                self._keeper.elected()
            case ServedChanged(policy, served) if policy == DEFAULT_POLICY:
                self._keeper.serve_instead(served)
            case Purged(host, path, author):
                self._frontend.purge(host, path, author)
            case _:
                pass

    def _on_disk(self, level: int, text: str) -> None:
        self._journal.note("disk", text)
        log.log(level, "%s", text)

    def _on_site_file(self, config: SiteConfig) -> None:
        self._prober.configure(config.upstream)
        self._steering.fail_back_over(config.timing.failback_us)

    def _serve_by(self, policy: InForce, trial: Trial | None, base: InForce | None) -> None:
        self._frontend.configure(policy, trial)
        private = frozenset[str]() if base is None else redefined(policy.program, base.program)
        self._steering.configure(policy.program, private)

    async def _load_authorities(self, program: Program) -> None:
        """The system's take OpenSSL tens of milliseconds: before the first connection, and not on the loop."""
        if not any(endpoint.tls for region in program.regions.values() for endpoint in region.endpoints):
            return
        for protocol in ("http/1.1", "h2"):
            try:
                await trio.to_thread.run_sync(self._credentials.upstream_tls.context, protocol)
            except UpstreamTlsError as error:
                log.error("no endpoint can be reached by TLS: %s", error)

    # --- ControlTarget: what operators see and do

    def view(self) -> LatticeView:
        return self._driver.view()

    def decide(self, request: Request) -> Decision:
        return self._steering.would_decide(request)

    def located(self, request: Request) -> Request:
        return self._steering.located(request)

    def traffic(self) -> Traffic:
        return self._frontend.traffic()

    def steering(self) -> Sequence[RegionSteering]:
        return self._steering.regions()

    def ejected(self) -> AbstractSet[Endpoint]:
        return self._steering.ejected()

    def snapshot(self) -> Sequence[RegionSnapshot]:
        return self._steering.snapshot()

    def events(self) -> Sequence[NodeEvent]:
        return self._journal.events()

    def counters(self) -> Mapping[str, int]:
        found = {**self._seeding.counters, **(self._discovery.counters if self._discovery else {})}
        parts = {
            "proxy": dict(self._frontend.http_counters),
            "tcp": dict(self._frontend.tcp_counters),
            "probe": dict(self._steering.checker.counters),
            "": {**self._driver.counters(), **self._steering.counters(), **found, **self._keeper.counters()},
        }
        return {f"{part} {name}".strip(): count for part, names in parts.items() for name, count in names.items()}

    def applied_ms(self, policy: str) -> int | None:
        in_force = self._keeper.in_force
        return in_force.applied_ms if in_force and policy == DEFAULT_POLICY else None

    def in_force(self, policy: str) -> tuple[VersionId, str] | None:
        in_force, trial = self._keeper.in_force, self._keeper.trial
        if in_force is None or policy != DEFAULT_POLICY:
            return None
        return in_force.version, "" if trial is None else trial.label

    def policy_text(self, policy: str) -> str | None:
        in_force = self._keeper.in_force
        return in_force.text if in_force and policy == DEFAULT_POLICY else None

    def version_text(self, version: VersionId) -> str | None:
        return self._driver.policy.text_of(version)

    def policy_head(self, policy: str, author: AuthorId) -> PolicyHead:
        return head_at(self._driver.policy, self._config.cluster.name, policy, author, self.view().standing(policy))

    def standing(self, policy: str) -> Sequence[Standing]:
        return standing_at(self._driver.policy, policy)

    def policy_ops(self) -> Sequence[bytes]:
        return self._driver.policy.ops()

    def warnings(self) -> Sequence[str]:
        told = [*self._news.warnings(), *self._credentials.expiries()]
        if (clock := clock_warning(self._driver.clock_off_ms())) is not None:
            told.append(clock)
        if self._driver.is_revoked(self.view().node):
            key = self._config.site.state_dir / "node.key"
            told.insert(0, f"this node's key is revoked, and no peer listens to it: remove {key}, and start it anew")
        if (trouble := self._driver.trouble()) is not None:
            told.insert(0, trouble)
        if self._locations is not None and self._locations.problem:
            told.append(f"location database: {self._locations.problem}")
        return told

    def keys(self) -> KeysState:
        return self._credentials.state()

    def update_signal(self, signal: RegionSignal, proof: Proof | None) -> None:
        if not self._steering.knows(signal.region):
            raise RefusalError(422, f"no policy in force names region {signal.region!r}", "see GET /policy")
        ahead_ms = signal.timestamp_ms - self._now_ms()
        if ahead_ms > SIGNAL_AHEAD_MS_MAX:
            raise RefusalError(422, f"the timestamp is {ahead_ms // 1_000} s in the future", "check the sender's clock")
        self._words.judge(signal, proof, self._clock.now())
        if not self._steering.signalled(signal):
            raise RefusalError(409, f"a later signal of region {signal.region!r} is known", "send a greater timestamp")

    async def submit_revocations(self, revocations: tuple[bytes, ...]) -> None:
        await self._submissions.revocations(revocations)

    async def submit_purges(self, purges: tuple[bytes, ...]) -> None:
        await self._submissions.purges(purges)

    async def publish_text(self, policy: str, text: str, message: str) -> Published:
        return await self._submissions.publish(policy, text, message)

    async def submit_ops(self, policy: str, ops: tuple[bytes, ...]) -> Published:
        return await self._submissions.ops(policy, ops)

    # --- running

    async def run(
        self,
        transport: Transport,
        control: stdlib_socket.socket,
        *,
        ready: Callable[[], None],
        stop: trio.Event,
        hangups: trio.MemoryReceiveChannel[None] | None,
    ) -> None:
        """Serve until `stop`, then leave the cluster, drain, and return. Each of `hangups`: read files anew. Closes the
        listeners."""
        try:
            await self._run(transport, control, ready, stop, hangups)
        finally:
            self._frontend.close()

    async def _run(
        self,
        transport: Transport,
        control: stdlib_socket.socket,
        ready: Callable[[], None],
        stop: trio.Event,
        hangups: trio.MemoryReceiveChannel[None] | None,
    ) -> None:
        driver, steering, frontend = self._driver, self._steering, self._frontend
        async with trio.open_nursery() as nursery:
            await trio.to_thread.run_sync(load_grammar)
            await nursery.start(driver.run)
            await self._keeper.restore()
            nursery.start_soon(self._keeper.keep)
            nursery.start_soon(steering.keep_telling)
            nursery.start_soon(steering.keep_expiring)
            if self._locations is not None:
                nursery.start_soon(self._locations.keep)
            nursery.start_soon(self._seeding.keep)
            nursery.start_soon(self._credentials.keep, driver.secure, driver.submit, frontend.connect_as, self._journal)
            await nursery.start(steering.checker.run)
            await nursery.start(
                partial(serve_control, control_app(self, self._config.control.host_names), control, stop, self._door())
            )
            await frontend.start(nursery)
            if hangups is not None:
                nursery.start_soon(frontend.keep_reloading, hangups)
            if self._config.gossip.mdns:
                self._discovery = self._discovery_on(transport)
                nursery.start_soon(self._discovery.run)
            ready()
            await stop.wait()
            await driver.submit(LeaveRequested())
            frontend.close()
            await frontend.drain()
            await trio.sleep(LEAVE_GRACE_US / SECOND)
            nursery.cancel_scope.cancel()

    def _door(self) -> Door | None:
        if not self._config.control.tls:
            return None
        return Door(self._credentials.security_now, self._driver.is_revoked, self._clock.now)

    def _discovery_on(self, transport: Transport) -> Discovery:
        return Discovery(
            cluster=self._config.cluster.name,
            node=self.view().node,
            endpoint=transport.endpoint,
            interfaces=self._config.gossip.mdns_interfaces,
            found=self._on_peer_found,
        )

    async def _on_peer_found(self, endpoint: Endpoint) -> None:
        await self._driver.submit(PeerDiscovered(endpoint))
