"""The data plane's edge: listeners, client connections, and their end.

One coroutine per client connection serves its requests in order; `exchange` has the life of each, `nested_epoll` who
drives them. Every request is counted once in `requests` and once in one ending (`Ending.kind`); a request is what
brought at least one byte.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import trio

from lattice.types import SECOND, Endpoint, Micros
from router.cache.store import Purge
from router.cache.turn import SiteCache
from router.policy.paths import PathPattern
from router.traffic.ending import After
from router.traffic.exchange import serve
from router.traffic.forwarded import Steered, client_address, own_response
from router.traffic.http1 import RequestHead
from router.traffic.http2 import Http2Connection
from router.traffic.nested_epoll import NestedEpoll, Wake
from router.traffic.origins import origin_of, who_gives_way
from router.traffic.plane import Plane
from router.traffic.proxy_limits import ProxyLimits
from router.traffic.proxy_protocol import BadProxyHeaderError
from router.traffic.reply import refuse
from router.traffic.request_body import Client
from router.traffic.server_tls import handshake_fault
from router.traffic.steering import Judge, Outcome, Router
from router.traffic.strict import BadRequestError
from router.traffic.trusted_hops import Forwarders, TrustedHops
from router.traffic.upstream_address import AddressRule
from router.traffic.upstream_pool import EXHAUSTED, UpstreamPool
from router.traffic.upstream_tls import UpstreamTls

__all__ = ["Outcome", "Proxy", "ProxyLimits", "Router"]

UNKNOWN: Final = "unknown"
"""A client without an address, as RFC 7239 (6.3) calls it: it came by a Unix socket."""
_ACCEPTS_MAX: Final = 8
"""Connections taken at one look; then others have their turn, also processes that share the queue."""
_SWEEP_SECONDS: Final = 1.0
_IDLEST_MAX: Final = 256
"""Idle clients that are found at one look over all, and may each give way to one more."""
_LOOK_SECONDS: Final = 1e-5
"""Between two such looks, for each client that is open: one over all there may be takes milliseconds."""
_WANTED_SECONDS: Final = 0.01
_FORGET_US: Final = 600 * SECOND
_KEEP: Final = After.KEEP
_READY: Final = Wake.READY
_log = logging.getLogger(__name__)


class Proxy:
    """Serves HTTP/1 on listeners and steers every request as `router` decides."""

    def __init__(
        self,
        router: Router,
        site: str,
        limits: ProxyLimits | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        addresses: AddressRule | None = None,
        unix: Mapping[Endpoint, Path] = MappingProxyType({}),
        announced_by: TrustedHops | None = None,
        forwarders: Forwarders | None = None,
        cache: SiteCache | None = None,
        fast: bool = True,
    ) -> None:
        """`tls` is for those listeners whose clients speak it; `addresses` says where never to connect, `unix` which
        endpoints are reached by a Unix socket; `announced_by` whose connections begin with a PROXY protocol header:
        nobody else's may; `forwarders` who says in a header for whom it speaks; `cache` is for routes that say so;
        `limits` hold as far as this process may open files. Without `fast`, every connection is a plain trio task:
        slower, by the very same rules."""
        limits = (limits or ProxyLimits()).within(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._tls = tls
        self._announced_by = announced_by or TrustedHops()
        self._forwarders = forwarders or Forwarders(TrustedHops())
        self._shaking: dict[Client, str] = {}  # whose handshakes are under way, by their origins
        self._limits = limits
        self._nest = NestedEpoll()
        pool = UpstreamPool(limits, self._nest, addresses, unix)
        self._plane = Plane(router, site, limits, pool, self._nest, fast=fast, cache=cache, forwarders=forwarders)
        self._open: set[Client] = set()
        self._http2: dict[Client, Http2Connection] = {}
        self._idlest: list[tuple[float, Client]] = []
        """Who was idle for longest when it was last looked, the longest last."""
        self._looked_at = -math.inf
        self._by_address: Counter[str] = Counter()
        self._accepting = trio.CancelScope()
        self._accepted = trio.Event()
        """Nobody is accepted any more."""
        self._drained = trio.Event()
        self._emptied = trio.Event()

    @property
    def counters(self) -> Counter[str]:
        """`requests`; one of `Ending.kind` for each; `retries`; `region.NAME` for what was relayed from there;
        `reason.WORDS` for what was rejected; `connections` and `accept.…`; `tls.full`, `tls.resumed`, or why a
        handshake failed; `upstream.…` and `cache.…`. A copy."""
        counters = Counter(self._plane.counters)
        for name, count in self._plane.pool.counters.items():
            counters[f"upstream.{name}"] = count
        if (cache := self._plane.cache) is not None:
            for name, count in cache.counters.items():
                counters[f"cache.{name}"] = count
        return counters

    def configure(self, names: Mapping[Endpoint, str], tls: UpstreamTls | None) -> None:
        """See `UpstreamPool.configure`; may be called at any time."""
        self._plane.pool.configure(names, tls)

    def try_out(self, trial: Judge | None) -> None:
        """From now on tell this trial how the requests end that are decided from now on; nobody, if it is None."""
        self._plane.trial = trial

    def purge(self, host: str, path: PathPattern) -> int:
        """Drop what is cached of these paths, now and when it is still on its way; how many responses were there."""
        plane = self._plane
        if plane.cache is None:
            return 0
        dropped = plane.cache.store.purge(Purge(host, path, plane.wall_ms()))
        plane.cache.counters["purged"] += dropped
        return dropped

    def oldest(self) -> dict[tuple[str, Endpoint], int]:
        """See `Plane.oldest`."""
        return self._plane.oldest()

    @property
    def connections(self) -> int:
        """Client connections open now."""
        return len(self._open)

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        tls_listeners: Sequence[trio.SocketListener] = (),
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until cancelled, or until `drain` is through. Closes the listeners. Run once."""
        assert self._tls is not None or not tls_listeners, "TLS listeners want a certificate"
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._nest.run)
                nursery.start_soon(self._plane.keep_watch)
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._keep_warm)
                nursery.start_soon(self._accept_all, listeners, tls_listeners)
                task_status.started()
                await self._drained.wait()
                nursery.cancel_scope.cancel()
        finally:
            for listener in (*listeners, *tls_listeners):
                listener.socket.close()
            self._plane.pool.close_idle()

    async def drain(self, grace_us: int) -> None:
        """Stop accepting, close idle connections after a moment, let requests in flight finish for `grace_us`, then end
        `serve`.

        Responses from now on say `Connection: close`; the clients of WebSockets are told to go, one after the other.
        What is still in flight after the grace is cut off; of two graces the one that ends first counts.
        """
        self._plane.draining = True
        self._accepting.cancel()
        for client in self._open:
            if client.idle_since is not None:
                _rouse(client)
        for connection in self._http2.values():
            connection.go_away()
        with trio.move_on_after(grace_us / 1e6):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_away, grace_us)
                await self._accepted.wait()  # an accept that was roused before goes on until it waits again
                while self._open:
                    if self._emptied.is_set():
                        self._emptied = trio.Event()
                    await self._emptied.wait()
                nursery.cancel_scope.cancel()
        self._drained.set()

    async def _send_away(self, grace_us: int) -> None:
        """Tell the clients of WebSockets to go, evenly over the grace: all of them call again at once, elsewhere."""
        tunnels = list(self._plane.tunnels)
        began = trio.current_time()
        span = max(0, grace_us - self._limits.tunnel_close_us) / 1e6
        for number, tunnel in enumerate(tunnels):
            if (due := began + span * number / len(tunnels)) > trio.current_time():
                await trio.sleep_until(due)
            tunnel.leave()

    # --- accepting

    async def _accept_all(
        self, listeners: Sequence[trio.SocketListener], tls_listeners: Sequence[trio.SocketListener]
    ) -> None:
        with self._accepting:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, None)
                for listener in tls_listeners:
                    nursery.start_soon(self._accept, listener, self._tls)
        for listener in (*listeners, *tls_listeners):
            listener.socket.close()
        self._accepted.set()

    async def _accept(self, listener: trio.SocketListener, tls: ssl.SSLContext | None) -> None:
        # A socket of our own on the same queue: what trio's accept does besides is a fourth of a short connection.
        with socket.socket(fileno=os.dup(listener.socket.fileno())) as sock:
            sock.setblocking(False)
            try:
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    for _ in range(_ACCEPTS_MAX):
                        try:
                            accepted, address = sock.accept()
                        except BlockingIOError:
                            break
                        except OSError as error:
                            await self._survive(error)
                            break
                        self._take(accepted, address, tls)
            finally:
                trio.lowlevel.notify_closing(sock)  # the queue may live on in other processes, and so in trio's epoll

    def _take(self, sock: socket.socket, address: tuple[str, int] | str, tls: ssl.SSLContext | None) -> None:
        """Serve a connection, or shed it."""
        try:
            client = Client(sock if tls is None else _inside(tls, sock), self._nest)
        except OSError:  # gone already
            sock.close()
            return
        client.address = UNKNOWN if isinstance(address, str) else client_address(address[0])
        self._plane.counters["connections"] += 1
        of_this_client = self._by_address[client.address]
        if (
            (len(self._open) >= self._limits.connections_max and not self._makes_room())
            or (
                of_this_client >= self._limits.connections_per_client_max
                and client.address != UNKNOWN
                and client.address not in self._announced_by  # who is behind it counts
                and client.address not in self._forwarders
            )
            or (client.secure and not self._may_shake(client))
        ):
            self._shed(client)
        else:
            self._by_address[client.address] = of_this_client + 1
            self._open.add(client)
            start = self._nest.start if self._plane.fast else self._nest.start_task
            start(self._serve_connection(client))

    def _makes_room(self) -> bool:
        """Whether somebody idle goes, so that another may come: who has been so for longest."""
        if not self._idlest and self._nest.time() >= self._looked_at + _LOOK_SECONDS * len(self._open):
            self._looked_at = self._nest.time()
            idle = [(each.idle_since, each) for each in self._open if each.idle_since is not None]
            self._idlest = sorted(idle, key=lambda one: -one[0])[-_IDLEST_MAX:]
        while self._idlest:
            since, client = self._idlest.pop()
            if client.idle_since == since and client in self._open:
                self._plane.counters["accept.idle_closed"] += 1
                if (connection := self._http2.get(client)) is not None:
                    connection.go_away()
                _rouse(client)
                return True
        return False

    def _may_shake(self, client: Client) -> bool:
        """Whether there is a place for one more handshake, or is now: who does not end its own keeps no others out."""
        if len(self._shaking) < self._limits.handshakes_max:
            return True
        other = who_gives_way(self._shaking, origin_of(client.address))
        if other is None:
            return False
        del self._shaking[other]
        with contextlib.suppress(OSError):
            socket.socket.shutdown(other.sock, socket.SHUT_RDWR)  # below TLS: whoever drives it meets the end
        return True

    async def _survive(self, error: OSError) -> None:
        """A failed accept is never the end, and never a reason to spin: the listener stays readable meanwhile."""
        if error.errno == errno.ECONNABORTED:
            self._plane.counters["accept.aborted"] += 1
            await trio.lowlevel.checkpoint()
            return
        self._plane.counters["accept.failed"] += 1
        if error.errno in EXHAUSTED:
            self._plane.pool.close_idle()
            self._makes_room()
        await trio.sleep(self._limits.accept_pause_us / 1e6)

    def _shed(self, client: Client) -> None:
        """One connection too many: say so without waiting, and close. Who wants TLS first cannot be told."""
        self._plane.counters["accept.shed"] += 1
        if client.secure:
            client.abort()
            return
        text = "too many connections"
        steered = Steered(self._plane.site, None, text)
        try:
            client.send_now(own_response(503, text, steered, self._plane.date(), keep_alive=False))
        except OSError:
            pass
        finally:
            client.close()

    # --- one connection

    async def _serve_connection(self, client: Client) -> None:
        after: After | None = After.ABORT
        try:
            if self._announced_by and client.address in self._announced_by and not await self._hear_who(client):
                after = None
                return
            if client.secure and not await self._shake(client):
                after = None
                return
            if isinstance(client.sock, ssl.SSLSocket) and client.sock.selected_alpn_protocol() == "h2":
                after = await self._serve_http2(client)
            else:
                after = await self._serve_http1(client)
            if after is After.CLOSE:
                await client.linger(self._limits.linger_timeout_us, self._limits.linger_bytes_max)
        except* Exception:  # noqa: BLE001 -- a bug met by one connection must not take all others down
            _log.exception("internal error while serving %s", client.address)
        finally:
            if after is None or after is After.CLOSE:
                client.close()
            else:
                client.abort()  # also when cut off in flight: what the client has is not the whole
            self._open.discard(client)
            self._leave(client.address)
            if not self._open:
                self._emptied.set()

    def _leave(self, address: str) -> None:
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    async def _hear_who(self, client: Client) -> bool:
        """Take the client's address from the PROXY header before its first byte. False if there is none, or too many
        connections of that client."""
        try:
            header = await client.hear_who(self._limits.handshake_timeout_us)
        except (BadProxyHeaderError, OSError, trio.TooSlowError):
            self._plane.counters["accept.no proxy header"] += 1
            return False
        if header.source is not None:
            address = client_address(header.source[0])
            if self._by_address[address] >= self._limits.connections_per_client_max:
                self._plane.counters["accept.shed"] += 1
                return False
            self._by_address[address] += 1
            self._leave(client.address)
            client.address = address
        return True

    async def _serve_http2(self, client: Client) -> After:
        connection = Http2Connection(self._plane, client)
        self._http2[client] = connection
        try:
            return await connection.run()
        finally:
            del self._http2[client]

    async def _serve_http1(self, client: Client) -> After | None:
        """Serve requests in turn, and count the one ending of each. None if nothing more can come of this client: it
        has closed, or said with a request that it was the last. (One that speaks TLS may still say that it ends.)"""
        plane, nest, reader = self._plane, self._nest, client.reader
        counters = plane.counters
        while True:
            head: RequestHead | None = None
            kind = "abandoned"  # unless it comes to an ending: only the end of a drain, or of the process, cancels
            try:
                try:
                    wake = _READY
                    if reader.rest:
                        head = reader.next_head()
                    elif not client.ready and (fiber := nest.current) is not None and not plane.draining:
                        client.idle_since = nest.now
                        client.read_waiter = fiber
                        wake = await fiber.park()
                        client.idle_since = None
                        if wake is _READY:
                            try:
                                data = client.receive_now()
                            except OSError:
                                data = b""
                            if data:
                                client.asked = True
                                head = reader.feed(data)
                    if head is None and (head := await self._next_head(client, roused=wake is not _READY)) is None:
                        kind = ""
                        return None
                    ending = await serve(plane, client, head)
                except BadRequestError as error:
                    ending = await refuse(plane, client, error)
                kind = ending.kind
            except Exception:
                kind = "internal_error"
                raise
            finally:
                if kind == "abandoned" and head is None and not reader.rest:
                    client.close()  # idle: nothing was asked, so this is an orderly end
                elif kind:
                    counters["requests"] += 1
                    counters[kind] += 1
            if ending.after is not _KEEP:
                said_all = head is not None and head.is_last and not (reader.rest or client.ready or client.secure)
                return None if said_all and ending.after is After.CLOSE else ending.after
            if plane.fast and nest.current is None:
                await nest.become_fiber()

    async def _shake(self, client: Client) -> bool:
        """The TLS handshake; who fails it is counted by why."""
        self._shaking[client] = origin_of(client.address)
        try:
            await client.shake(self._limits.handshake_timeout_us)
        except trio.TooSlowError:
            self._plane.counters["tls.timeout"] += 1
        except OSError as error:
            fault = handshake_fault(error) if client in self._shaking else "given up"
            self._plane.counters[f"tls.{fault}"] += 1
        else:
            assert isinstance(client.sock, ssl.SSLSocket)
            self._plane.counters["tls.resumed" if client.sock.session_reused else "tls.full"] += 1
            return True
        finally:
            self._shaking.pop(client, None)
        return False

    async def _next_head(self, client: Client, *, roused: bool) -> RequestHead | None:
        """The next request's head; None if the client leaves, or is left, between two requests.

        Somebody `roused` it from its wait, to look whether it is time to close."""
        reader = client.reader
        deadline = 0.0
        while True:
            if reader.rest:
                now = self._nest.time()
                deadline = deadline or now + self._limits.head_timeout_us / 1e6
                client.patient = True
                try:
                    await client.readable(max(0, int((deadline - now) * 1e6)))
                except trio.TooSlowError:
                    raise BadRequestError(408, "head timeout") from None
            elif roused:
                roused = False
                client.read_waiter = None
                if client.is_quiet() and not await self._asks_at_last(client):
                    return None
            elif client.ready:
                pass
            elif (fiber := self._nest.current) is not None and not self._plane.draining:
                client.idle_since = self._nest.time()
                client.read_waiter = fiber
                roused = await fiber.park() is not _READY
                client.idle_since = None
                if roused:
                    continue
            elif not await self._is_first_byte_there(client):
                return None
            data = client.receive_or_end()
            if data:
                client.asked = True
                if (head := reader.feed(data)) is not None:
                    client.patient = False
                    return head
            elif data is not None:
                if reader.rest:
                    raise BadRequestError(400, "closed before the end of the head")
                return None

    async def _is_first_byte_there(self, client: Client) -> bool:
        """Wait between two requests as a task. False if it is time to close, and no byte has come to be answered first.

        No cancel scope: one sweep looks after all who are idle, and wakes them as a closing socket wakes its reader.
        """
        if self._plane.draining:
            return not client.is_quiet() or await self._asks_at_last(client)
        client.idle_since = self._nest.time()
        try:
            await trio.lowlevel.wait_readable(client.sock)
        except trio.ClosedResourceError:
            return not client.is_quiet() or await self._asks_at_last(client)
        finally:
            client.idle_since = None
        return True

    async def _asks_at_last(self, client: Client) -> bool:
        """Whether who waits before its first request, or between two, when a drain begins asks within a moment.

        A request may be on its way right now, and would meet a reset. Who has asked before may ask again on another
        connection, but only for what may be repeated; so it has a moment, too. The busier a client is, the likelier is
        it to be met by the end, and the sooner it asks.
        """
        if not self._plane.draining:  # else it has had its time
            return False
        limits = self._limits
        try:
            await client.readable(limits.last_request_us if client.asked else limits.first_request_us)
        except (OSError, trio.TooSlowError):
            return False
        return True

    async def _keep_warm(self) -> None:
        pool = self._plane.pool
        async with trio.open_nursery() as nursery:
            while True:
                with trio.move_on_after(_SWEEP_SECONDS):
                    await pool.wanted.wait()
                    await trio.sleep(_WANTED_SECONDS)  # others come with it
                pool.keep_warm(nursery)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            self._plane.watch.forget_idle(Micros(self._plane.listened_us(self._nest.time()) - _FORGET_US))
            oldest = self._nest.time() - self._limits.idle_timeout_us / 1e6
            for client in self._open:
                if client.idle_since is not None and client.idle_since <= oldest:
                    _rouse(client)


def _inside(tls: ssl.SSLContext, sock: socket.socket) -> ssl.SSLSocket:
    """The socket with TLS around it, its handshake still to come."""
    return tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def _rouse(client: Client) -> None:
    """Wake whoever waits for an idle client's next request, so that it looks whether it is time to close."""
    if client.read_waiter is not None:
        client.read_waiter.nudge()
    else:
        trio.lowlevel.notify_closing(client.sock)
