"""The control API behind mutual TLS: a certificate says who asks, and its role what they may."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from lattice.grants import Role
from lattice.identity import node_id_of, private_key_from, public_key_of
from lattice.stream_security import StreamSecurity
from lattice.types import SECOND, Micros, NodeId
from router.cli import main
from router.control import door
from router.control.api import control_app
from router.control.callers import Caller
from router.control.client import ControlClient, ControlError
from router.control.door import Door
from router.control.gate import Gate
from router.control.server import serve_control
from router.control.shown import Shown, ShownError
from router.listening import bound_endpoint, listen
from router.site.ca_dir import CaDir
from router.site.key_file import write_secret
from router.site.site_file import load_site_config
from tests.router.control.fake_target import AUTHOR_KEY, POLICY, FakeTarget
from tests.router.test_credentials import certified
from tests.router.test_node import running

LOOKS = {Role.VIEWER, Role.NODE, Role.OPERATOR, Role.CONTROLLER}


def now() -> Micros:
    return Micros(time.time_ns() // 1_000)


@pytest.mark.parametrize("role", Role)
def test_what_a_role_may(role: Role) -> None:
    may = Caller(role, "eva").why_refused
    assert (may("GET", "/v1/view") is None) == (role in LOOKS)
    assert (may("HEAD", "/policy") is None) == (role in LOOKS)
    assert may("GET", "/healthz") is None
    assert (may("POST", "/update") is None) == (role in {Role.REGION, Role.OPERATOR})
    assert (may("POST", "/v1/rollouts") is None) == (role in {Role.CONTROLLER, Role.OPERATOR})
    for method, path in (("POST", "/v1/policy"), ("POST", "/v1/revocations"), ("DELETE", "/v1/view")):
        assert (may(method, path) is None) == (role is Role.OPERATOR)


class Cluster:
    """A CA, and keys that it certifies, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = CaDir.create(directory / "ca", "test", Micros(now() - 30 * 86_400 * SECOND))
        self.revoked: set[NodeId] = set()
        self.app: Gate = control_app(FakeTarget(AUTHOR_KEY))

    def certificate(self, role: Role, name: str, at: Micros | None = None) -> Path:
        home = self.directory / name
        home.mkdir()
        key = private_key_from(name.encode().ljust(32, b"."))
        write_secret(home / f"{name}.key", key, "test")
        issued = self.ca.issue(public_key_of(key), role, name, now() if at is None else at, 1)
        (home / f"{name}.crt").write_bytes(issued.pem)
        (home / "ca.crt").write_bytes(self.ca.authority.pem)
        return home / f"{name}.crt"

    def revoke(self, name: str) -> None:
        self.revoked.add(node_id_of(public_key_of(private_key_from(name.encode().ljust(32, b".")))))

    @asynccontextmanager
    async def served(self, role: Role = Role.NODE, *, tls: bool = True) -> AsyncIterator[str]:
        """The API's https address. `role`: of whoever serves it; without `tls` it speaks plain HTTP all the same."""
        key = private_key_from(b"server".ljust(32, b"."))
        issued = self.ca.issue(public_key_of(key), role, "ams", now())
        security = StreamSecurity(self.ca.authority, issued, key, self.directory)
        door = Door(lambda: security, lambda node: node in self.revoked, now)
        listener, stop = listen(("127.0.0.1", 0), "control.listen"), trio.Event()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_control, self.app, listener, stop, door if tls else None)
                yield f"https://127.0.0.1:{bound_endpoint(listener)[1]}"
                stop.set()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


async def said(ask: object) -> str:
    """What a blocking call of the client's is refused with."""
    with pytest.raises(ControlError) as refused:
        await trio.to_thread.run_sync(ask)  # type: ignore[arg-type]
    return str(refused.value)


async def test_a_viewer_looks_and_an_operator_writes(cluster: Cluster) -> None:
    viewer, operator = (Shown(cluster.certificate(role, role)) for role in (Role.VIEWER, Role.OPERATOR))
    async with cluster.served() as url:
        looking, writing = ControlClient(url, shown=viewer), ControlClient(url, shown=operator)
        assert (await trio.to_thread.run_sync(looking.view)).site == "ams"
        why = await said(partial(looking.publish_text, "default", POLICY))
        assert "POST /v1/policy is not for viewer 'viewer': a viewer may look, and change nothing" in why
        assert cluster.app.counters["control_refused_role"] == 1
        assert (await trio.to_thread.run_sync(writing.publish_text, "default", POLICY)).policy == "default"


