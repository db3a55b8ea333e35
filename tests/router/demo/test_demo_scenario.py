"""The demo's scenario: options in, places, kills, policy text and site files out."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import SECOND, Level
from router.decision.decide import Request, decide
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.decision.program import compile_policy
from router.demo.scenario import (
    HOST,
    REGIONS_MAX,
    SITES_MAX,
    Scenario,
    ScenarioError,
    compose,
    parse_kill,
    plan_kills,
    policy_text,
    ranking,
    recover_after_us,
    site_toml,
)
from router.policy.parser import blocks, parse
from router.site.key_file import write_secret
from router.site.site_file import load_site_config

sizes = st.tuples(st.integers(1, SITES_MAX), st.integers(1, REGIONS_MAX))


def policy_of(scenario: Scenario) -> str:
    return policy_text(scenario, {region.name: (region.host, 41_001) for region in scenario.regions})


@given(sizes)
def test_every_size_has_distinct_names_hosts_and_clients_within_their_zone(size: tuple[int, int]) -> None:
    sites, regions = size
    scenario = compose(20, 200, sites, regions, ())

    assert len({site.name for site in scenario.sites} | {region.name for region in scenario.regions}) == sites + regions
    assert len({region.host for region in scenario.regions}) == regions
    clients = [client for site in scenario.sites for client in site.clients]
    assert len(set(clients)) == len(clients)
    for site in scenario.sites:
        assert all(client.startswith(site.network.removesuffix("0.0/16")) for client in site.clients)


@given(sizes)
def test_every_zone_ranks_every_region_once(size: tuple[int, int]) -> None:
    scenario = compose(20, 200, *size, ())

    order = ranking(scenario)
    assert set(order) == {site.zone for site in scenario.sites}
    for regions in order.values():
        assert sorted(regions) == sorted(region.name for region in scenario.regions)


def test_each_site_is_nearest_to_the_region_of_its_line() -> None:
    scenario = compose(20, 200, SITES_MAX, REGIONS_MAX, ())

    nearest = [regions[0] for regions in ranking(scenario).values()]
    assert nearest == [region.name for region in scenario.regions]


@given(sizes)
def test_the_default_kill_takes_a_region_that_serves_users(size: tuple[int, int]) -> None:
    scenario = compose(20, 200, *size, ())

    (kill,) = scenario.kills
    assert kill.region in {regions[0] for regions in ranking(scenario).values()}
    assert (kill.at_us, kill.return_at_us) == (8 * SECOND, 13 * SECOND)


@given(sizes)
def test_the_policy_parses_at_every_size(size: tuple[int, int]) -> None:
    scenario = compose(20, 200, *size, ())
    text = policy_of(scenario)

    policy = parse(text)
    assert [region.name for region in policy.regions] == [region.name for region in scenario.regions]
    assert [zone.name for zone in policy.zones] == [site.zone for site in scenario.sites]
    assert "".join(blocks(text)) == text
    assert HOST in text


@given(sizes, st.data())
def test_the_router_sends_every_user_to_the_region_that_the_demo_calls_nearest(
    size: tuple[int, int], data: st.DataObject
) -> None:
    """Two ways of measuring the earth, and the policy in between: they must agree for any set of living regions."""
    scenario = compose(20, 200, *size, ())
    program = compile_policy(parse(policy_of(scenario)))
    names = [region.name for region in scenario.regions]
    dead = data.draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
    levels = {name: Level.DOWN if name in dead else Level.HEALTHY for name in names}
    order = ranking(scenario)
    for site in scenario.sites:
        table = plan(program, levels, SitePlace(site.name, 0, 0))
        expected = next(region for region in order[site.zone] if region not in dead)
        for client in site.clients:
            decision = decide(table, Request(client, HOST, "/item/1"), frozenset())
            assert (decision.zone, decision.region) == (site.zone, expected)


def test_a_site_file_is_what_the_node_expects(tmp_path: Path) -> None:
    scenario = compose(20, 200, 3, 3, ())
    write_secret(tmp_path / "cluster.key", bytes(32), "test")
    path = tmp_path / "ams.toml"
    path.write_text(site_toml(scenario.sites[0], tmp_path, "ab" * 32))

    config = load_site_config(path)
    assert config.site.name == "ams"
    assert config.gossip.seeds == ()
    assert config.gossip.mdns
    assert config.gossip.mdns_interfaces == ("127.0.0.1",)
    assert config.policy.authors == (bytes.fromhex("ab" * 32),)
    assert [warning.partition(":")[0] for warning in config.warnings] == ["cluster.ca is not set"]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1))
def test_any_directory_name_survives_the_site_file(name: str) -> None:
    directory = Path("/tmp") / name
    table = tomllib.loads(site_toml(compose(20, 200, 1, 1, ()).sites[0], directory, "ab" * 32))

    assert table["cluster"]["key_file"] == str(directory / "cluster.key")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fra", "not REGION@SECONDS, for example fra@8"),
        ("fra@", "not REGION@SECONDS"),
        ("@4", "not REGION@SECONDS"),
        ("fra@-1", "not REGION@SECONDS"),
        ("fra@1e3", "not REGION@SECONDS"),
        ("fra@4@5", "not REGION@SECONDS"),
        ("fra@nan", "not REGION@SECONDS"),
        ("lon@4", "no region 'lon'; this run has fra, iad"),
        ("fra@0", "must lie within the run"),
        ("fra@20", "must lie within the run"),
        ("fra@999999", "must lie within the run"),
    ],
)
def test_a_wrong_kill_is_named_with_its_remedy(text: str, complaint: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_kill(text, ["fra", "iad"], 20)
    assert complaint in str(caught.value)
    assert repr(text) in str(caught.value)


@given(st.integers(1, 19_999_999))
def test_a_kill_reads_back_to_the_microsecond(at_us: int) -> None:
    assert parse_kill(f"fra@{at_us // SECOND}.{at_us % SECOND:06}", ["fra"], 20) == ("fra", at_us)


@given(st.lists(st.tuples(st.sampled_from(["fra", "iad"]), st.integers(1, 19_999_999)), max_size=6))
def test_planned_kills_are_in_order_within_the_run_and_never_of_the_dead(kills: list[tuple[str, int]]) -> None:
    try:
        planned = plan_kills(kills, 20)
    except ScenarioError as error:
        assert "dead until" in str(error)  # noqa: PT017
        return
    assert sorted((kill.region, kill.at_us) for kill in planned) == sorted(kills)
    assert [kill.at_us for kill in planned] == sorted(kill.at_us for kill in planned)
    for index, kill in enumerate(planned):
        assert kill.at_us <= kill.return_at_us < 20 * SECOND
        assert not any(
            other.region == kill.region and kill.at_us <= other.at_us <= kill.return_at_us
            for other in planned[index + 1 :]
        )


def test_a_region_cannot_be_killed_while_it_is_dead() -> None:
    with pytest.raises(ScenarioError, match=r"fra is to be killed at 9 s, but is dead until 13 s"):
        plan_kills([("fra", 8 * SECOND), ("fra", 9 * SECOND)], 20)


@given(st.floats(2, 600))
def test_the_hold_leaves_time_to_see_the_return(seconds: float) -> None:
    scenario = compose(seconds, 200, 3, 3, ())

    (kill,) = scenario.kills
    assert kill.return_at_us + 2 * recover_after_us(scenario) < seconds * SECOND
