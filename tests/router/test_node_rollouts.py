"""Rollouts among whole nodes: a bad version is given up after a handful of failures, a good one comes to all."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from router.cli import main
from router.site.config_reader import endpoint_text
from router.site.site_config import SiteConfig
from router.site.site_file import load_site_config
from tests.router.test_node import Backend, Site, _is, event_is, level, running, site_config, until
from tests.router.test_node_policy import PROBES

HEALTHY = 'route shop for "shop.test" { primary fra }\n'
BETTER = HEALTHY + 'route more for "more.test" { primary fra }\n'
BAD = HEALTHY.replace("primary fra", "primary gone")
PASSING = 92
"""Requests that go well until a version has passed."""


def text_of(fra: Backend, rules: str) -> str:
    gone = "region gone { at 40 8 endpoint 127.0.0.1:1 }\n" if "gone" in rules else ""
    return f"edition 1\n{PROBES}region fra {{ at 50 8 endpoint {endpoint_text(fra.endpoint)} }}\n{gone}{rules}"


class Operator:
    """Somebody at a terminal, with a policy file."""

    def __init__(self, directory: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
        self.key = directory / "author.key"
        self.file = directory / "shop.policy"
        self.control = f"http://{endpoint_text(site.bound.control)}"
        self._capsys = capsys

    async def run(self, *arguments: str, keyless: bool = False, status: int = 0) -> str:
        key = [] if keyless else ["--key", str(self.key)]
        command = ["policy", "rollout", *arguments, *key, "--control", self.control]
        found = await trio.to_thread.run_sync(main, command)
        told = self._capsys.readouterr()
        assert found == status, told.out + told.err
        return told.out + told.err

    async def start(self, text: str, *options: str) -> str:
        self.file.write_text(text)
        return await self.run("start", str(self.file), *options)

    async def explain(self, site: str) -> str:
        """Where and by what a request is decided there."""
        request = ["--client", "198.51.100.7", "--host", "shop.test"]
        assert await trio.to_thread.run_sync(main, ["explain", *request, "--at", site, "--control", self.control]) == 0
        (line,) = re.findall(r"  decided at .*\n", self._capsys.readouterr().out)
        return str(line)

    async def explains(self, site: str, by: str) -> bool:
        """Whether that is what a request is decided by there, as far as this node has heard."""
        return (await self.explain(site)).endswith(f" {by}\n")

    async def status(self) -> str:
        """`edgelattice status` there."""
        assert await trio.to_thread.run_sync(main, ["status", "--control", self.control]) == 0
        return str(self._capsys.readouterr().out)

    async def rollout(self) -> Any:
        """The latest."""
        return json.loads(await self.run("status", "--json", keyless=True))[-1]


async def in_force(site: Site) -> tuple[str, str]:
    """Nothing where the policy is still on its way."""
    policies = (await site.view())["policies"] or [{"in_force": "", "trial": ""}]
    return policies[0]["in_force"], policies[0]["trial"]


async def answers(site: Site, count: int) -> tuple[list[int], set[str]]:
    """The statuses of so many requests on one connection, one after the other, and the reasons given."""
    request = "GET / HTTP/1.1\r\nHost: shop.test\r\n"
    with trio.fail_after(10):
        async with await trio.open_tcp_stream(*site.bound.http[0]) as stream:
            await stream.send_all(
                f"{request}\r\n".encode() * (count - 1) + f"{request}Connection: close\r\n\r\n".encode()
            )
            data = b"".join([bytes(part) async for part in stream]).decode()
    statuses = [int(status) for status in re.findall(r"HTTP/1\.1 (\d+) ", data)]
    assert len(statuses) == count
    return statuses, set(re.findall(r"(?i)x-edge-reason: ([^\r]*)", data))


async def failures(site: Site, requests: int) -> int:
    return sum(status >= 500 for status in (await answers(site, requests))[0])


async def serves(sites: dict[str, Site], version: str) -> bool:
    return {(await in_force(site))[0] for site in sites.values()} == {version}


async def rolled_back(sites: dict[str, Site], rollout: str) -> bool:
    states = [
        {each["id"]: each["state"] for each in (await site.view())["rollouts"]}[rollout] for site in sites.values()
    ]
    return set(states) == {"rolled back"}


async def test_a_bad_version_is_given_up_and_a_good_one_comes_to_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fra = Backend("fra")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        ams_config = site_config(tmp_path / "ams", "ams")
        async with running(ams_config) as ams:
            seeds = (ams.bound.gossip,)
            async with (
                running(site_config(tmp_path / "nyc", "nyc", seeds, author=False)) as nyc,
                running(site_config(tmp_path / "nrt", "nrt", seeds, author=False)) as nrt,
            ):
                sites = {"ams": ams, "nyc": nyc, "nrt": nrt}
                assert await ams.publish(text_of(fra, HEALTHY)) == 200
                base = (await ams.view())["policies"][0]["version"]
                await until(partial(serves, sites, base))
                for site in sites.values():
                    await until(partial(_is, site.region_served, "fra"))
                eva = Operator(tmp_path / "ams", ams, capsys)

                # bad: the route leads to where nobody answers
                said = await eva.start(text_of(fra, BAD), "--first", "ams", "--stages", "1,100", "-m", "try")
                assert "try it: ams" in said
                rollout = await eva.rollout()
                inside = {each["site"]: sites[each["site"]] for each in rollout["sites"] if each["inside"]}
                await until(partial(serves, inside, rollout["version"]))
                assert (await in_force(ams))[1] == f"canary {rollout['id'][:8]}"
                await until(
                    partial(eva.explains, "ams", f"by version {rollout['version'][:8]}, canary {rollout['id'][:8]}")
                )
                for name in sites.keys() - inside.keys():  # each site's row says what it goes by, and is on its way
                    await until(partial(eva.explains, name, f"by version {base[:8]}"))
                assert await failures(ams, 30) == 2, "the second condemns, and the third is decided by the base"
                for name, site in inside.items():
                    assert name == "ams" or await failures(site, 30) <= 2
                for name, site in sites.items():
                    if name not in inside:
                        assert await failures(site, 5) == 0
                await until(partial(rolled_back, sites, rollout["id"]))
                assert await serves(sites, base)
                for name in sites.keys() - inside.keys():
                    await until(partial(event_is, sites[name], "rollout", "is given up by all"))
                said = await eva.run("advance", rollout["id"][:6], status=1)
                assert "is rolled back: there is nothing to advance" in said
                table = await eva.run("status", keyless=True)
                assert "condemned" in table
                assert f"{base[:8]} (the one before)" in table
                shown = (await eva.status()).splitlines()
                (line,) = [each for each in shown if each.startswith(rollout["id"][:8])]
                assert "condemned" in line
                assert "the version before" in line
                assert "rolled back" in line

                # good: it takes enough requests that went well, and somebody to advance it
                await eva.start(text_of(fra, BETTER), "--first", "ams", "--stages", "1,100")
                rollout = await eva.rollout()
                inside = {each["site"]: sites[each["site"]] for each in rollout["sites"] if each["inside"]}
                await until(partial(serves, inside, rollout["version"]))
                said = await eva.run("advance", status=1)
                assert "stage 1 of 2: 0 of" in said
                assert "undecided: ams" in said
                reasons = set[str]()
                for site in inside.values():
                    statuses, said_why = await answers(site, PASSING)
                    assert set(statuses) == {200}
                    reasons |= said_why
                assert reasons == {f"primary; canary {rollout['id'][:8]}"}
                await until(partial(passed, eva))
                assert "advanced to stage 2 of 2: 100 %, 3 sites" in await eva.run("advance")
                await until(partial(serves, sites, rollout["version"]))
                assert (await nyc.view())["policies"][0]["version"] == rollout["version"]
                assert (await eva.rollout())["state"] == "complete"

                # an abort outweighs it, and a plain publish ends it
                assert "serve" in await eva.run("abort", "-m", "no")
                await until(partial(serves, sites, base))
                assert await ams.publish(text_of(fra, BETTER)) == 200
                assert "no rollout since the last publish" in await eva.run("status", keyless=True)
        regions.cancel_scope.cancel()


async def passed(eva: Operator) -> bool:
    return bool((await eva.rollout())["passed"])


async def test_what_a_version_makes_of_a_region_is_not_told_to_sites_that_serve_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version on trial has fra where nobody answers: whoever tries it sees it down, and the other site does not."""
    fra, iad = Backend("fra"), Backend("iad")
    async with trio.open_nursery() as regions:
        for backend in (fra, iad):
            await regions.start(backend.run)
        text = text_of(fra, f"region iad {{ at 38 -77 endpoint {endpoint_text(iad.endpoint)} }}\n" + HEALTHY)
        text = text.replace("primary fra", "primary fra secondary any")
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            seeds = (ams.bound.gossip,)
            async with running(site_config(tmp_path / "nyc", "nyc", seeds, author=False)) as nyc:
                assert await ams.publish(text) == 200
                for site in (ams, nyc):
                    await until(partial(_is, site.region_served, "fra"))
                eva = Operator(tmp_path / "ams", ams, capsys)
                await start_only_at_ams(eva, text.replace(endpoint_text(fra.endpoint), "127.0.0.1:1"))
                await until(partial(_is, partial(level, ams, "fra"), "DOWN"))
                await until(partial(_is, ams.region_served, "iad"))
                await until(partial(says_nothing_of_fra, nyc))
                assert await level(nyc, "fra") == "HEALTHY"
                assert "advanced to stage 2 of 2" in await eva.run("advance", "--force")
                await until(partial(_is, partial(says_nothing_of_fra, nyc), False))  # now all mean the same
                await until(partial(_is, partial(level, nyc, "fra"), "DOWN"))
                await eva.run("abort")
                for site in (ams, nyc):
                    await until(partial(_is, site.region_served, "fra"))
                    assert not await says_nothing_of_fra(site)
        regions.cancel_scope.cancel()


