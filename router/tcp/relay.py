"""TCP mode: each connection is decided once, joined to an endpoint, and left to the kernel (edge).

    accept → (ClientHello →) decide → connect, and the next endpoint if that fails → splice both ways → one ending

What the client said first is kept until an endpoint has taken the connection, so a dead endpoint costs the client
nothing but time, and not much of that: `router.traffic.hang` says how long to wait for who used to answer sooner; the
first byte is here the answer to a connect. Once bytes have passed there is no second try: only the two ends know what
they mean. Whoever is lost in mid-stream is lost with a reset, never with the clean end that a peer would take for the
whole.

A name is read only where the site says that TLS clients come (`tcp.tls_listen`): protocols in which the server speaks
first would wait for ever otherwise.
"""

from __future__ import annotations

import enum
import errno
import resource
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import trio

from lattice.types import SECOND, Endpoint, Micros
from router.decision.decide import Attempt, Request
from router.tcp.client_hello import NotTlsError, read_client_hello
from router.tcp.splice import LostError, Pipe, Side
from router.tcp.tcp_limits import TcpLimits
from router.traffic.connection import Connection, connect, connect_unix
from router.traffic.forwarded import client_address
from router.traffic.hang import HangWatch
from router.traffic.proxy_protocol import BadProxyHeaderError, proxy_header_v2
from router.traffic.steering import Outcome, Router
from router.traffic.trusted_hops import TrustedHops
from router.traffic.upstream_address import AddressRule
from router.traffic.upstream_pool import EXHAUSTED, ForbiddenAddressError

_FORGET_US: Final = 600 * SECOND


@dataclass(frozen=True, slots=True)
class TcpListener:
    listener: trio.SocketListener
    tls: bool
    """Clients speak TLS, and the name they ask for is the host that routes are for."""


class Ending(enum.Enum):
    """How a connection ended; exactly one each."""

    RELAYED = "relayed"
    """Both sides said all they had."""
    DENIED = "denied"
    NOT_TLS = "not tls"
    NOT_ANNOUNCED = "no proxy header"
    SHED = "shed"
    """Over a limit, or out of descriptors here."""
    UNREACHABLE = "unreachable"
    """No endpoint took the connection."""
    CLIENT_LOST = "client lost"
    UPSTREAM_LOST = "upstream lost"
    IDLE = "idle"
    ABANDONED = "abandoned"
    """Cut off by the end of a drain."""


