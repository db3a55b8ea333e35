"""The planner: a new table when something calls for one, and what it made of the regions."""

from __future__ import annotations

from lattice.types import SECOND, Level, Micros, NodeId
from lattice.view import RegionView, Witness
from router.decision.decide import decide
from router.decision.layout import SitePlace
from router.decision.program import Program, compile_policy
from router.decision.request import Request
from router.planner import Planner
from router.policy import parse

HERE = SitePlace("here", 50_000_000, 8_000_000)
START = Micros(1_806_000_000 * SECOND)
RETURN_US = 10 * SECOND


def program(settings: str = "", health: str = "cooldown 5s  probation 0s") -> Program:
    return compile_policy(
        parse(f"""edition 1
region ams {{ at 52.37 4.90  endpoint 192.0.2.20:443 }}
region fra {{ at 50.11 8.68  endpoint 192.0.2.10:443 }}
health default {{ {health} }}
route all for "*" {{ primary fra  secondary ams  {settings} }}
""")
    )


def regions(fra: Level = Level.HEALTHY, full_ppm: int = 0) -> tuple[RegionView, ...]:
    def view(name: str, level: Level, saturation_ppm: int = 0) -> RegionView:
        voice = Witness(NodeId(bytes(32)), "ams", level, 0, saturation_ppm)
        return RegionView(name, level, level, level, "verdict", START, (voice,))

    return view("ams", Level.HEALTHY), view("fra", fra, full_ppm)


def region_of(planner: Planner) -> str | None:
    assert planner.table is not None
    return decide(planner.table, Request("192.0.2.1", "h", "/"), frozenset()).region


def at(seconds: float) -> Micros:
    return Micros(START + int(seconds * SECOND))


def test_without_a_program_there_is_nothing_to_plan() -> None:
    planner = Planner(HERE, RETURN_US)
    assert planner.plan(regions(), START) is None
    assert not planner.has_news(regions(full_ppm=900_000))
    assert not planner.is_due(at(1e6))
    assert planner.steering(regions(), {}, START) == []


def test_a_region_that_is_well_again_is_planned_when_it_may_return_and_its_users_step_by_step() -> None:
    planner = Planner(HERE, RETURN_US)
    planner.take(program())
    for fra, seconds, expected in ((Level.HEALTHY, 0, "fra"), (Level.DOWN, 1, "ams"), (Level.HEALTHY, 2, "ams")):
        planner.plan(regions(fra), at(seconds))
        assert region_of(planner) == expected
    (_, steered) = planner.steering(regions(), {"fra": "2 of 2 probes failed"}, at(2))
    assert (steered.planned, steered.reason, steered.returns_ms) == (Level.DOWN, "2 of 2 probes failed", at(7) // 1_000)
    assert not planner.is_due(at(6.9))
    assert planner.is_due(at(7))
    planner.plan(regions(), at(7))
    assert 0 < planner.away_ppm["fra"] < 1_000_000
    steps = 0
    for tenth in range(70, 200):
        if planner.is_due(at(tenth / 10)):
            steps += 1
            planner.plan(regions(), at(tenth / 10))
    assert planner.away_ppm == {}
    assert region_of(planner) == "fra"
    assert 15 <= steps <= 20
    assert not planner.is_due(at(1e6))


def test_fullness_is_news_where_the_policy_spills() -> None:
    planner = Planner(HERE, RETURN_US)
    for settings, news in (("", False), ("spill above 80%", True)):
        planner.take(program(settings))
        planner.plan(regions(), START)
        assert planner.has_news(regions(full_ppm=1_000_000)) == news
    planner.plan(regions(full_ppm=1_000_000), START)
    assert region_of(planner) == "ams"
    assert not planner.has_news(regions(full_ppm=1_000_000))


def test_distance_is_news_once_it_is_known() -> None:
    planner = Planner(HERE, RETURN_US)
    planner.take(program())
    planner.plan(regions(), START)
    for _ in range(3):
        planner.measured("fra", 20_000)
        assert not planner.has_news(regions())
    planner.measured("fra", 20_000)
    assert planner.has_news(regions())
    planner.plan(regions(), START)
    assert not planner.has_news(regions())
    assert planner.steering(regions(), {}, START)[1].rtt_us is not None
    planner.take(
        compile_policy(parse('edition 1\nregion ams { at 1 1 endpoint 192.0.2.1:1 }\nroute a for "*" { primary ams }'))
    )
    planner.plan(regions(), START)
    assert planner.rtt_us == {}, "a region that is gone is forgotten"


def test_warming_is_paid_by_the_step() -> None:
    planner = Planner(HERE, RETURN_US)
    planner.take(program())
    table = planner.plan(regions(), START)
    assert table is not None
    assert not any(known for rules in table.usual for known in rules)
    planner.warm(1)
    assert sum(len(known) for rules in table.usual for known in rules) == 1
