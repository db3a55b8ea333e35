"""One node: gossip, health, policy, traffic and control, composed (edge).

::

    probes ─┐                         ┌─▶ lattice (engine on its driver) ─▶ peers
    traffic ┴▶ RegionalHealth ─levels─┘            │ RegionChanged, PolicyChanged, RegionDoubted
                   │ ejections                     ▼
    request ───────┴──▶ decide(RouteTable) ◀── Planner(program, levels, place)

The table is planned when a level or the policy changes, never for a request. All state is touched on the trio thread
only, and every change to it is one assignment, so a decision sees either the old world or the new.
"""

from __future__ import annotations

import logging
import math
import os
import random
import socket as stdlib_socket
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import trio

from lattice.discovery import Discovery
from lattice.driver import Driver
from lattice.events import (
    EquivocationProven,
    HealthObserved,
    IdConflict,
    KeyRevoked,
    LeaveRequested,
    MemberChanged,
    Notification,
    PeerDiscovered,
    PolicyApplied,
    PolicyChanged,
    Purged,
    RegionChanged,
    RegionDoubted,
    Rejected,
    VerdictChanged,
)
from lattice.identity import Ed25519Verifier
from lattice.transport import Clock, Transport
from lattice.types import MILLISECOND, SECOND, AuthorId, Endpoint, Level, VersionId, short
from lattice.view import LatticeView
from router.cache.turn import SiteCache
from router.complaints import Complaints
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
from router.credentials import CredentialError, Credentials
from router.decision.decide import Attempt, Decision, Request
from router.decision.layout import SitePlace
from router.decision.program import Program
from router.decision.request import NO_NEEDS, Needs
from router.decision.seen import SeenClients
from router.errors import StartError
from router.health.health_check import HealthChecker, ProbeTarget
from router.health.probe_once import ProbeResult, probe_once
from router.health.region_word import RegionWords
from router.health.regional_health import RegionalHealth
from router.journal import Journal
from router.listening import HTTP, HTTPS, TCP, TCP_TLS, Listeners
from router.location import Locations
from router.planner import Planner
from router.policy import PolicyError
from router.policy.paths import PathPattern
from router.policy.probe import ProbeKind
from router.policy.values import BadValueError, read_host_pattern, read_path_pattern
from router.policy_keeper import InForce, compile_text, complaint, load_grammar
from router.seeding import Seeding
from router.serving import Servers, Serving
from router.site.config_reader import ConfigError, endpoint_text
from router.site.reloading import left_for_a_start, reloaded
from router.site.site_config import SiteConfig
from router.site.site_file import load_site_config
from router.site.state_dir import LastGood
from router.submissions import Submissions
from router.tcp.relay import TcpListener, TcpRelay
from router.traffic.proxy import Proxy
from router.traffic.steering import NO_POLICY, Outcome
from router.traffic.trusted_hops import TrustedHops
from router.traffic.upstream_address import AddressRule
from router.traffic.upstream_tls import UpstreamTls, UpstreamTlsError
from router.workers.fleet import Fleet

log = logging.getLogger("edgelattice")

OBSERVE_INTERVAL_US = 500 * MILLISECOND
"""How often metrics that changed no level are told to the engine, which quantises and paces them further."""
LEVEL_INTERVAL_US = 10 * MILLISECOND
"""How often at most a success is asked whether it changed its region's level; a failure always is."""
EXPIRE_INTERVAL_US = 100 * MILLISECOND
WARM_STEPS = 50
"""Lanes settled beforehand in each of these intervals: half a millisecond."""
LEAVE_GRACE_US = 200 * MILLISECOND
"""How long the goodbye datagrams get."""
REMEMBER_AGAIN_S = 5.0
"""As the database's writer tries again."""
SIGNAL_AHEAD_MS_MAX = 300_000
"""How far a signal's sender may be ahead of us: it would silence the region's other senders for as long."""
_ERROR_ENDINGS = ("failed_502", "failed_504", "shed_503", "truncated", "internal_error")


