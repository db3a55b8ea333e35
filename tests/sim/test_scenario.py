"""Scenario files: what ships is valid, and what is wrong is said with its line, key and remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sim.faults import KINDS
from sim.quantities import ConfigError
from sim.scenario import line_of, load, shipped
from sim.toml_text import toml_text

NAMES = [name for name, _ in shipped()]
PROMISED = {
    "wan-1000", "lan-1000", "wan-10000", "halves", "region-cut", "one-way", "bridge", "flapping-link", "slow-node",
    "pause", "rolling-restart", "mass-restart", "join-storm", "cold-boot", "poison-policy", "liars", "home-devices",
    "fan-out", "contagious-update", "stale-writer", "key-rotation", "outage-replay",
}  # fmt: skip
GOOD = 'purpose = "a test"\n[topology]\nnodes = 4\n[[timeline]]\nat = "1s"\ndo = "halves"\n'


@pytest.mark.parametrize("name", NAMES)
def test_what_ships_is_valid(name: str) -> None:
    scenario = load(name)
    assert 20 < len(scenario.purpose) < 120
    assert "\n" not in scenario.purpose
    assert scenario.timeline("0") is not None


def test_the_promised_scenarios_ship() -> None:
    assert set(NAMES) >= PROMISED
    assert len(NAMES) >= 20


MEASURED_BARE = {"wan-1000", "lan-1000", "wan-10000", "fan-out"}
"""By these it is measured what the lattice costs alone."""


@pytest.mark.parametrize("name", sorted(PROMISED - MEASURED_BARE))
def test_a_promised_scenario_says_what_users_felt(name: str) -> None:
    assert load(name).users.rate > 0


@pytest.mark.parametrize("name", ["wan", "liars", "swarm"])
def test_a_resolved_scenario_reads_back_as_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "resolved.toml"
    path.write_text(toml_text(load(name).table))
    assert load(str(path)).table == load(name).table


def complaints(tmp_path: Path, text: str, *sets: str) -> str:
    path = tmp_path / "test.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(str(path), sets)
    return str(raised.value).replace(f"{path}: ", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "fro = 3\n", "line 7: timeline[0].fro: unknown key; did you mean for?"),
        (GOOD.replace("4", '"4"'), 'line 3: topology.nodes = "4": expected a whole number from 1 to'),
        (GOOD.replace('"1s"', "1"), "line 5: timeline[0].at = 1: expected a duration"),
        (GOOD.replace('"1s"', '"9h"'), "timeline[0].at: 9h is after the end, 30s"),
        (GOOD.replace("halves", "halfs"), "did you mean halves?"),
        (GOOD.replace("halves", "key-rotation"), "needs keys to rotate"),
        (GOOD.replace('purpose = "a test"', ""), "purpose: is missing"),
        (GOOD + '[link]\nloss = "300%"\n', "line 8: link.loss = "),
        (GOOD + "[link]\nloss = 3\n", 'write "3%" in quotes'),
        (GOOD + "[protocol]\nswim_intervall = 3\n", "did you mean swim_interval?"),
        ('purpose = "a', "no valid TOML"),
        ('extends = "nowhere"\n', "there is no scenario of that name"),
        (GOOD + "[topology.more]\n", "topology.more: unknown key"),
        (GOOD.replace("nodes = 4", 'nodes = 4\nmodel = "matrix"'), "topology.matrix: is missing"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    assert said in complaints(tmp_path, text)


def test_a_hole_in_a_matrix_is_named(tmp_path: Path) -> None:
    (tmp_path / "rtt.csv").write_text("src,a,b,c\na,,1,2\nb,1,,\nc,2,,\n")
    text = GOOD.replace("nodes = 4", 'nodes = 4\nmodel = "matrix"\nmatrix = "rtt.csv"')
    assert "rtt.csv: a hole: nothing was measured between b and c" in complaints(tmp_path, text)
    (tmp_path / "rtt.csv").write_text("src,a,b\na,,x\nb,1,\n")
    assert "rtt.csv:2: 'x' is no number" in complaints(tmp_path, text)


MATRIX = GOOD.replace("nodes = 4", 'nodes = 4\nmodel = "matrix"\nmatrix = "FILE"')
FILE_KEYS = {
    "line 5: topology.matrix": MATRIX,
    "line 8: users.trace": GOOD + '[users]\ntrace = "FILE"\n',
    "line 10: timeline[1].file": GOOD + '[[timeline]]\nat = "2s"\ndo = "outages"\nfile = "FILE"\n',
}
NAMED_WRONGLY = {
    "nowhere.csv": "there is no such file",
    "n" * 300: "a file's name has at most 255 bytes",
    "/".join(["n" * 200] * 30): "a file's name has at most 255 bytes",
    "rtt\\u0000.csv": "expected printable text",
    "folder": "is a directory; name a file in it",
    "pipe": "is a pipe or a device",
    "round": "in a circle",
    "test.toml/rtt.csv": "there is no such file",
}


@pytest.mark.parametrize("key", FILE_KEYS)
@pytest.mark.parametrize("name", NAMED_WRONGLY)
def test_a_file_that_cannot_be_read_is_said_with_key_and_line(tmp_path: Path, key: str, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    said = complaints(tmp_path, FILE_KEYS[key].replace("FILE", f"{tmp_path}/{name}"))
    assert key in said
    assert NAMED_WRONGLY[name] in said
    assert "\n" not in said
    assert len(said) < 400


@pytest.mark.parametrize("key", FILE_KEYS)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else_is_said_to_be(tmp_path: Path, key: str) -> None:
    (tmp_path / "secret.csv").write_text("src,a\na,\n")
    (tmp_path / "secret.csv").chmod(0)
    assert "permission denied; let whoever runs this read it" in complaints(
        tmp_path, FILE_KEYS[key].replace("FILE", "secret.csv")
    )


@pytest.mark.parametrize("name", [name for name in NAMED_WRONGLY if "expected" not in NAMED_WRONGLY[name]])
def test_a_scenario_that_cannot_be_read_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(ConfigError) as raised:
        load(f"{tmp_path}/{name}")
    assert NAMED_WRONGLY[name] in str(raised.value)
    assert NAMED_WRONGLY[name] in complaints(tmp_path, f'extends = "{tmp_path}/{name}"\npurpose = "more"\n')
    assert "no NUL byte" in complaints(tmp_path, 'extends = "a\\u0000.toml"\npurpose = "more"\n')
    assert "there is no scenario of that name" in complaints(tmp_path, f'extends = "{"n" * 300}"\npurpose = "more"\n')


def test_values_that_nest_too_deep_are_no_toml(tmp_path: Path) -> None:
    deep = "[" * 100_000
    assert "values nest too deep" in complaints(tmp_path, f"x = {deep}")
    assert "--set: x: its value nests too deep" in complaints(tmp_path, GOOD, f"x={deep}")


def test_an_override_reaches_everything() -> None:
    scenario = load("wan", ["topology.nodes=7", "link.loss=2%", "protocol.swim_interval=2s", "timeline.0.at=6s"])
    assert scenario.topology.nodes == 7
    assert scenario.link.loss_ppm == 20_000
    assert scenario.config.swim_interval_us == 2_000_000
    assert scenario.timeline("0")[0].at_us == 6_000_000


@pytest.mark.parametrize("override", ["topology.nodes", "=3", "timeline.9.at=3s", "purpose.x=3"])
def test_a_wrong_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load("wan", [override])


def test_a_scenario_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(GOOD + '[link]\nloss = "1%"\n')
    child = tmp_path / "child.toml"
    child.write_text('extends = "base.toml"\npurpose = "more"\n[link]\njitter = "3ms"\n')
    scenario = load(str(child))
    assert (scenario.purpose, scenario.link.loss_ppm, scenario.link.jitter_us) == ("more", 10_000, 3_000)
    assert [step.do for step in scenario.timeline("0")] == ["halves"]
    child.write_text('extends = "child.toml"\npurpose = "for ever"\n')
    with pytest.raises(ConfigError, match="circle"):
        load(str(child))


def test_files_beside_a_scenario_are_found_from_whoever_extends_it(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "rtt.csv").write_text("src,a,b\na,,1\nb,1,\n")
    (own / "requests.csv").write_text("t_s,client_prefix24\n0,192.0.2.0\n")
    (own / "outages.csv").write_text("first_post_utc,service,region,severity_1to3,stated_duration_min\n")
    base = GOOD.replace("nodes = 4", 'nodes = 4\nmodel = "matrix"\nmatrix = "rtt.csv"')
    base += '[[timeline]]\nat = "2s"\ndo = "outages"\nfile = "outages.csv"\n[users]\ntrace = "requests.csv"\n'
    (own / "base.toml").write_text(base)
    (tmp_path / "child.toml").write_text(f'extends = "{own}/base.toml"\npurpose = "more"\n')
    scenario = load(str(tmp_path / "child.toml"))
    assert scenario.topology.matrix == str(own / "rtt.csv")
    assert scenario.users.trace == str(own / "requests.csv")
    (tmp_path / "resolved.toml").write_text(toml_text(scenario.table))
    assert load(str(tmp_path / "resolved.toml")).table == scenario.table


def test_a_swarm_is_drawn_from_its_seed() -> None:
    scenario = load("swarm")
    drawn = {seed: [(step.at_us, step.do) for step in scenario.timeline(seed)] for seed in map(str, range(60))}
    assert drawn["3"] == [(step.at_us, step.do) for step in scenario.timeline("3")]
    kinds = {do for steps in drawn.values() for _, do in steps}
    assert kinds >= {name for name, kind in KINDS.items() if kind.swarm}, "sixty seeds draw every kind"


def test_the_line_of_a_key() -> None:
    text = "a = 1\n[t]\nb = 2\n[[x]]\nc = 3\n[[x]]\nc = 4\n"
    assert [line_of(text, key) for key in ("a", "t.b", "x[0].c", "x[1].c", "x[1].d", "y.z")] == [1, 3, 5, 7, 6, None]
