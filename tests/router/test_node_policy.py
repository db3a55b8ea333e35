"""What a policy can ask, asked of a whole node: each field reaches the rules, and affinity holds end to end."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from router.cli import main
from router.site.config_reader import endpoint_text
from router.site.site_file import load_site_config
from tests.router.mmdb_writer import database
from tests.router.test_node import Backend, Site, _is, event_is, exchange, level, running, site_config, until

PROBES = 'health default { probe "/healthz" every 100ms timeout 80ms  recover after 300ms }\n'


def text_of(backends: list[Backend], more: str, *, of_region: str = "") -> str:
    regions = "".join(
        f"region {each.name} {{ at {50 - place * 10} 8 endpoint {endpoint_text(each.endpoint)} {of_region} }}\n"
        for place, each in enumerate(backends)
    )
    return f"edition 1\n{PROBES}{regions}{more}"


async def served(site: Site, line: str = "GET /", *headers: str) -> str:
    head = "".join(f"{header}\r\n" for header in headers)
    _, answered, _ = await exchange(
        site.bound.http[0], f"{line} HTTP/1.1\r\nHost: shop.test\r\n{head}Connection: close\r\n\r\n"
    )
    return answered.get("x-edge-region", answered.get("x-edge-reason", ""))


async def test_headers_query_and_cookies_reach_the_rules(tmp_path: Path) -> None:
    backends = [Backend("fra"), Backend("iad"), Backend("gru"), Backend("nrt")]
    rules = """route shop for "*" {
      rule tenant { when header("X-Tenant") in "us" primary iad }
      rule asked  { when query("region") in "br" primary gru }
      rule cookie { when cookie("lab") present primary nrt }
      rule other  { when method in DELETE deny 405 "not here" }
      primary fra secondary any
    }
    """
    async with trio.open_nursery() as regions:
        for backend in backends:
            await regions.start(backend.run)
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            assert await ams.publish(text_of(backends, rules)) == 200
            await until(lambda: _is(ams.region_served, "fra"))
            assert await served(ams, "GET /", "x-tenant: us") == "iad"
            assert await served(ams, "GET /", "x-tenant: eu") == "fra"
            assert await served(ams, "GET /?region=br") == "gru"
            assert await served(ams, "GET /?region=de") == "fra"
            assert await served(ams, "GET /", "Cookie: a=b; lab=1") == "nrt"
            assert await served(ams, "DELETE /") == "denied: not here"
        regions.cancel_scope.cancel()


async def _all_well(site: Site, backends: Sequence[Backend]) -> bool:
    seen = {region["region"]: region["effective"] for region in (await site.view())["regions"]}
    return seen == {backend.name: "HEALTHY" for backend in backends}


async def test_cookie_affinity_holds_end_to_end(tmp_path: Path) -> None:
    """The same user goes to the same region at every site; when a region dies, only its own users move; and they are
    back when it is."""
    backends = [Backend("fra"), Backend("iad"), Backend("gru")]
    rules = 'route shop for "*" { primary fra, iad, gru stick by cookie("uid") for 10m }\n'

    async def places(site: Site) -> list[str]:
        return [await served(site, "GET /", f"Cookie: theme=dark; uid=user-{number}") for number in range(24)]

    async with trio.open_nursery() as regions:
        for backend in backends:
            await regions.start(backend.run)
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            assert await ams.publish(text_of(backends, rules)) == 200
            await until(partial(_all_well, ams, backends))
            config = site_config(tmp_path / "nyc", "nyc", seeds=(ams.bound.gossip,), author=False)
            async with running(config) as nyc:
                await until(partial(_all_well, nyc, backends))
                before = await places(ams)
                assert set(before) == {"fra", "iad", "gru"}
                await until(lambda: _is(partial(places, nyc), before))
                assert await places(ams) == before
            backends[1].kill()
            after = await places(ams)
            assert [new for old, new in zip(before, after, strict=True) if old != "iad"] == [
                old for old in before if old != "iad"
            ]
            assert "iad" not in after
            regions.start_soon(backends[1].run)
            await until(lambda: _is(partial(places, ams), before))
        regions.cancel_scope.cancel()


async def test_clients_are_placed_by_the_location_database_which_may_change_and_break(tmp_path: Path) -> None:
    backends = [Backend("fra"), Backend("iad")]
    shop = "zone us { primary iad } primary nearest to client secondary any"
    rules = f'zone us {{ country US }}\nroute shop for "*" {{ {shop} }}\n'
    config = site_config(tmp_path / "ams", "ams")
    file = tmp_path / "ams" / "geo.mmdb"
    file.write_bytes(database({"127.0.0.0/8": {"country": {"iso_code": "US"}}}))
    config.path.write_text(config.path.read_text() + '[geo]\ndatabase = "geo.mmdb"\n')
    async with trio.open_nursery() as regions:
        for backend in backends:
            await regions.start(backend.run)
        async with running(load_site_config(config.path)) as ams:
            assert await ams.publish(text_of(backends, rules)) == 200
            await until(lambda: _is(ams.region_served, "iad"))
            file.write_bytes(database({"127.0.0.0/8": {"country": "DE"}}))
            os.utime(file, ns=(1, 1))
            await until(lambda: _is(ams.region_served, "fra"))
            file.write_bytes(b"not a database")
            await until(partial(event_is, ams, "geo", "stays in use"))
            assert any("geo.mmdb" in warning for warning in (await ams.view())["warnings"])
            assert await ams.region_served() == "fra", "the last good one"
            file.write_bytes(database({"127.0.0.0/8": {"country": "DE", "lat": "39.9", "lng": "8.1"}}))
            await until(lambda: _is(ams.region_served, "iad"))  # which this policy has on Sardinia
            assert (await ams.view())["warnings"] == []
        regions.cancel_scope.cancel()


async def test_a_full_region_spills_as_it_says_itself(tmp_path: Path) -> None:
    """Told to one site, known at both."""
    backends = [Backend("fra"), Backend("iad")]
    rules = 'route shop for "*" { primary fra secondary any spill above 50% stick by cookie("uid") for 10m }\n'

    async def spilt(site: Site) -> bool:
        places = [await served(site, "GET /", f"Cookie: uid={number}") for number in range(24)]
        return places.count("iad") > 12 and await level(site, "fra") == "HEALTHY"

    async with trio.open_nursery() as regions:
        for backend in backends:
            await regions.start(backend.run)
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            assert await ams.publish(text_of(backends, rules)) == 200
            config = site_config(tmp_path / "nyc", "nyc", seeds=(ams.bound.gossip,), author=False)
            async with running(config) as nyc:
                await until(lambda: _is(nyc.region_served, "fra"))
                signal = {"region": "fra", "latency_ms": 5, "error_rate": 0.0, "capacity_pct": 94, "timestamp": 1}
                await tell(ams, signal)
                await until(partial(spilt, ams))
                await until(partial(spilt, nyc))
                await tell(ams, signal | {"capacity_pct": 10, "timestamp": 2})
                for site in (ams, nyc):
                    await until(partial(_is, partial(spilt, site), False))
        regions.cancel_scope.cancel()


async def tell(site: Site, signal: dict[str, object]) -> None:
    status, answer = await site.control("POST /update", "application/json", json.dumps(signal).encode())
    assert status == 204, answer


async def test_explain_asks_a_live_node_for_itself_and_for_another_site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backends = [Backend("fra"), Backend("iad")]
    rules = """route shop for "shop.test" {
      rule eu { when header("x-zone") in "eu" primary fra secondary any }
      primary nearest
      secondary any
    }
    """

    async def explained(site: Site, *options: str) -> str:
        command = ["explain", "--client", "198.51.100.7", "--host", "shop.test", *options]
        at = ["--control", f"http://{endpoint_text(site.bound.control)}"]
        status = await trio.to_thread.run_sync(main, [*command, *at])
        told = capsys.readouterr()
        assert status == 0, told.err
        return told.out

    async with trio.open_nursery() as regions:
        for backend in backends:
            await regions.start(backend.run)
        async with running(site_config(tmp_path / "ams", "ams")) as ams:
            config = site_config(tmp_path / "nyc", "nyc", seeds=(ams.bound.gossip,), author=False)
            config.path.write_text(config.path.read_text().replace("52.37 4.90", "38.9 -77.0"))
            async with running(load_site_config(config.path)) as nyc:
                text = text_of(backends, rules).replace("at 40 8", "at 38 -77")
                text = text.replace("recover after", "damp penalty 1000 cooldown 2s recover after")
                assert await ams.publish(text) == 200
                await until(partial(_all_well, ams, backends))
                await until(partial(_all_well, nyc, backends))
                assert (await explained(ams)).startswith("fra   primary\n")
                there = await explained(ams, "--at", "nyc")
                assert there.startswith("iad   primary\n"), "the other site's place"
                assert "not known here of nyc: the round trips it measured" in there
                assert "not known here" not in await explained(ams)
                assert "default:" in await explained(ams, "--header", "X-Zone: eu"), "file and line"
                backends[0].kill()
                await until(partial(_is, partial(level, ams, "fra"), "DOWN"))
                said = await explained(ams, "--header", "X-Zone: eu", "--at", "ams")
                assert said.startswith("iad   secondary: fra DOWN\n")
                assert "fra DOWN since" in said
                assert "better again after 0.3s of success" in said
                assert re.search(r"damping (1000|9\d\d) of 2500", said), "it decays meanwhile"
                body = json.loads(await explained(ams, "--json", "--header", "X-Zone: eu"))
                (fra,) = [region for region in body["regions"] if region["region"] == "fra"]
                assert (body["site"], fra["planned"], fra["penalty"] > 900) == ("ams", "DOWN", True)
                assert {witness["site"] for witness in fra["witnesses"]} <= {"ams", "nyc"}
                assert body["explanation"]["decision"]["rule"] == "eu"
                regions.start_soon(backends[0].run)
                await until(partial(_is, partial(level, ams, "fra"), "HEALTHY"))
                assert "returns no earlier than" in await explained(ams), "cooldown still holds it"
                status = await trio.to_thread.run_sync(
                    main, ["explain", "--client", "::1", "--host", "h", "--at", "atlantis", "--control",
                           f"http://{endpoint_text(ams.bound.control)}"],
                )  # fmt: skip
                assert status == 2
                assert "knows no such site; it knows ams, nyc" in capsys.readouterr().err
        regions.cancel_scope.cancel()