async def start_only_at_ams(eva: Operator, text: str) -> None:
    """Once in a hundred the other site is drawn, too: then another rollout."""
    while "2 sites" in await eva.start(text, "--first", "ams", "--stages", "1,100"):
        await eva.run("abort")


async def says_nothing_of_fra(site: Site) -> bool:
    """Whether ams has no voice on it, as that site sees it."""
    (fra,) = [region for region in (await site.view())["regions"] if region["region"] == "fra"]
    return "ams" not in {witness["site"] for witness in fra["witnesses"]}


async def test_a_restart_forgets_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fra = Backend("fra")
    config = site_config(tmp_path / "ams", "ams")
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(config) as ams:
            assert await ams.publish(text_of(fra, HEALTHY)) == 200
            base = (await ams.view())["policies"][0]["version"]
            await until(lambda: _is(ams.region_served, "fra"))
            eva = Operator(tmp_path / "ams", ams, capsys)
            await eva.start(text_of(fra, BAD), "--stages", "100")
            rollout = await eva.rollout()
            await until(partial(serves, {"ams": ams}, rollout["version"]))
            assert await failures(ams, 30) == 2
        async with running(config) as ams:
            assert await failures(ams, 5) == 0
            assert await in_force(ams) == (base, "")
        # and one that was still on trial comes back on trial
        async with running(config) as ams:
            eva = Operator(tmp_path / "ams", ams, capsys)
            await eva.start(text_of(fra, BETTER), "--stages", "100")
            rollout = await eva.rollout()
            await until(partial(serves, {"ams": ams}, rollout["version"]))
        async with running(config) as ams:
            assert await in_force(ams) == (rollout["version"], f"canary {rollout['id'][:8]}")
        regions.cancel_scope.cancel()


