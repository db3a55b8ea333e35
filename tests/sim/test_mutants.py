"""Every promise is broken once on purpose, and its check says so; on the true engine the same run holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest

from lattice.engine import Engine
from sim.checks import Check
from sim.experiment import Experiment, Looker
from sim.host import Host
from sim.promises import ALL_CHECKS
from sim.scenario import from_table
from tests.sim import mutants
from tests.sim.runs import run, run_only, table

PUBLISH = {"at": "1s", "do": "publish", "nodes": "node 0"}
DOWN = {"at": "2s", "do": "health", "region": "ashburn", "level": "down"}
CRASH = {"at": "2s", "for": "2s", "do": "crash", "nodes": "node 1"}
GONE = {"at": "1s", "do": "crash", "nodes": "node 1"}
BACK = {"at": "5s", "do": "health", "region": "ashburn", "level": "healthy"}
FLAPS = [{**DOWN, "at": f"{at}s", "level": ("down", "healthy")[at % 2]} for at in range(2, 10)]
"""So many rows that one of an earlier version is among those replayed, whatever else happens."""
REPLAYED = {"at": "1s", "do": "lie-replayed", "nodes": "node 1, 2, 3", "every": "20ms"}
ROTATION = {"at": "1s", "do": "key-rotation", "over": "2s"}
NEXT = {"at": "1s", "for": "4s", "do": "version-mix", "nodes": "node 1", "speaks": "another"}
SHORT = "2s"
BAD = {"at": "1s", "do": "rollout", "fails": "100%", "stages": [100]}
FEW = {**BAD, "stages": [25, 100]}
GOOD = {"at": "1s", "do": "rollout", "stages": [50, 100], "every": "500ms"}
BUSY, CALM = {"rate": 200}, {"rate": 20}


class Planted(NamedTuple):
    check: str
    engine: type[Engine]
    scenario: Mapping[str, object]


PLANTED = [
    Planted("contract", mutants.SendsTooMuch, table()),
    Planted("no-spin", mutants.NeverLetsTimePass, table()),
    Planted("incarnation-rises", mutants.ForgetsItsLives, table(CRASH)),
    Planted("rows-are-signed", mutants.BelievesSignatures, table({"at": "1s", "do": "lie-forged", "nodes": "node 2"})),
    Planted(
        "rows-rise",
        mutants.ForgetsVersions,
        table(*FLAPS, REPLAYED, nodes=8, duration="10s", regions={"watchers": "all"}),
    ),
    Planted("incarnation-by-owner", mutants.RaisesOthers, table(GONE, duration="20s")),
    Planted(
        "incarnation-by-owner",
        mutants.IgnoresGrants,
        table({"at": "1s", "do": "lie-invented", "nodes": "node 2"}, protocol={"certified": True}),
    ),
    Planted("members-rise", mutants.RevivesTheDead, table(GONE, duration="20s")),
    Planted("members-rise", mutants.BelievesLastWords, table(GONE, duration="20s")),
    Planted("witness-saw-it", mutants.Exaggerates, table(DOWN)),
    Planted("verdict-is-quorum", mutants.ListensToOneVoice, table(DOWN)),
    Planted("worse-of-both", mutants.TrustsOnlyItself, table(DOWN)),
    Planted("who-may-vote", mutants.LetsTheDeadVote, table(GONE, duration="20s", regions={"watchers": "all"})),
    Planted("policy-forward", mutants.ServesTheUnpublished, table()),
    Planted("ops-kept", mutants.LosesOps, table(PUBLISH)),
    Planted("no-fork", mutants.SeesForks, table()),
    Planted("bounded", mutants.DialsWithoutLimit, table(duration="20s")),
    Planted("replay-is-nothing", mutants.CountsFrames, table(link={"duplicate": "20%"})),
    Planted("view-agrees", mutants.ShowsAnotherRoot, table()),
    Planted("no-storm", mutants.Storms, table(duration="3s", settle=SHORT)),
    Planted("quiet-when-idle", mutants.Chatters, table({"at": "4s", "do": "publish"})),
    Planted("silent-to-noise", mutants.AnswersNoise, table({"at": "1s", "do": "lie-garbage", "nodes": "node 2"})),
    Planted("digest-shows-all", mutants.HidesCells, table({"at": "1s", "for": "3s", "do": "halves"}, PUBLISH)),
    Planted("keys-open", mutants.DropsOldKeys, table(ROTATION, protocol={"seal": "sealed"})),
    Planted("versions-apart", mutants.ReadsEveryVersion, table(NEXT)),
    Planted("joins-agree", mutants.JoinsByArrival, table(DOWN)),
    Planted("restart-is-same", mutants.ForgetsPolicy, table(PUBLISH, CRASH)),
    Planted("no-black-hole", mutants.KeepsNewsToItself, table(DOWN, users={"rate": 50})),
    Planted("never-starved", mutants.TellsOnlyBadNews, table(DOWN, BACK, regions={"count": 1}, users={"rate": 50})),
    Planted("canary-contained", mutants.JoinsEveryStage, table(FEW, users=BUSY, duration="3s")),
    Planted("canary-contained", mutants.TriesOnItsOwn, table(BAD, users=CALM, duration="6s")),
    Planted("canary-contained", mutants.NeverGoesBack, table(BAD, users=CALM, duration="6s")),
    Planted("rollouts-end-well", mutants.ServesTheHead, table(GOOD, users=BUSY, duration="6s", settle=SHORT)),
    Planted("all-know-all", mutants.NeverCallsAgain, table({"at": "1s", "for": "20s", "do": "halves"}, duration="25s")),
    Planted("same-policy", mutants.IgnoresOps, table(PUBLISH, settle=SHORT)),
    Planted("last-policy-wins", mutants.IgnoresOps, table(PUBLISH, settle=SHORT)),
    Planted("nothing-lost", mutants.IgnoresOps, table(PUBLISH, settle=SHORT)),
    Planted("verdict-is-truth", mutants.KeepsToItself, table(DOWN, settle=SHORT)),
    Planted("same-roots", mutants.HoardsCells, table(settle=SHORT)),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.check)
def test_a_planted_mistake_is_found(planted: Planted) -> None:
    honest = run_only(planted.check, planted.scenario)
    assert honest.verdict == "held", honest.violations
    mutated = run_only(planted.check, planted.scenario, planted.engine)
    assert [violation.check for violation in mutated.violations] == [planted.check]
    assert mutated.verdict == "violated"


LOOKING = {check.name for check in ALL_CHECKS if check.of_view and check.looked is not Check.looked}


@pytest.mark.parametrize("planted", [one for one in PLANTED if one.check in LOOKING], ids=lambda planted: planted.check)
def test_a_look_that_is_left_out_would_have_shown_nothing(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most looks are spared where neither view nor root changed: with every one of them the mistake shows no sooner."""
    spared = run_only(planted.check, planted.scenario, planted.engine)
    look = Looker.look

    def every_look(looker: Looker, host: Host) -> None:
        looker._seen.clear()
        look(looker, host)

    monkeypatch.setattr(Looker, "look", every_look)
    assert run_only(planted.check, planted.scenario, planted.engine).violations == spared.violations


