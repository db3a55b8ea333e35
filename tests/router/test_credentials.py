"""Keys and certificates of running nodes: taken up from their files while traffic goes on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import trio

from lattice.certificates import make_request, read_request
from lattice.events import LocalChange
from lattice.grants import Role
from lattice.identity import public_key_of
from lattice.types import SECOND, Micros
from router.cli import main
from router.control.body import OPS_MEDIA_TYPE
from router.credentials import Credentials
from router.errors import StartError
from router.journal import Journal
from router.site.ca_dir import CaDir
from router.site.key_file import replace_file, write_key_ring
from router.site.site_config import SiteConfig
from router.site.site_file import load_site_config
from router.site.state_dir import node_key_in
from router.traffic.upstream_tls import UpstreamTls
from tests.router.test_node import Site, running, site_config, until

DAY = 86_400 * SECOND


def now() -> Micros:
    return Micros(time.time_ns() // 1_000)


def certified(directory: Path, ca: CaDir, name: str, **options: object) -> SiteConfig:
    """A site of tests/router/test_node.py, with a certificate."""
    config = site_config(directory, name, **options)  # type: ignore[arg-type]
    replace_file(directory / "ca.crt", ca.authority.pem, 0o644)
    certificate = ca.issue(public_key_of(node_key_in(config.site.state_dir)), Role.NODE, name, now())
    replace_file(directory / "node.crt", certificate.pem, 0o644)
    text = (directory / "site.toml").read_text()
    (directory / "site.toml").write_text(
        text.replace('name = "test"', 'name = "test"\nca = "ca.crt"\ncertificate = "node.crt"')
    )
    return load_site_config(directory / "site.toml")


async def said(site: Site, kind: str, text: str) -> bool:
    return any(event["kind"] == kind and text in event["text"] for event in (await site.view())["events"])


async def members(site: Site) -> int:
    return sum(member["state"] == "alive" for member in (await site.view())["members"])


@pytest.mark.slow
async def test_running_nodes_change_their_key_and_hear_each_other_throughout(tmp_path: Path) -> None:
    async with running(site_config(tmp_path / "ams", "ams")) as ams:
        config = site_config(tmp_path / "fra", "fra", seeds=(ams.bound.gossip,))
        ring = config.cluster.keys
        assert ring is not None
        async with running(config) as fra:
            await until(lambda: members_of_both(ams, fra))
            steps = [
                ring := ring.add(b"n" * 32, "next"),
                ring := ring.use(ring.keys[1].id),
                ring.remove(ring.keys[1].id),
            ]
            for step in steps:
                for name, site in (("fra", fra), ("ams", ams)):
                    write_key_ring(tmp_path / name / "cluster.key", step, "test")
                    await until(lambda: holds(site, [key.id.hex() for key in step.keys]))  # noqa: B023
            await trio.sleep(1)
            for site in (ams, fra):
                view = await site.view()
                assert {name for name in view["counters"] if "rejected" in name} == set()
                assert await members(site) == 2
                _, keys = await site.control("GET /v1/keys")
                assert [peer["uses_ours"] and peer["has_ours"] for peer in keys["peers"]] == [True]


async def members_of_both(ams: Site, fra: Site) -> bool:
    return await members(ams) == await members(fra) == 2


async def holds(site: Site, ids: list[str]) -> bool:
    _, keys = await site.control("GET /v1/keys")
    return [key["id"] for key in keys["keys"]] == ids


@pytest.mark.slow
async def test_certified_nodes_share_a_policy_and_take_up_a_revocation(tmp_path: Path) -> None:
    ca = CaDir.create(tmp_path / "ca", "test", now())
    policy = "edition 1\n" + "# a comment of some length\n" * 200
    policy += 'region fra {\n  at 50.11 8.68\n  endpoint 127.0.0.1:1\n}\nroute a for "*" path "/**" { primary any }\n'
    async with running(certified(tmp_path / "ams", ca, "ams")) as ams:  # noqa: SIM117  (the second needs the first)
        async with running(certified(tmp_path / "fra", ca, "fra", seeds=(ams.bound.gossip,))) as fra:
            await until(lambda: members_of_both(ams, fra))
            assert await ams.publish(policy) == 200
            await until(lambda: has_policy(fra))
            ca.revoke(public_key_of(node_key_in(tmp_path / "fra" / "fra.state")))
            shutil.copy(tmp_path / "ca" / "ca.revoked", tmp_path / "ams")
            await until(lambda: said(ams, "revoked", "the key of fra's node"))
            await until(lambda: said(fra, "revoked", "the key of this node"))
            assert "no peer listens to it" in (await fra.view())["warnings"][0]
            assert await members(ams) == 1
            assert await fra.publish(policy + "# " + "one more\n# " * 300 + "\n") == 200
            await until(lambda: refused_revoked(ams))
            (tmp_path / "ams" / "node.crt").write_text("junk")
            await until(lambda: said(ams, "certificate", "node.crt: no certificate; what was in force stays"))


async def has_policy(site: Site) -> bool:
    return bool((await site.view())["policies"])


async def knows_regions(site: Site) -> bool:
    """Which it does once the policy is in force, and that is compiled first."""
    return bool((await site.control("GET /snapshot"))[1]["regions"])


async def refused_revoked(site: Site) -> bool:
    return "frame rejected: certificate revoked" in (await site.view())["counters"]


@pytest.mark.slow
async def test_an_operator_with_a_certificate_publishes_until_it_is_revoked(tmp_path: Path) -> None:
    """By the commands, against running nodes whose files never heard of that operator."""
    ca = CaDir.create(tmp_path / "ca", "test", now())
    policy = tmp_path / "shop.policy"
    text = "edition 1\nregion fra {\n  at 50.11 8.68\n  endpoint 127.0.0.1:1\n}\n"
    text += 'route a for "*" path "/**" { primary any }\n'

    async def command(*arguments: str) -> int:
        return await trio.to_thread.run_sync(main, list(arguments))

    async with running(certified(tmp_path / "ams", ca, "ams")) as ams:  # noqa: SIM117  (the second needs the first)
        async with running(certified(tmp_path / "fra", ca, "fra", seeds=(ams.bound.gossip,))) as fra:
            await until(lambda: members_of_both(ams, fra))
            control = ["--control", f"http://127.0.0.1:{fra.bound.control[1]}"]
            eva = str(tmp_path / "eva")
            issue = ["ca", "issue", "--ca", str(tmp_path / "ca"), "--role", "operator", "--name", "eva"]
            assert await command(*issue, "--out", f"{eva}.crt") == 0
            policy.write_text(text)
            assert await command("policy", "publish", str(policy), "--key", f"{eva}.key", *control) == 0
            await until(lambda: has_policy(ams))
            assert await command("ca", "revoke", "--ca", str(tmp_path / "ca"), "eva", *control) == 0
            await until(lambda: said(ams, "revoked", "an author"))
            policy.write_text(text + "# and more\n")
            assert await command("policy", "publish", str(policy), "--key", f"{eva}.key", *control) == 1
            for site in (ams, fra):
                view = await site.view()
                assert len(view["revoked"]) == 1
                assert view["policies"], "what was published before goes on serving"
            assert (await ams.control("POST /v1/revocations", OPS_MEDIA_TYPE, b"\x91\xc4\x01x"))[0] == 422


@pytest.mark.slow
async def test_a_region_that_signs_is_believed_only_when_it_signs(tmp_path: Path) -> None:
    ca = CaDir.create(tmp_path / "ca", "test", now())
    text = "edition 1\nregion fra {\n  at 50.11 8.68\n  endpoint 127.0.0.1:1\n  capacity 4000rps\n}\n"
    text += 'route a for "*" path "/**" { primary any }\n'
    async with running(certified(tmp_path / "ams", ca, "ams")) as ams:
        assert await ams.publish(text) == 200
        await until(lambda: knows_regions(ams))
        control = ["--control", f"http://127.0.0.1:{ams.bound.control[1]}"]
        plain = {"region": "fra", "latency_ms": 5, "error_rate": 0, "capacity_pct": 10}

        async def capacity() -> int:
            _, snapshot = await ams.control("GET /snapshot")
            shown: int = snapshot["regions"][0]["capacity_pct"]
            return shown

        assert (await ams.control("POST /update", "application/json", json.dumps(plain).encode()))[0] == 204
        assert await capacity() == 10
        for name in ("fra", "iad"):
            issue = ["ca", "issue", "--ca", str(tmp_path / "ca"), "--role", "region", "--name", name]
            assert await trio.to_thread.run_sync(main, [*issue, "--out", str(tmp_path / f"{name}.crt")]) == 0
        say = ["signal", "--capacity-pct", "80", *control]
        assert await trio.to_thread.run_sync(main, [*say, "--key", str(tmp_path / "fra.key")]) == 0
        assert await capacity() == 80
        rate = ["signal", "--rps", "3000", *control, "--key", str(tmp_path / "fra.key")]
        assert await trio.to_thread.run_sync(main, rate) == 0
        assert await capacity() == 75
        assert await trio.to_thread.run_sync(main, [*say, "--key", str(tmp_path / "fra.key")]) == 0
        status, answer = await ams.control("POST /update", "application/json", json.dumps(plain).encode())
        assert (status, answer["error"]) == (403, "region 'fra' signs its word, and this is not signed")
        assert await trio.to_thread.run_sync(main, [*say, "--key", str(tmp_path / "iad.key")]) == 1, "no such region"
        assert await trio.to_thread.run_sync(main, [*say, "--key", str(tmp_path / "ca" / "ca.key")]) == 2
        revoke = ["ca", "revoke", "--ca", str(tmp_path / "ca"), "fra", *control]
        assert await trio.to_thread.run_sync(main, revoke) == 0
        assert await trio.to_thread.run_sync(main, [*say, "--key", str(tmp_path / "fra.key")]) == 1
        assert await capacity() == 80


def test_files_that_do_not_belong_together_are_refused_at_the_start(tmp_path: Path) -> None:
    ca, other = CaDir.create(tmp_path / "ca", "test", now()), CaDir.create(tmp_path / "other", "test", now())
    config = certified(tmp_path / "ams", ca, "ams")
    key = node_key_in(config.site.state_dir)
    credentials = Credentials(config, key, now)
    assert credentials.security is not None
    assert credentials.expiries() == []

    def refused(match: str) -> None:
        with pytest.raises(StartError, match=match):
            Credentials(config, key, now)

    with pytest.raises(StartError, match=r"not yet valid: node 'ams'.*; this machine's clock says 1970-01-02"):
        Credentials(config, key, lambda: Micros(DAY))
    replace_file(tmp_path / "ams" / "ca.crt", b"nothing", 0o644)
    refused(r"^cluster\.ca: \S*/ca\.crt: no certificate")
    replace_file(tmp_path / "ams" / "ca.crt", other.authority.pem, 0o644)
    refused(r"^cluster\.certificate: .*certificate of another CA")
    replace_file(tmp_path / "ams" / "ca.crt", CaDir.create(tmp_path / "third", "prod", now()).authority.pem, 0o644)
    refused("of cluster 'prod', not 'test'")
    replace_file(tmp_path / "ams" / "ca.crt", ca.authority.pem, 0o644)
    replace_file(tmp_path / "ams" / "node.crt", ca.issue(bytes(31) + b"\1", Role.NODE, "x", now()).pem, 0o644)
    refused("of another key than this node's .* `edgelattice ca issue --role node --request .*csr --out .*--replace`")
    asked, for_key = read_request((config.site.state_dir / "node.csr").read_bytes())
    assert (asked, for_key) == ("ams", public_key_of(key)), "who lost its state directory is told a way that works"
    (tmp_path / "ams" / "node.csr").write_bytes(make_request(key, "ams"))
    refused(f"--request {tmp_path}/ams/node.csr --out")
    replace_file(tmp_path / "ams" / "node.crt", ca.issue(public_key_of(key), Role.NODE, "fra", now()).pem, 0o644)
    refused("for site 'fra', and this is 'ams'")
    (tmp_path / "ams" / "node.crt").unlink()
    refused("no such file; `edgelattice ca issue --role node --request ")


async def test_the_end_of_a_certificate_is_announced_14_days_before(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ca = CaDir.create(tmp_path / "ca", "test", now())
    config = certified(tmp_path / "ams", ca, "ams")
    begun = now()
    clock = [Micros(begun)]
    credentials = Credentials(config, node_key_in(config.site.state_dir), lambda: clock[0])
    journal = Journal(lambda: clock[0])

    async def submit(change: LocalChange) -> None:
        raise AssertionError(f"no file has changed: {change}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(credentials.keep, lambda _: None, submit, lambda _: None, journal)
        for days, warnings in ((75, 0), (77, 1), (77, 1), (78, 2), (91, 3)):
            clock[0] = Micros(begun + days * DAY)
            await trio.sleep(2)
            texts = [event.text for event in journal.events()]
            assert len(texts) == warnings
        assert "certificate expires on " in texts[0]
        assert "certificate expired on " in texts[-1]
        nursery.cancel_scope.cancel()


def test_where_the_ca_itself_ends_no_new_certificate_of_it_is_advised(tmp_path: Path) -> None:
    """Nothing that it issues outlives it."""
    ca = CaDir.create(tmp_path / "ca", "test", now())
    config = certified(tmp_path / "ams", ca, "ams")
    key, last = node_key_in(config.site.state_dir), Micros(ca.authority.not_after - DAY)
    replace_file(tmp_path / "ams" / "node.crt", ca.issue(public_key_of(key), Role.NODE, "ams", last).pem, 0o644)
    (warning,) = Credentials(config, key, lambda: last).expiries()
    assert warning.startswith("the CA's own certificate expires on ")
    assert "make a new CA" in warning
    assert "ca issue" not in warning


@pytest.mark.slow
async def test_a_node_outlives_its_certificate_and_starts_without_one_that_holds(tmp_path: Path) -> None:
    """It is alone then, and says so; users are served."""
    ca = CaDir.create(tmp_path / "ca", "test", Micros(now() - 30 * DAY))
    config = certified(tmp_path / "ams", ca, "ams")
    key = public_key_of(node_key_in(config.site.state_dir))
    ending = ca.issue(key, Role.NODE, "ams", Micros(now() - DAY + 3 * SECOND), 1)
    replace_file(tmp_path / "ams" / "node.crt", ending.pem, 0o644)
    counted = "rows not sent: our certificate has ended"

    async def alone(site: Site) -> bool:
        view = await site.view()
        return view["counters"].get(counted, 0) > 0 and any("expired on" in told for told in view["warnings"])

    async with running(config) as ams:
        assert counted not in (await ams.view())["counters"]
        await trio.sleep(max(0, (ending.not_after - now()) / SECOND) + 0.5)
        assert (await ams.view())["site"] == "ams"
    async with running(config) as ams:
        await until(lambda: alone(ams))
        renewed = ca.issue(key, Role.NODE, "ams", now())
        replace_file(tmp_path / "ams" / "node.crt", renewed.pem, 0o644)
        await until(lambda: said(ams, "certificate", "certificate until "))
        assert not [told for told in (await ams.view())["warnings"] if "expired on" in told]


async def test_a_certificate_that_begins_later_by_our_clock_is_taken_up_then(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The CA's machine is ten minutes ahead of us; nobody copies the file a second time."""
    ca = CaDir.create(tmp_path / "ca", "test", now())
    config = certified(tmp_path / "ams", ca, "ams")
    key, begun = node_key_in(config.site.state_dir), now()
    clock = [begun]
    credentials = Credentials(config, key, lambda: clock[0])
    journal = Journal(lambda: clock[0])

    async def submit(change: LocalChange) -> None:
        del change

    async with trio.open_nursery() as nursery:
        nursery.start_soon(credentials.keep, lambda _: None, submit, lambda _: None, journal)
        await trio.sleep(2)
        renewed = ca.issue(public_key_of(key), Role.NODE, "ams", Micros(begun + 600 * SECOND))
        replace_file(tmp_path / "ams" / "node.crt", renewed.pem, 0o644)
        for minutes in range(10):
            clock[0] = Micros(begun + minutes * 60 * SECOND)
            await trio.sleep(2)
            assert credentials.security_now().certificate.serial == renewed.serial or minutes < 6
        texts = [event.text for event in journal.events() if event.kind == "certificate"]
        assert len(texts) == 2, "told once, and taken up"
        assert "certificate not yet valid" in texts[0]
        assert texts[1].startswith("certificate until ")
        nursery.cancel_scope.cancel()


async def test_endpoints_are_connected_to_anew_for_what_they_are_shown_alone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ca = CaDir.create(tmp_path / "ca", "test", now())
    config = certified(tmp_path / "ams", ca, "ams")
    ring, key = config.cluster.keys, node_key_in(config.site.state_dir)
    assert ring is not None
    assert config.cluster.key_file is not None
    credentials = Credentials(config, key, now)
    anew: list[UpstreamTls] = []

    async def submit(change: LocalChange) -> None:
        del change

    async with trio.open_nursery() as nursery:
        nursery.start_soon(credentials.keep, lambda _: None, submit, anew.append, Journal(now))
        await trio.sleep(2)
        write_key_ring(config.cluster.key_file, ring.add(b"n" * 32, "next"), "test")
        await trio.sleep(2)
        assert len(credentials.state().keys) == 2
        assert not anew, "the cluster's keys are nothing to endpoints: their warm connections stay"
        renewed = ca.issue(public_key_of(key), Role.NODE, "ams", now())
        replace_file(tmp_path / "ams" / "node.crt", renewed.pem, 0o644)
        await trio.sleep(2)
        assert len(anew) == 1
        nursery.cancel_scope.cancel()