class TcpRelay:
    """All TCP connections of one process. `counters`: connections, endings by name, failed connects, bytes each way."""

    def __init__(
        self,
        router: Router,
        limits: TcpLimits | None = None,
        addresses: AddressRule | None = None,
        unix: Mapping[Endpoint, Path] = MappingProxyType({}),
        *,
        says_who: bool = False,
        announced_by: TrustedHops | None = None,
    ) -> None:
        """`addresses` says where never to connect, `unix` which endpoints are reached by a Unix socket of this machine,
        whatever their address. With `says_who`, every endpoint hears who the client is before anything else, by a PROXY
        protocol header of version 2; connections of `announced_by` begin with one, of either version. `limits` hold as
        far as this process may open files."""
        self._router = router
        self._says_who = says_who
        self._addresses = addresses or AddressRule()
        self._unix = unix
        self._announced_by = announced_by or TrustedHops()
        self._limits = (limits or TcpLimits()).within(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._clients: Counter[str] = Counter()
        self._watch: HangWatch[object] = HangWatch()
        self._forgotten_at = 0
        self._accepting = trio.CancelScope()
        self._by_now = trio.CancelScope()
        """Accepts from the listeners of now, within the former."""
        self._acceptors: trio.Nursery | None = None
        self._relays: trio.Nursery | None = None
        self._relaying = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()  # not begun
        self.open = 0
        """Connections under way."""
        self.counters: Counter[str] = Counter()

    async def serve(
        self, listeners: list[TcpListener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept until `drain`, and relay until every connection has ended."""
        self._ended = trio.Event()
        try:
            await self._accept_and_relay(listeners, task_status)
        finally:
            self._ended.set()

    async def _accept_and_relay(self, listeners: list[TcpListener], task_status: trio.TaskStatus[None]) -> None:
        with self._relaying:
            async with trio.open_nursery() as self._relays:
                with self._accepting:
                    async with trio.open_nursery() as self._acceptors:
                        await self._acceptors.start(self._accept, self._by_now, listeners)
                        task_status.started()

    async def _accept(
        self,
        scope: trio.CancelScope,
        listeners: list[TcpListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with scope:
            async with trio.open_nursery() as accepting:
                for kind in sorted({listener.tls for listener in listeners}):
                    sockets = [listener.listener for listener in listeners if listener.tls is kind]
                    accept = partial(
                        trio.serve_listeners, partial(self._take, kind), sockets, handler_nursery=self._relays
                    )
                    await accepting.start(accept)
                task_status.started()
                await trio.sleep_forever()

    async def replace(
        self,
        listeners: list[TcpListener],
        addresses: AddressRule,
        unix: Mapping[Endpoint, Path],
        *,
        says_who: bool,
        announced_by: TrustedHops,
    ) -> None:
        """Accept from these from now on, and no more from those before; see `__init__` for the rest. Whoever is relayed
        stays."""
        assert self._acceptors is not None, "serves"
        self._addresses, self._unix, self._says_who, self._announced_by = addresses, unix, says_who, announced_by
        before, self._by_now = self._by_now, trio.CancelScope()
        await self._acceptors.start(self._accept, self._by_now, listeners)
        before.cancel()

    async def drain(self, grace_us: int) -> None:
        """Accept no more, give those under way their time, then reset what is left."""
        self._accepting.cancel()
        self._relaying.deadline = trio.current_time() + grace_us / 1e6
        await self._ended.wait()

    async def _take(self, tls: bool, stream: trio.SocketStream) -> None:
        """One connection, from accept to its ending."""
        client = Connection(socket.socket(fileno=stream.socket.detach()))
        try:
            way = _Way(
                *[(str(host), int(port)) for host, port, *_ in (client.sock.getpeername(), client.sock.getsockname())]
            )
        except OSError:
            client.close()
            return
        self.counters["connections"] += 1
        self.open += 1
        ending = Ending.ABANDONED
        try:
            ending = await self._serve(client, way, tls)
        finally:
            self.counters[ending.value] += 1
            if ending is Ending.RELAYED:
                client.close()
            else:
                client.abort()
            self.open -= 1

    async def _serve(self, client: Connection, way: _Way, tls: bool) -> Ending:
        """Within the limits, and for whoever is behind a balancer."""
        if self.open > self._limits.connections_max:
            return Ending.SHED
        port = way.destination[1]
        speaks_for_others = way.source[0] in self._announced_by
        if speaks_for_others:
            try:
                header = await client.hear_who(self._limits.hello_timeout_us)
            except (BadProxyHeaderError, OSError, trio.TooSlowError):
                return Ending.NOT_ANNOUNCED
            if header.source is not None and header.destination is not None:
                way, speaks_for_others = _Way(header.source, header.destination), False
        address = client_address(way.source[0])
        if self._clients[address] >= self._limits.connections_per_client_max and not speaks_for_others:
            return Ending.SHED
        self._clients[address] += 1
        try:
            return await self._relay(client, way, address, port, tls)
        finally:
            self._clients[address] -= 1
            if not self._clients[address]:
                del self._clients[address]

    async def _relay(self, client: Connection, way: _Way, address: str, port: int, tls: bool) -> Ending:
        first, name = b"", ""
        if tls:
            try:
                with trio.fail_after(self._limits.hello_timeout_us / 1e6):
                    first, name = await self._read_hello(client)
            except (trio.TooSlowError, NotTlsError):
                return Ending.NOT_TLS
            except OSError:
                return Ending.CLIENT_LOST
        try:
            with Pipe() as up, Pipe() as down:
                request = Request(address, name, "/", method="CONNECT", port=port, sni=name)
                joined = await self._connect(request)
                if isinstance(joined, Ending):
                    return joined
                header = way.header(name) if self._says_who else b""
                return await self._join(client, joined, header, first, up, down)
        except OSError as error:
            if error.errno in EXHAUSTED:
                return Ending.SHED
            raise

    async def _read_hello(self, client: Connection) -> tuple[bytes, str]:
        """What came so far, and the name in it."""
        data = b""
        while (hello := read_client_hello(data)) is None:
            part = await client.receive(self._limits.hello_timeout_us)
            if not part:
                raise NotTlsError("the end came first")
            data += part
        return data, hello.server_name

    async def _connect(self, request: Request) -> _Leg | Ending:
        """To the best endpoint that takes the connection."""
        decision = self._router.decide(request)
        if not decision.attempts:
            return Ending.DENIED
        retry, timeouts = decision.settings.retry, decision.settings.timeouts
        attempts_max = self._limits.attempts_max if retry is None else min(self._limits.attempts_max, 1 + retry.count)
        connect_timeout_us = (timeouts and timeouts.connect_us) or self._limits.connect_timeout_us
        self._forget_idle()
        attempts = decision.attempts[:attempts_max]
        for attempt in attempts:
            began = trio.current_time()
            watched, asked = self._watch.endpoint(attempt.region, attempt.endpoint), object()
            patience_us = watched.silence_us_max()
            patient = patience_us >= connect_timeout_us or attempt is attempts[-1]  # nobody else is left to ask
            watched.sent(asked, _micros(began))
            try:
                upstream = await self._open(attempt.endpoint, connect_timeout_us if patient else patience_us)
            except trio.TooSlowError:
                if patient:
                    self._observe(attempt, Outcome.TIMEOUT, began)
                else:
                    hangs = watched.given_up(_micros(began))
                    self._observe(attempt, Outcome.SILENT if hangs else Outcome.LATE, began)
            except OSError as error:
                if error.errno in EXHAUSTED:
                    raise
                self._observe(attempt, Outcome.REFUSED, began)
            else:
                watched.heard(asked, _micros(trio.current_time()))
                self._observe(attempt, Outcome.OK, began)
                self.counters[f"region.{attempt.region}"] += 1
                return _Leg(attempt, upstream)
            finally:
                watched.dropped(asked)
            self.counters["connect failed"] += 1
        return Ending.UNREACHABLE

    def _forget_idle(self) -> None:
        """Endpoints of policies that are no more."""
        now = _micros(trio.current_time())
        if now - self._forgotten_at >= _FORGET_US:
            self._watch.forget_idle(Micros(now - _FORGET_US))
            self._forgotten_at = now

    async def _open(self, endpoint: Endpoint, timeout_us: int) -> Connection:
        path = self._unix.get(endpoint)
        if path is not None:
            return await connect_unix(str(path), timeout_us, Connection)
        if self._addresses.why_refused(endpoint[0]) is not None:
            self.counters["forbidden"] += 1
            raise ForbiddenAddressError(errno.EACCES, "forbidden address")
        return await connect(*endpoint, timeout_us, Connection)

    async def _join(self, client: Connection, leg: _Leg, header: bytes, first: bytes, up: Pipe, down: Pipe) -> Ending:
        """Move bytes both ways until both sides have ended, one is lost, or nothing moves."""
        idle_seconds = self._limits.idle_timeout_us / 1e6
        began = trio.current_time()
        sockets = {Ending.CLIENT_LOST: client.sock, Ending.UPSTREAM_LOST: leg.upstream.sock}
        lost: list[Ending] = []
        answered = False
        scope = trio.CancelScope(deadline=began + idle_seconds)

        def sent(count: int) -> None:
            self.counters["bytes up"] += count
            scope.deadline = trio.current_time() + idle_seconds

        def received(count: int) -> None:
            nonlocal answered
            answered = True
            self.counters["bytes down"] += count
            scope.deadline = trio.current_time() + idle_seconds

        async def carry(pipe: Pipe, source: Ending, target: Ending, moved: Callable[[int], None]) -> None:
            try:
                await pipe.splice(sockets[source], sockets[target], moved)
            except LostError as error:
                lost.append(source if error.side is Side.SOURCE else target)
                scope.cancel()

        ending = Ending.ABANDONED
        try:
            with scope:
                try:
                    await leg.upstream.send(header + first, self._limits.idle_timeout_us)
                    sent(len(first))
                except OSError:
                    lost.append(Ending.UPSTREAM_LOST)
                else:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(carry, up, Ending.CLIENT_LOST, Ending.UPSTREAM_LOST, sent)
                        nursery.start_soon(carry, down, Ending.UPSTREAM_LOST, Ending.CLIENT_LOST, received)
            ending = lost[0] if lost else Ending.IDLE if scope.cancelled_caught else Ending.RELAYED
        finally:
            if ending is Ending.RELAYED:
                leg.upstream.close()
            else:
                leg.upstream.abort()
        if ending is Ending.UPSTREAM_LOST:
            self._observe(leg.attempt, Outcome.TRUNCATED if answered else Outcome.RESET, began)
        return ending

    def _observe(self, attempt: Attempt, outcome: Outcome, began: float) -> None:
        now = trio.current_time()
        self._router.observed(attempt, outcome, round((now - began) * 1e6), now)


@dataclass(frozen=True, slots=True)
class _Way:
    """Who connected to where."""

    source: Endpoint
    destination: Endpoint

    def header(self, name: str) -> bytes:
        """By which an endpoint hears of it, and of the name that was asked for."""
        ends = [(host.partition("%")[0], port) for host, port in (self.source, self.destination)]
        return proxy_header_v2(ends[0], ends[1], name)


@dataclass(frozen=True, slots=True)
class _Leg:
    attempt: Attempt
    upstream: Connection


def _micros(seconds: float) -> Micros:
    return Micros(round(seconds * 1e6))