@pytest.mark.parametrize("error", [KeyError, ValueError, AssertionError])
def test_an_engine_that_raises_is_found(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fly's contagious update of 2024: one delta that every handler chokes on. Whatever it raises, it is not the
    scenario that is wrong."""
    monkeypatch.setattr(mutants.ChokesOnOps, "error", error)
    result = run_only("none", table(PUBLISH), mutants.ChokesOnOps)
    assert [violation.check for violation in result.violations] == ["no-input-raises"]
    assert "a field that older versions lack" in result.violations[0].evidence


def test_every_check_has_its_mutant_and_every_mutant_its_check() -> None:
    assert {planted.check for planted in PLANTED} == {check.name for check in ALL_CHECKS}
    made = {one for one in vars(mutants).values() if isinstance(one, type) and issubclass(one, Engine)}
    others = {Engine, mutants.ChokesOnOps, mutants.CriesWolf}
    assert made - others == {planted.engine for planted in PLANTED}


@pytest.mark.parametrize(
    ("bound", "value"),
    [("converge_within", "1ms"), ("detect_within", "1ms"), ("idle_bytes_max", 1), ("availability_min", "100%")],
)
def test_a_bound_of_the_scenario_can_fail(bound: str, value: object) -> None:
    act = dict(GONE) if bound == "detect_within" else dict(DOWN)
    scenario = table(act, duration="40s", regions={"count": 1}, users={"rate": 20}, checks={bound: value})
    result = run(scenario)
    named = bound.removesuffix("_max").removesuffix("_min").replace("_", "-")
    assert [violation.check for violation in result.violations] == [named]
    listed = [outcome for name, _, outcome in result.checks if name == named]
    assert listed == ["broken"], "and is among the promises that a report counts"
    assert [outcome for _, _, outcome in result.checks].count("broken") == 1


def test_who_is_well_and_called_down_is_counted_and_who_was_cut_off_is_not() -> None:
    bound = {"false_positives_max": 0}
    cut = run(table({"at": "1s", "for": "8s", "do": "isolate", "nodes": 1}, duration="40s", checks=bound))
    assert cut.verdict == "held", cut.violations
    assert cut.figures["called_down"]
    alone = {**bound, "off": [check.name for check in ALL_CHECKS]}
    cried = Experiment(from_table("t", table(checks=alone)), engine_type=mutants.CriesWolf).run()
    assert [violation.check for violation in cried.violations] == ["false-positives"]


@pytest.mark.parametrize(("bound", "value"), [("idle_bytes_max", 10_000), ("availability_min", "1%")])
def test_a_bound_on_what_was_not_measured_does_not_hold(bound: str, value: object) -> None:
    result = run(table({**DOWN, "at": "100ms"}, duration="1s", checks={bound: value}))
    assert [violation.check for violation in result.violations] == [bound.rpartition("_")[0].replace("_", "-")]
