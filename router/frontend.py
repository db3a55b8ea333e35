"""Where users come in, as the site file says it: listeners, proxy or workers, TCP mode, cache. A SIGHUP reads it anew
(edge).

What is in force serves until all of the new is there; a site file that cannot be used changes nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping

import trio

from lattice.types import AuthorId, Endpoint, short
from router.cache.turn import SiteCache
from router.control.target import Traffic
from router.credentials import CredentialError, Credentials
from router.errors import StartError
from router.journal import Journal
from router.listening import HTTP, HTTPS, TCP, TCP_TLS, Listeners
from router.policy.paths import PathPattern
from router.policy.values import BadValueError, read_host_pattern, read_path_pattern
from router.policy_keeper import InForce
from router.serving import Servers, Serving
from router.site.config_reader import ConfigError, endpoint_text
from router.site.reloading import left_for_a_start, reloaded
from router.site.site_config import SiteConfig
from router.site.site_file import load_site_config
from router.steering import Steering
from router.tcp.relay import TcpListener, TcpRelay
from router.traffic.proxy import Proxy, ProxyLimits
from router.traffic.trusted_hops import TrustedHops
from router.traffic.upstream_address import AddressRule
from router.traffic.upstream_tls import UpstreamTls
from router.trial import Trial

log = logging.getLogger("edgelattice")

_ERROR_ENDINGS = ("failed_502", "failed_504", "shed_503", "truncated", "internal_error")


class Frontend:
    """Use on one trio thread."""

    def __init__(
        self,
        config: SiteConfig,
        listeners: Listeners,
        credentials: Credentials,
        steering: Steering,
        journal: Journal,
        taken_on: Callable[[SiteConfig], None],
    ) -> None:
        """`taken_on` is told of each site file that came into force later. Closes the listeners."""
        self.config = config
        """The one in force."""
        self._listeners = listeners
        self._closed = False
        self._credentials = credentials
        self._steering = steering
        self._journal = journal
        self._taken_on = taken_on
        self._addresses = AddressRule(config.upstream.allow)
        self._cache = SiteCache(config.cache.bytes_max, config.cache.object_bytes_max)
        self._trial: Trial | None = None
        self._names: Mapping[Endpoint, str] = {}
        """Of the endpoints that speak TLS: what each must prove to be called."""
        self._serving = Serving(steering.fleet)
        steering.oldest = self._serving.oldest
        self._relay = TcpRelay(
            steering,
            addresses=self._addresses,
            unix=dict(config.upstream.unix),
            says_who=config.tcp.proxy_protocol,
            announced_by=TrustedHops(config.tcp.proxy_from),
        )

    def _servers(self) -> Servers:
        """Who is to serve users by the site file."""
        config, tls = self.config, self._credentials.server_tls
        if config.http.workers > 1:
            return config.http.workers
        proxy = Proxy(
            self._steering,
            config.site.name,
            ProxyLimits(body_bytes_max=config.http.body_bytes_max),
            tls=None if tls is None else tls.context,
            addresses=self._addresses,
            unix=dict(config.upstream.unix),
            announced_by=TrustedHops(config.http.proxy_from),
            forwarders=config.http.forwarders(),
            cache=self._cache,
        )
        proxy.configure(self._names, self._credentials.upstream_tls)
        proxy.try_out(self._trial)
        return proxy

    async def start(self, nursery: trio.Nursery) -> None:
        """Accept users; returns when all do."""
        http, https = self._listeners.of(*HTTP), self._listeners.of(*HTTPS)
        await nursery.start(self._serving.run, self._servers(), http, https)
        await nursery.start(self._relay.serve, _relayed(self._listeners))

    def close(self) -> None:
        """Accept nobody from now on, and read nothing anew. May be called twice."""
        self._closed = True
        self._listeners.close()

    async def drain(self) -> None:
        """Let what was accepted end, for as long as the site file gives it."""
        async with trio.open_nursery() as draining:
            draining.start_soon(self._serving.drain, self.config.timing.drain_us)
            draining.start_soon(self._relay.drain, self.config.timing.drain_us)

    # --- by which policy, with which keys

    def configure(self, policy: InForce, trial: Trial | None) -> None:
        """Connect to the endpoints of this policy from now on; `trial` is told how requests end, if it is on trial."""
        self._trial = trial
        self._serving.try_out(trial)
        regions = policy.program.regions
        self._names = {
            (each.host, each.port): each.tls for region in regions.values() for each in region.endpoints if each.tls
        }
        self._steering.fleet.configure(policy.text, trial)
        self.connect_as(self._credentials.upstream_tls)
        for name, region in regions.items():
            for endpoint in region.endpoints:
                why = self._addresses.why_refused(endpoint.host)
                if why is not None:
                    where = endpoint_text((endpoint.host, endpoint.port))
                    text = (
                        f"region {name}: {where} is a {why} address, which upstream.allow in site.toml does not allow"
                    )
                    self._journal.note("policy", text, region=name)
                    log.error("%s", text)

    def connect_as(self, tls: UpstreamTls) -> None:
        """With these certificates, to endpoints that speak TLS."""
        self._serving.configure(self._names, tls)

    def purge(self, host: str, path: str, author: AuthorId) -> None:
        """Drop what is cached of these paths, as an author asked."""
        try:
            pattern = PathPattern.compiled(read_path_pattern(path))
            dropped = self._serving.purge(read_host_pattern(host), pattern)
            self._steering.fleet.purge(host, path)
        except BadValueError as error:  # by an author of another edition
            log.warning("a purge by %s is not understood: %s", short(author), error.message)
            return
        count = f"{dropped} responses" if self.config.http.workers == 1 else "its workers'"
        text = f"{short(author)} purged {host} {path}: {count} dropped"
        self._journal.note("purge", text)

    # --- what was served

    @property
    def http_counters(self) -> Counter[str]:
        return self._serving.counters

    @property
    def tcp_counters(self) -> Counter[str]:
        return self._relay.counters

    def traffic(self) -> Traffic:
        """See `ControlTarget.traffic`."""
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

    # --- the site file, read anew

    async def keep_reloading(self, hangups: trio.MemoryReceiveChannel[None]) -> None:
        """At each of `hangups`."""
        async for _ in hangups:
            if self._closed:
                return
            self._journal.note("reload", "SIGHUP")
            self._credentials.refresh_tls(self._journal, everything=True)
            try:
                fresh = await trio.to_thread.run_sync(load_site_config, self.config.path)
                if self._closed:
                    return
                await self._serve_by(reloaded(self.config, fresh))
            except (ConfigError, CredentialError, StartError, OSError) as error:
                if self._closed:  # no mistake of the file's
                    return
                text = f"the site file cannot be used, the last good one stays in force: {error}"
                self._journal.note("reload", text)
                log.error("%s", text)
                continue
            left = ", ".join(left_for_a_start(self.config, fresh))
            if left:
                text = f"only a new start brings into force what the site file says now of {left}"
                self._journal.note("reload", text)
                log.warning("%s", text)

    async def _serve_by(self, config: SiteConfig) -> None:
        """Serve new connections by a site file that was read anew; those there are finish what they do. Raises
        `CredentialError`, `StartError` or OSError; then nothing has changed but certificates."""
        before = self.config, self._addresses, self._cache
        if config == self.config and config.http.workers == 1:
            return  # workers read their files once, and so begin anew
        listeners = Listeners.open(config.http, config.tcp, self._listeners)
        try:
            self._credentials.take_site(config)
        except CredentialError:
            listeners.close(kept=self._listeners)
            raise
        cache_stays = config.cache == self.config.cache
        self.config = config
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
            self.config, self._addresses, self._cache = before
            for listener in (*http, *https, *[each.listener for each in relayed]):
                listener.socket.close()
            listeners.close(kept=self._listeners)
            raise
        await self._relay.replace(
            relayed,
            self._addresses,
            dict(config.upstream.unix),
            says_who=config.tcp.proxy_protocol,
            announced_by=TrustedHops(config.tcp.proxy_from),
        )
        self._taken_on(config)
        old, self._listeners = self._listeners, listeners
        old.close(kept=listeners)
        bound = [endpoint_text(each) for each in listeners.bound(*HTTP, *HTTPS, *TCP, *TCP_TLS)]
        self._journal.note("reload", f"the site file is in force anew; users come by {', '.join(bound)}")


def _relayed(listeners: Listeners) -> list[TcpListener]:
    plain = [TcpListener(each, tls=False) for each in listeners.of(*TCP)]
    return plain + [TcpListener(each, tls=True) for each in listeners.of(*TCP_TLS)]