async def test_whoever_shows_nothing_that_holds_is_refused_and_counted(cluster: Cluster) -> None:
    old = Shown(cluster.certificate(Role.OPERATOR, "old", Micros(now() - 3 * 86_400 * SECOND)))
    gone = Shown(cluster.certificate(Role.OPERATOR, "gone"))
    cluster.revoke("gone")
    async with cluster.served() as url:
        for shown in (old, gone):
            why = await said(ControlClient(url, shown=shown).view)
            assert "does it take our certificate (revoked, expired)" in why
        why = await said(ControlClient(url.replace("https", "http")).view)
        assert "or does it want https (control.tls)?" in why
        counted = {name for name in cluster.app.counters if name.startswith("control refused")}
    assert "control refused: certificate revoked" in counted
    assert len(counted) == 3, counted


async def test_a_control_address_without_tls_is_called_that(cluster: Cluster) -> None:
    viewer = Shown(cluster.certificate(Role.VIEWER, "eva"))
    async with cluster.served(tls=False) as url:
        why = await said(ControlClient(url, shown=viewer).view)
    assert "speaks no TLS: is its control.tls set? without it the address is http://" in why


async def test_a_region_cannot_have_its_share_worked_out_by_a_policy_that_it_may_not_read(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    region = cluster.certificate(Role.REGION, "fra")
    monkeypatch.setenv("EDGELATTICE_CERTIFICATE", str(region))
    async with cluster.served() as url:
        say = ["signal", "--key", str(region.with_suffix(".key")), "--control", url]
        assert await trio.to_thread.run_sync(main, [*say, "--rps", "5"]) == 1
        assert "--rps: a region may not read the policy there; give --capacity-pct" in capsys.readouterr().err


async def test_a_command_tells_its_secrets_to_no_other_certificate_than_a_nodes(cluster: Cluster) -> None:
    operator = Shown(cluster.certificate(Role.OPERATOR, "eva"))
    async with cluster.served(Role.VIEWER) as url:
        assert "is no node of this cluster: certificate of another role" in await said(
            ControlClient(url, shown=operator).view
        )


async def test_a_caller_who_says_nothing_is_let_go(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.control.door.HANDSHAKE_SECONDS", 0.05)
    async with cluster.served() as url, await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2])) as stream:
        assert await stream.receive_some() == b""
        assert cluster.app.counters["control refused: tls: too slow"] == 1


async def test_who_says_nothing_keeps_nobody_out(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are places held all of them for as long as a handshake may take, again and again."""
    monkeypatch.setattr("router.control.server.CONNECTIONS_MAX", 4)
    viewer = Shown(cluster.certificate(Role.VIEWER, "eva"))
    async with cluster.served() as url, trio.open_nursery() as nursery:
        at = int(url.rpartition(":")[2])
        early = await trio.open_tcp_stream("127.0.0.1", at)
        held = [await trio.open_tcp_stream("127.0.0.1", at, local_address="127.0.0.9") for _ in range(5)]
        for stream in held[3:]:
            assert await stream.receive_some() == b"", "one more of an address that has most"
        with trio.fail_after(door.HANDSHAKE_SECONDS / 2):
            assert (await trio.to_thread.run_sync(ControlClient(url, shown=viewer).view)).site == "ams"
        assert await held[0].receive_some() == b"", "the oldest"
        assert cluster.app.counters["control connections beyond the limit"] == 2
        assert cluster.app.counters["control handshakes given up"] == 1
        nursery.start_soon(early.aclose)
        for stream in held:
            await stream.aclose()


def test_what_cannot_be_shown_is_named(cluster: Cluster) -> None:
    eva, bob = (cluster.certificate(Role.OPERATOR, name) for name in ("eva", "bob"))
    (eva.parent / "ca.crt").unlink()
    with pytest.raises(ShownError, match=r"ca\.crt: no such file"):
        Shown(eva)
    bob.with_suffix(".key").unlink()
    write_secret(bob.with_suffix(".key"), bytes(range(32)), "test")
    with pytest.raises(ShownError, match=r"bob\.crt: KEY_VALUES_MISMATCH; is .*bob\.key its key\?"):
        Shown(bob)


async def test_a_node_asks_who_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(tmp_path)
    config = certified(tmp_path / "ams", cluster.ca, "ams")
    site = config.path
    site.write_text(site.read_text().replace("[control]", "[control]\ntls = true"))
    async with running(load_site_config(site)) as ams:
        ask = ["status", "--json", "--control", f"https://127.0.0.1:{ams.bound.control[1]}"]
        assert await trio.to_thread.run_sync(main, ask) == 2
        assert "set EDGELATTICE_CERTIFICATE to your certificate" in capsys.readouterr().err
        monkeypatch.setenv("EDGELATTICE_CERTIFICATE", str(cluster.certificate(Role.VIEWER, "eva")))
        assert await trio.to_thread.run_sync(main, ask) == 0
        assert '"site":"ams"' in capsys.readouterr().out