@pytest.mark.slow
async def test_workers_go_back_as_soon_as_they_hear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The node judges by what they tell it, of a failure at once."""
    fra = Backend("fra")
    config = site_with_workers(tmp_path / "ams", 2)
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(config) as ams:
            assert await ams.publish(text_of(fra, HEALTHY)) == 200
            await until(lambda: _is(ams.region_served, "fra"))
            base = (await ams.view())["policies"][0]["version"]
            eva = Operator(tmp_path / "ams", ams, capsys)
            await eva.start(text_of(fra, BETTER), "--stages", "50,100", "--first", "ams")
            await until(lambda: _is(partial(workers_current, ams), 2))
            reasons = [(await ams.get())[1]["x-edge-reason"] for _ in range(PASSING)]
            assert {reason.partition(";")[0] for reason in reasons} == {"primary"}
            await until(partial(passed, eva))
            assert "canary" in reasons[-1]
            await eva.run("abort")
            await until(partial(serves, {"ams": ams}, base))
            await eva.start(text_of(fra, BAD), "--stages", "100")
            with trio.fail_after(15):
                statuses = list[int]()
                while (await in_force(ams))[0] == base and not statuses.count(503):
                    statuses.append((await ams.get())[0])
                while (await in_force(ams))[0] != base:
                    statuses.append((await ams.get())[0])
                await until(lambda: _is(partial(workers_current, ams), 2))
                assert await failures(ams, 20) == 0
            assert 2 <= sum(status >= 500 for status in statuses) <= 10
        regions.cancel_scope.cancel()


def site_with_workers(home: Path, count: int) -> SiteConfig:
    path = site_config(home, "ams").path
    path.write_text(path.read_text().replace("[http]", f"[http]\nworkers = {count}"))
    return load_site_config(path)


async def workers_current(site: Site) -> int:
    return int((await site.view())["counters"].get("proxy workers current", 0))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_version_that_lost_a_route_is_given_up(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its users got 404; whoever asks for what neither version has changes nothing."""

    async def asked(host: str) -> int:
        return (await ams.get(host=host))[0]

    fra = Backend("fra")
    config = site_with_workers(tmp_path / "ams", workers)
    async with trio.open_nursery() as regions:
        await regions.start(fra.run)
        async with running(config) as ams:
            assert await ams.publish(text_of(fra, BETTER)) == 200
            await until(lambda: _is(ams.region_served, "fra"))
            base = (await ams.view())["policies"][0]["version"]
            eva = Operator(tmp_path / "ams", ams, capsys)
            await eva.start(text_of(fra, HEALTHY), "--stages", "100")
            with trio.fail_after(15):
                while await asked("more.test") != 404:
                    assert await asked("never.test") == 404
                while (await in_force(ams))[0] != base:
                    await asked("never.test")
                    await asked("more.test")
                assert "is bad, by route more" in str((await ams.view())["events"])
                while await asked("more.test") != 200:
                    assert await asked("never.test") == 404
        regions.cancel_scope.cancel()