class Node:
    """What a node knows and decides; the control API's `ControlTarget`."""

    def __init__(
        self,
        config: SiteConfig,
        driver_of: Callable[[Callable[[Notification], None], Callable[[int, str], None]], Driver],
        clock: Clock,
        last_good: LastGood,
        credentials: Credentials,
    ) -> None:
        """`driver_of` makes the driver, given whom to notify, and whom to tell what became of the disk."""
        self._last_good = last_good
        self._unremembered: VersionId | None = None
        """The version in force, while the disk does not take it."""
        self._credentials = credentials
        self._config = config
        self._clock = clock
        latitude_e6, longitude_e6 = config.site.at_e6 or (0, 0)
        place = SitePlace(config.site.name, latitude_e6, longitude_e6, placed=config.site.at_e6 is not None)
        self._planner = Planner(place, config.timing.failback_us)
        self._journal = Journal(clock.now)
        self._complaints = Complaints(self._journal, log.warning)
        geo, state_dir = config.geo.database, config.site.state_dir
        self._locations = Locations(geo, state_dir, self._journal) if geo else None
        self._health = RegionalHealth()
        self._levels_told: dict[str, Level] = {}
        self._level_due: dict[str, int] = {}
        self._in_force: InForce | None = None
        self._seen = SeenClients()
        self._driver = driver_of(self._on_notification, self._on_disk)
        self._words = RegionWords(
            credentials.ca_key,
            Ed25519Verifier(config.cluster.name),
            self._driver.is_revoked,
            unsigned=config.control.unsigned_signals,
        )
        self._seeding = Seeding(config.gossip.seeds, config.gossip.listen[0], self._driver.submit)
        self._discovery: Discovery | None = None
        self._policy_elected = trio.Event()
        self._submissions = Submissions(self._driver, config.cluster.name, config.policy.author_key, self._now_ms)
        self._addresses = AddressRule(config.upstream.allow)
        self._cache = SiteCache(config.cache.bytes_max, config.cache.object_bytes_max)
        self._fleet = Fleet(config.path, self._journal, self.observed, self._admitted, self.reported)
        self._serving = Serving(self._fleet)
        self._masked_told = -1
        self._relay = TcpRelay(
            _DataPlane(self),
            addresses=self._addresses,
            unix=dict(config.upstream.unix),
            says_who=config.tcp.proxy_protocol,
        )
        self._checker = HealthChecker(self._on_probe, random.Random(os.urandom(16)), self._probe)

    def _servers(self) -> Servers:
        """Who is to serve users by the site file."""
        config, tls = self._config, self._credentials.server_tls
        if config.http.workers > 1:
            return config.http.workers
        proxy = Proxy(
            _DataPlane(self),
            config.site.name,
            tls=None if tls is None else tls.context,
            addresses=self._addresses,
            unix=dict(config.upstream.unix),
            announced_by=TrustedHops(config.http.proxy_from),
            forwarders=config.http.forwarders(),
            cache=self._cache,
        )
        proxy.configure(self._named_endpoints(), self._credentials.upstream_tls)
        return proxy

    @property
    def driver(self) -> Driver:
        return self._driver

    # --- what the data plane asks and tells (`_DataPlane`)

    def decide(self, request: Request) -> Decision:
        table = self._planner.table
        if table is None:
            return NO_POLICY
        if self._locations is not None and table.program.needs.place:
            request = self._locations.located(request)
        return self._seen.decide(table, request, self._health.ejected)

    def located(self, request: Request) -> Request:
        return self._locations.located(request) if self._locations is not None and self.needs.place else request

    @property
    def needs(self) -> Needs:
        table = self._planner.table
        return NO_NEEDS if table is None else table.program.needs

    def decided_under(self) -> tuple[object, int]:
        """What equal requests are decided alike under: a table, and who is ejected or half open."""
        return self._planner.table, self._health.mask.epoch

    def steer(self, request: Request) -> Decision:
        """As `decide`, for a request that is about to be sent."""
        decision = self.decide(request)
        if decision.attempts:
            self._health.admit(decision.attempts[0].endpoint, self._clock.now())
        return decision

    def _admitted(self, endpoint: Endpoint) -> None:
        """A worker sends a half-open endpoint its trial."""
        self._health.admit(endpoint, self._clock.now())

    def _tell_workers(self) -> None:
        """Who is out of use, if that has changed."""
        if self._masked_told != self._health.mask.epoch:
            self._masked_told = self._health.mask.epoch
            self._fleet.mask(self._health.mask.out_of_use)

    def observed(self, attempt: Attempt, outcome: Outcome, latency_us: int) -> None:
        now = self._clock.now()
        if outcome is Outcome.OK and self._health.answered_as_usual(attempt, latency_us, now):
            return
        changed = self._health.answered(attempt, outcome, latency_us, now)
        if changed:
            kind = "lift" if outcome is Outcome.OK else "eject"
            where = endpoint_text(attempt.endpoint)
            self._journal.note(
                kind, f"{attempt.region} {where}: {outcome.value}", endpoint=where, region=attempt.region
            )
            if kind == "eject":
                self._checker.look_now(attempt.region, None if outcome is Outcome.HUNG else attempt.endpoint)
            self._tell_workers()
        if outcome is not Outcome.OK or changed or now >= self._level_due.get(attempt.region, 0):
            self._level_due[attempt.region] = now + LEVEL_INTERVAL_US
            self._tell_if_changed(attempt.region)

    def reported(self, attempt: Attempt, saturation_ppm: int) -> None:
        self._health.reported(attempt, saturation_ppm, self._clock.now())

    # --- evidence

    async def _probe(self, target: ProbeTarget) -> ProbeResult:
        unix = dict(self._config.upstream.unix).get(target.endpoint)
        why = self._addresses.why_refused(target.endpoint[0]) if unix is None else None
        if why is not None:
            await trio.lowlevel.checkpoint()
            return ProbeResult(False, 0, connect_failed=True, detail=f"{why} address: refused by this site")
        if target.tls is None:
            return await probe_once(target.endpoint, target.probe, target.timeout_us, unix=unix)
        protocol = "h2" if target.probe.kind is ProbeKind.GRPC else "http/1.1"
        try:
            context = self._credentials.upstream_tls.context(protocol)
        except UpstreamTlsError as error:
            return ProbeResult(False, 0, connect_failed=True, detail=str(error), ours=True)
        return await probe_once(
            target.endpoint, target.probe, target.timeout_us, tls=target.tls, context=context, unix=unix
        )

    def _on_probe(self, target: ProbeTarget, result: ProbeResult) -> None:
        if result.connect_us is not None:
            self._planner.measured(target.region, result.connect_us)
        if self._health.probed(target.region, target.endpoint, result.sample(), self._clock.now()):
            where = endpoint_text(target.endpoint)
            self._journal.note(
                "lift", f"{target.region} {where}: a probe succeeded", endpoint=where, region=target.region
            )
            self._tell_workers()
        self._tell_if_changed(target.region)

    def _tell_if_changed(self, region: str) -> None:
        """A level that changed is told to the lattice at once; metrics wait for their turn."""
        if self._health.level(region, self._clock.now()) != self._levels_told.get(region):
            self._tell()

    def _tell(self) -> None:
        observations = self._health.observations(self._clock.now())
        if self._driver.submit_nowait(HealthObserved(observations)):
            self._levels_told = {observation.region: observation.level for observation in observations}

    async def keep_telling(self) -> None:
        while True:
            await trio.sleep(OBSERVE_INTERVAL_US / SECOND)
            self._tell()
            if self._planner.has_news(self.view().regions):
                self._replan()

    async def keep_expiring(self) -> None:
        """Half-open ejected endpoints when their term is over; plan anew at a time window's edge."""
        while True:
            await trio.sleep(EXPIRE_INTERVAL_US / SECOND)
            now = self._clock.now()
            self._health.expire(now)
            self._tell_workers()
            if self._planner.is_due(now):
                self._replan()
            self._planner.warm(WARM_STEPS)

    # --- what the lattice says

    def _on_notification(self, notification: Notification) -> None:
        match notification:
            case RegionChanged(region, old, new, reason):
                self._journal.note(
                    "region", f"{region} {old.name} -> {new.name} ({reason})", region=region, old=old.name, new=new.name
                )
                self._replan()
            case VerdictChanged(region, old, new):
                text = f"the lattice's verdict on {region}: {old.name} -> {new.name}"
                self._journal.note("verdict", text, region=region, old=old.name, new=new.name)
            case RegionDoubted(region, _, _):
                self._checker.look_now(region)
            case PolicyChanged(policy, _) if policy == DEFAULT_POLICY:
                self._policy_elected.set()
            case MemberChanged(node, site, state):
                self._journal.note("member", f"{site} ({short(node)}) {state}", site=site, state=state)
            case EquivocationProven(node, site, incarnation, spent):
                follows = "its key never votes again" if spent else "it does not vote until it begins anew"
                text = f"{site} ({short(node)}) said two things in incarnation {incarnation}: {follows}"
                self._journal.note("equivocation", text, site=site)
                log.error("%s", text)
            case IdConflict(node, endpoint):
                text = (
                    f"the key of node {short(node)} speaks from {endpoint_text(endpoint)} as well: stop one of the two"
                )
                self._journal.note("conflict", text)
                log.error("%s", text)
            case KeyRevoked(key, site):
                ours = key == self._driver.view().node
                whose = "this node" if ours else f"{site}'s node" if site else "an author or a node"
                text = f"the CA has revoked the key of {whose} ({short(key)})"
                if ours:
                    text += ": peers do not listen to it any more; it goes on by its own evidence"
                self._journal.note("revoked", text)
                log.warning("%s", text)
            case Purged(host, path, author):
                self._forget_cached(host, path, author)
            case Rejected(what, reason, source):
                log.debug("%s from %s refused: %s", what, source and endpoint_text(source), reason)
                self._complaints.rejected(what, reason, source, self._clock.now())
            case _:
                pass

    def _forget_cached(self, host: str, path: str, author: AuthorId) -> None:
        try:
            pattern = PathPattern.compiled(read_path_pattern(path))
            dropped = self._serving.purge(read_host_pattern(host), pattern)
            self._fleet.purge(host, path)
        except BadValueError as error:  # by an author of another edition
            log.warning("a purge by %s is not understood: %s", short(author), error.message)
            return
        count = f"{dropped} responses" if self._config.http.workers == 1 else "its workers'"
        text = f"{short(author)} purged {host} {path}: {count} dropped"
        self._journal.note("purge", text)

    def _on_disk(self, level: int, text: str) -> None:
        self._journal.note("disk", text)
        log.log(level, "%s", text)

    def _replan(self) -> None:
        now, planner = self._clock.now(), self._planner
        table = planner.plan(self.view().regions, now)
        if table is not None:
            levels = {region: int(level) for region, level in table.levels.items()}
            self._fleet.plan(levels, dict(planner.saturation_ppm), dict(planner.rtt_us), dict(planner.away_ppm), now)

    async def keep_policy(self) -> None:
        """Put every elected version into force, once it compiles."""
        while True:
            with trio.move_on_after(math.inf if self._unremembered is None else REMEMBER_AGAIN_S):
                await self._policy_elected.wait()
            if self._unremembered is not None:
                await self._remember(self._unremembered)
            self._policy_elected = trio.Event()
            elected = next((policy for policy in self.view().policies if policy.policy == DEFAULT_POLICY), None)
            if elected is None or (self._in_force and elected.version == self._in_force.version):
                continue
            try:
                program = await trio.to_thread.run_sync(compile_text, "".join(elected.blocks), elected.policy)
            except PolicyError as error:
                text = f"version {short(elected.version)} refused, the last good one stays: {complaint(error)}"
                self._journal.note("policy", text, policy=elected.policy, version=elected.version.hex())
                log.error("policy %s: %s", elected.policy, text)
                continue
            await self._put_into_force(InForce(elected.version, "".join(elected.blocks), program, self._now_ms()))

    async def restore_policy(self) -> None:
        """Begin with the version that was in force before the restart: what was elected since may not compile here."""
        version = await trio.to_thread.run_sync(self._last_good.read)
        text = None if version is None else self._driver.policy.text_of(version)
        if version is None or text is None:
            return
        try:
            program = await trio.to_thread.run_sync(compile_text, text, DEFAULT_POLICY)
        except PolicyError as error:
            log.error("the version last in force does not compile any more: %s", complaint(error))
            return
        await self._put_into_force(InForce(version, text, program, self._now_ms()))

    async def _put_into_force(self, policy: InForce) -> None:
        await self._load_authorities(policy.program)
        self._in_force = policy
        self._configure(policy.program)
        where = {"policy": DEFAULT_POLICY, "version": policy.version.hex()}
        self._journal.note("policy", f"version {short(policy.version)} in force", **where)
        await self._driver.submit(PolicyApplied(DEFAULT_POLICY, policy.version))
        await self._remember(policy.version)

    async def _remember(self, version: VersionId) -> None:
        """With which version to begin after a restart; tried again until the disk takes it, and told once."""
        try:
            await trio.to_thread.run_sync(self._last_good.write, version)
        except OSError as error:
            if self._unremembered is None:
                text = (
                    f"cannot write {self._last_good.path}: {(error.strerror or str(error)).lower()}; it is tried again "
                    f"every {REMEMBER_AGAIN_S:.0f} s, and until then a restart begins with the version before; make "
                    "room there, or see to its disk"
                )
                self._on_disk(logging.ERROR, text)
            self._unremembered = version
        else:
            if self._unremembered is not None:
                self._on_disk(logging.INFO, f"{self._last_good.path} is written")
            self._unremembered = None

    async def _load_authorities(self, program: Program) -> None:
        """The system's take OpenSSL tens of milliseconds: before the first connection, and not on the loop."""
        if not any(endpoint.tls for region in program.regions.values() for endpoint in region.endpoints):
            return
        for protocol in ("http/1.1", "h2"):
            try:
                await trio.to_thread.run_sync(self._credentials.upstream_tls.context, protocol)
            except UpstreamTlsError as error:
                log.error("no endpoint can be reached by TLS: %s", error)

    def _now_ms(self) -> int:
        return self._clock.now() // MILLISECOND

    def _configure(self, program: Program) -> None:
        if self._in_force is not None:
            self._fleet.configure(self._in_force.text)
        self._health.configure(program)
        self._planner.take(program)
        self._connect_as(self._credentials.upstream_tls)
        for name, region in program.regions.items():
            for endpoint in region.endpoints:
                why = self._addresses.why_refused(endpoint.host)
                if why is not None:
                    where = endpoint_text((endpoint.host, endpoint.port))
                    text = (
                        f"region {name}: {where} is a {why} address, which upstream.allow in site.toml does not allow"
                    )
                    self._journal.note("policy", text, region=name)
                    log.error("%s", text)
        self._checker.configure(
            ProbeTarget(
                region=name,
                endpoint=(endpoint.host, endpoint.port),
                every_us=program.health[name].probe_interval_us,
                timeout_us=program.health[name].probe_timeout_us,
                fail_after=program.health[name].fail_after,
                probe=program.health[name].probe,
                tls=endpoint.tls,
            )
            for name, region in program.regions.items()
            for endpoint in region.endpoints
        )
        self._replan()

    def _connect_as(self, tls: UpstreamTls) -> None:
        self._serving.configure(self._named_endpoints(), tls)

    def _named_endpoints(self) -> Mapping[Endpoint, str]:
        """Those that speak TLS, by the name that each must prove to have."""
        regions = self._in_force.program.regions.values() if self._in_force is not None else ()
        return {(each.host, each.port): each.tls for region in regions for each in region.endpoints if each.tls}

    # --- ControlTarget: what operators see and do

    def view(self) -> LatticeView:
        return self._driver.view()

    def traffic(self) -> Traffic:
        counters = self._serving.counters
        by_region = sorted(
            (name.removeprefix("region."), count) for name, count in counters.items() if name.startswith("region.")
        )
        return Traffic(
            requests=counters["requests"],
            by_region=tuple(by_region),
            errors=sum(counters[ending] for ending in _ERROR_ENDINGS),
            retries=counters["retries"],
        )

    def steering(self) -> Sequence[RegionSteering]:
        now = self._clock.now()
        return self._planner.steering(self.view().regions, self._health.reasons(now), now)

    def ejected(self) -> AbstractSet[Endpoint]:
        return self._health.ejected

    def events(self) -> Sequence[NodeEvent]:
        return self._journal.events()

    def counters(self) -> Mapping[str, int]:
        parts = {
            "proxy": dict(self._serving.counters),
            "tcp": dict(self._relay.counters),
            "probe": dict(self._checker.counters),
            "": {**self._driver.counters(), **self._health.counters(), **self._discovery_counters()},
        }
        return {f"{part} {name}".strip(): count for part, names in parts.items() for name, count in names.items()}

    def applied_ms(self, policy: str) -> int | None:
        return self._in_force.applied_ms if self._in_force and policy == DEFAULT_POLICY else None

    def policy_text(self, policy: str) -> str | None:
        return self._in_force.text if self._in_force and policy == DEFAULT_POLICY else None

    def policy_head(self, policy: str, author: AuthorId) -> PolicyHead:
        return head_at(self._driver.policy, self._config.cluster.name, policy, author)

    def standing(self, policy: str) -> Sequence[Standing]:
        return standing_at(self._driver.policy, policy)

    def policy_ops(self) -> Sequence[bytes]:
        return self._driver.policy.ops()

    def warnings(self) -> Sequence[str]:
        told = list(self._credentials.expiries())
        if (trouble := self._driver.trouble()) is not None:
            told.insert(0, trouble)
        if self._locations is not None and self._locations.problem:
            told.append(f"location database: {self._locations.problem}")
        return told

    def keys(self) -> KeysState:
        return self._credentials.state()

    def snapshot(self) -> Sequence[RegionSnapshot]:
        return self._health.snapshot(self._clock.now())

    def update_signal(self, signal: RegionSignal, proof: Proof | None) -> None:
        if not self._health.knows(signal.region):
            raise RefusalError(422, f"no policy in force names region {signal.region!r}", "see GET /policy")
        ahead_ms = signal.timestamp_ms - self._now_ms()
        if ahead_ms > SIGNAL_AHEAD_MS_MAX:
            raise RefusalError(422, f"the timestamp is {ahead_ms // 1_000} s in the future", "check the sender's clock")
        self._words.judge(signal, proof, self._clock.now())
        if not self._health.signalled(signal, self._clock.now()):
            raise RefusalError(409, f"a later signal of region {signal.region!r} is known", "send a greater timestamp")
        self._tell()

    async def submit_revocations(self, revocations: tuple[bytes, ...]) -> None:
        await self._submissions.revocations(revocations)

    async def submit_purges(self, purges: tuple[bytes, ...]) -> None:
        await self._submissions.purges(purges)

    async def publish_text(self, policy: str, text: str, message: str) -> Published:
        return await self._submissions.publish(policy, text, message)

    async def submit_ops(self, policy: str, ops: tuple[bytes, ...]) -> Published:
        return await self._submissions.ops(policy, ops)

    # --- running

    def _door(self) -> Door | None:
        if not self._config.control.tls:
            return None
        return Door(self._credentials.security_now, self._driver.is_revoked, self._clock.now)

    async def run(
        self,
        transport: Transport,
        listeners: Listeners,
        control: stdlib_socket.socket,
        *,
        ready: Callable[[], None],
        stop: trio.Event,
        hangups: trio.MemoryReceiveChannel[None] | None,
    ) -> None:
        """Serve until `stop`, then leave the cluster, drain, and return. Each of `hangups`: read files anew. Closes the
        listeners."""
        self._listeners = listeners
        try:
            await self._run(transport, control, ready, stop, hangups)
        finally:
            self._listeners.close()

    async def _run(
        self,
        transport: Transport,
        control: stdlib_socket.socket,
        ready: Callable[[], None],
        stop: trio.Event,
        hangups: trio.MemoryReceiveChannel[None] | None,
    ) -> None:
        async with trio.open_nursery() as nursery:
            await trio.to_thread.run_sync(load_grammar)
            await nursery.start(self._driver.run)
            await self.restore_policy()
            nursery.start_soon(self.keep_policy)
            nursery.start_soon(self.keep_telling)
            nursery.start_soon(self.keep_expiring)
            if self._locations is not None:
                nursery.start_soon(self._locations.keep)
            nursery.start_soon(self._seeding.keep)
            nursery.start_soon(
                self._credentials.keep, self._driver.secure, self._driver.submit, self._connect_as, self._journal
            )
            await nursery.start(self._checker.run)
            await nursery.start(
                partial(serve_control, control_app(self, self._config.control.host_names), control, stop, self._door())
            )
            http, https = self._listeners.of(*HTTP), self._listeners.of(*HTTPS)
            await nursery.start(self._serving.run, self._servers(), http, https)
            await nursery.start(self._relay.serve, _relayed(self._listeners))
            if hangups is not None:
                nursery.start_soon(self._keep_reloading, hangups)
            if self._config.gossip.mdns:
                self._discovery = self._discovery_on(transport)
                nursery.start_soon(self._discovery.run)
            ready()
            await stop.wait()
            await self._driver.submit(LeaveRequested())
            self._listeners.close()
            async with trio.open_nursery() as draining:
                draining.start_soon(self._serving.drain, self._config.timing.drain_us)
                draining.start_soon(self._relay.drain, self._config.timing.drain_us)
            await trio.sleep(LEAVE_GRACE_US / SECOND)
            nursery.cancel_scope.cancel()

    async def _keep_reloading(self, hangups: trio.MemoryReceiveChannel[None]) -> None:
        async for _ in hangups:
            self._journal.note("reload", "SIGHUP")
            self._credentials.refresh_tls(self._journal, everything=True)
            try:
                fresh = await trio.to_thread.run_sync(load_site_config, self._config.path)
                await self._serve_by(reloaded(self._config, fresh))
            except (ConfigError, CredentialError, StartError, OSError) as error:
                text = f"the site file cannot be used, the last good one stays in force: {error}"
                self._journal.note("reload", text)
                log.error("%s", text)
                continue
            left = ", ".join(left_for_a_start(self._config, fresh))
            if left:
                text = f"only a new start brings into force what the site file says now of {left}"
                self._journal.note("reload", text)
                log.warning("%s", text)

    async def _serve_by(self, config: SiteConfig) -> None:
        """Serve new connections by a site file that was read anew; those there are finish what they do. Raises
        `CredentialError`, `StartError` or OSError; then nothing has changed but certificates."""
        before = self._config, self._addresses, self._cache
        if config == self._config and config.http.workers == 1:
            return  # workers read their files once, and so begin anew
        listeners = Listeners.open(config.http, config.tcp, self._listeners)
        try:
            self._credentials.take_site(config)
        except CredentialError:
            listeners.close(kept=self._listeners)
            raise
        cache_stays = config.cache == self._config.cache
        self._config = config
        self._addresses = AddressRule(config.upstream.allow)
        if not cache_stays:
            self._cache = SiteCache(config.cache.bytes_max, config.cache.object_bytes_max)
        http: list[trio.SocketListener] = []
        https: list[trio.SocketListener] = []
        relayed: list[TcpListener] = []
        try:
            http, https, relayed = listeners.of(*HTTP), listeners.of(*HTTPS), _relayed(listeners)
            await self._serving.replace(self._servers(), http, https)
        except BaseException:
            self._config, self._addresses, self._cache = before
            for listener in (*http, *https, *[each.listener for each in relayed]):
                listener.socket.close()
            listeners.close(kept=self._listeners)
            raise
        await self._relay.replace(
            relayed, self._addresses, dict(config.upstream.unix), says_who=config.tcp.proxy_protocol
        )
        self._planner.failback.ramp_us = config.timing.failback_us
        old, self._listeners = self._listeners, listeners
        old.close(kept=listeners)
        bound = [endpoint_text(each) for each in listeners.bound(*HTTP, *HTTPS, *TCP, *TCP_TLS)]
        self._journal.note("reload", f"the site file is in force anew; users come by {', '.join(bound)}")

    def _discovery_counters(self) -> dict[str, int]:
        return {**self._seeding.counters, **(self._discovery.counters if self._discovery else {})}

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


def _relayed(listeners: Listeners) -> list[TcpListener]:
    plain = [TcpListener(each, tls=False) for each in listeners.of(*TCP)]
    return plain + [TcpListener(each, tls=True) for each in listeners.of(*TCP_TLS)]


class _DataPlane:
    """The node as the proxy's `Router`: here a decision is acted upon, so it may be a half-open endpoint's trial."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.epoch = node.decided_under
        self.decide = node.steer
        self.observed = node.observed
        self.reported = node.reported

    @property
    def needs(self) -> Needs:
        return self._node.needs
