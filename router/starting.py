"""A node from its site file: sockets, state directory, keys and engine, and then `Node.run` (edge)."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import trio

from lattice.driver import Driver
from lattice.engine import Engine
from lattice.events import Notification
from lattice.identity import Ed25519Signer, Ed25519Verifier, author_id_of
from lattice.prng import Prng
from lattice.roster import area_of
from lattice.transport import Clock, Transport, bind
from router.credentials import Credentials
from router.listening import HTTP, HTTPS, TCP, TCP_TLS, Listeners, bound_endpoint, cannot_listen, listen
from router.node import Node
from router.site.site_config import BoundEndpoints, SiteConfig
from router.site.state_dir import StateDir


async def run_node(
    config: SiteConfig,
    *,
    ready: Callable[[BoundEndpoints], None],
    stop: trio.Event,
    hangups: trio.MemoryReceiveChannel[None] | None = None,
) -> None:
    """Run a node until `stop` is set and everything has drained. Raises `StartError` if it cannot start.

    Each of `hangups` (a SIGHUP) makes it read anew what may change while it runs.
    """
    with ExitStack() as opened:
        control = opened.enter_context(listen(config.control.listen, "control.listen"))
        listeners = Listeners.open(config.http, config.tcp)
        opened.callback(listeners.close)
        try:
            transport = await bind(*config.gossip.listen)
        except OSError as error:
            raise cannot_listen(config.gossip.listen, "gossip.listen", error) from None
        opened.callback(transport.close)
        bound = BoundEndpoints(
            gossip=transport.endpoint,
            http=listeners.bound(*HTTP),
            https=listeners.bound(*HTTPS),
            tcp=listeners.bound(*TCP, *TCP_TLS),
            control=bound_endpoint(control),
        )
        state = StateDir(config.site.state_dir)
        opened.callback(state.close)
        clock = Clock()
        credentials = Credentials(config, state.node_key, clock.now)
        driver_of = partial(_driver, config, state, transport, clock, credentials)
        node = Node(config, driver_of, clock, state.last_good, credentials, listeners)
        await node.run(transport, control, ready=lambda: ready(bound), stop=stop, hangups=hangups)


def _driver(
    config: SiteConfig,
    state: StateDir,
    transport: Transport,
    clock: Clock,
    credentials: Credentials,
    on_notification: Callable[[Notification], None],
    say: Callable[[int, str], None],
) -> Driver:
    cluster = config.cluster.name
    engine_config = config.timing.engine_config()
    host, port = transport.endpoint
    engine = Engine(
        config=engine_config,
        site=config.site.name,
        endpoint=("" if ipaddress.ip_address(host).is_unspecified else host, port),
        signer=Ed25519Signer(state.node_key, cluster, credentials.grant),
        verifier=Ed25519Verifier(cluster),
        seal=credentials.seal,
        authors=[author_id_of(key) for key in config.policy.authors],
        prng=Prng(random.SystemRandom().random),
        now=clock.now(),
        area=area_of(*config.site.at_e6) if config.site.at_e6 else "",
        at_e6=config.site.at_e6,
        ca_key=credentials.ca_key,
    )
    driver = Driver(engine, transport, state.store, clock, on_notification, engine_config.frame_bytes_max, say)
    if credentials.security is not None:
        driver.secure(credentials.security)
    return driver
