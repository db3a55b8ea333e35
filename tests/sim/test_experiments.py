"""Comparing, sweeping, shrinking, and finding where two runs part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router.cli import main
from sim.baselines import BASELINES, RandomFanout
from sim.compare import ours, theory
from sim.difference import first_divergence
from sim.files import content
from sim.network import LinkSettings
from sim.outages import COLUMNS
from sim.quantities import ConfigError
from sim.scenario import from_table
from sim.shrink import shrink
from sim.stage import ScenarioError
from sim.sweep import cases, finished, grid, interval, run_case, seeds_of, summarise
from sim.topology import Room
from tests.sim.runs import table

ROOM = Room(40, 10_000)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_a_baseline_reaches_everybody_on_good_links(name: str) -> None:
    spread = BASELINES[name](ROOM, LinkSettings(), "0").run(0)
    assert len(spread.reached_us) == 40
    assert spread.reached_us[0] == 0
    again = BASELINES[name](ROOM, LinkSettings(), "0").run(0)
    assert (again.reached_us, again.bytes) == (spread.reached_us, spread.bytes)


def test_what_the_baselines_are_known_for() -> None:
    spreads = {name: kind(ROOM, LinkSettings(), "0").run(0) for name, kind in BASELINES.items()}
    assert spreads["unicast"].copies == spreads["bare-tree"].copies == 39, "the least there can be: n - 1"
    assert spreads["flood"].copies > 39 * 30, "about n squared"
    assert spreads["push-all"].bytes > 10 * spreads["random"].bytes
    assert max(spreads["unicast"].reached_us.values()) < max(spreads["bare-tree"].reached_us.values())


def test_a_tree_without_repair_loses_whole_branches() -> None:
    lossy = LinkSettings(loss_ppm=100_000)
    reached = [len(BASELINES["bare-tree"](ROOM, lossy, str(seed)).run(0).reached_us) for seed in range(10)]
    assert min(reached) < 36
    assert all(len(BASELINES["random"](ROOM, lossy, str(seed)).run(0).reached_us) == 40 for seed in range(3))


def test_our_engine_sends_about_one_copy_and_misses_nobody() -> None:
    row = ours(from_table("t", table(nodes=12, link={"loss": "5%"})), "0", "ours")
    assert row["reached"] == 12
    copies = row["copies_per_node"]
    assert isinstance(copies, float)
    assert copies < 3


def test_the_baseline_of_memberlist_draws_different_peers() -> None:
    told: list[int] = []

    class Told(RandomFanout):
        def send(self, source: int, target: int, *size: Any, **item: Any) -> None:
            told.append(target)

    gossip = Told(Room(5, 10_000), LinkSettings(), "0")
    gossip.learn(2, 2)
    for _ in range(10):
        gossip.tick(2)
    assert len(told) == 4, "4 × ceil(log10(5 + 1)) times, and then no more"
    assert len(set(told[:3])) == 3
    assert 2 not in told


def test_stretch_is_over_a_floor_that_nobody_beats(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where unicast itself reaches nobody else: it was measured against what the lossy unicast took."""
    assert main(["sim", "compare", "lossy", "--set", "topology.nodes=12", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["floor_p99_s"] > 0
    for row in told["rows"]:
        if row["p99_s"] is None:
            assert row["stretch"] is None
        else:
            assert row["stretch"] == pytest.approx(row["p99_s"] / told["floor_p99_s"], abs=0.01)
            assert row["stretch"] >= 1, row["way"]
        assert row["bytes_per_node"] is None or row["bytes_per_node"] > 0
    assert sum(row["stretch"] is not None for row in told["rows"]) >= 6


def test_under_a_real_seal_copies_are_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--set", "topology.nodes=4", "--json"]
    assert main(["sim", "compare", "key-rotation", *few]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["copies_per_node"] is None
    assert main(["sim", "run", "key-rotation", *few]) == 0
    assert json.loads(capsys.readouterr().out)["copies_per_node"] is None


def test_the_theory() -> None:
    """Serf's own page for 1,000 nodes, fan-out 3, 200 ms: 99.99 % after 2.15 s."""
    promised = theory(1_000, 0)
    assert promised["serf_p99.99_s"] == pytest.approx(2.15, abs=0.02)
    assert promised["least_messages"] == 999


def test_a_grid_is_every_combination() -> None:
    assert grid(["a=1,2", "b.c=x"]) == [("a=1", "b.c=x"), ("a=2", "b.c=x")]
    assert grid([]) == [()]
    assert seeds_of("2:5") == ["2", "3", "4"]
    assert seeds_of("7,x") == ["7", "x"]
    for wrong in ("5:x", ":", ""):
        with pytest.raises(ConfigError):
            seeds_of(wrong)


def test_a_killed_sweep_loses_no_finished_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sim", "sweep", "smoke", "--seeds", "0:2", "--jobs", "1", "--out", str(tmp_path)]
    words += ["--set", "topology.nodes=3", "--grid", "link.loss=0%,1%"]
    assert main(words) == 0
    file = tmp_path / "cases.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(finished(iter(lines))) == 4
    file.write_text("".join(lines[:2]) + lines[2][:40])  # killed while it wrote the third
    capsys.readouterr()
    assert main(words) == 0
    assert "4 cases, 2 done before" in capsys.readouterr().err
    assert len(finished(iter(file.read_text().splitlines()))) == 4
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [row["runs"] for row in rows] == [2, 2]
    page = (tmp_path / "index.html").read_text()
    assert "4 of 4 held" in page
    assert "http" not in page, "the page fetches nothing"
    (tmp_path / "index.html").unlink()
    assert main(["sim", "report", str(tmp_path)]) == 0
    assert (tmp_path / "index.html").read_text() == page


def test_a_sweep_of_another_scenario_in_the_same_folder_is_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario, folder = tmp_path / "mine.toml", tmp_path / "swept"
    words = ["sim", "sweep", str(scenario), "--seeds", "0:1", "--jobs", "1", "--out", str(folder)]
    nodes = []
    again = "1 cases, 0 done before, 1 of another scenario of that name, and so done again\n"
    for count, said in ((2, "1 cases, 0 done before\n"), (2, "1 cases, 1 done before\n"), (3, again)):
        scenario.write_text(f'purpose = "mine"\nduration = "1s"\n[topology]\nnodes = {count}\n')
        assert main(words) == 0
        assert said in capsys.readouterr().err
        (case,) = finished(iter((folder / "cases.jsonl").read_text().splitlines())).values()
        nodes.append(case["nodes"])
    assert nodes == [2, 2, 3], "of each case the last counts"


@pytest.mark.parametrize("kind", ["matrix", "trace", "file"])
def test_a_case_is_another_when_a_file_that_it_reads_says_something_else(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "matrix": ("src,a,b\na,,1\nb,1,\n", "src,a,b\na,,2\nb,2,\n"),
        "trace": ("t_s,client_prefix24\n0,192.0.2.0\n", "t_s,client_prefix24\n1,192.0.2.0\n"),
        "file": (f"{','.join(COLUMNS)}\n", f"{','.join(COLUMNS)}\n2020-01-01,a,3,60\n"),
    }
    for name, (first, _) in texts.items():
        (tmp_path / name).write_text(first)
    scenario = tmp_path / "own.toml"
    scenario.write_text(
        'purpose = "reads files"\n[topology]\nmodel = "matrix"\nmatrix = "matrix"\n[users]\ntrace = "trace"\n'
        '[[timeline]]\nat = "1s"\ndo = "outages"\nfile = "file"\n'
    )
    reads: list[str] = []

    def counted(path: Path) -> bytes:
        reads.append(path.name)
        return content(path)

    monkeypatch.setattr("sim.sweep.content", counted)
    words: tuple[str, list[str], list[str], list[str]] = (str(scenario), ["0", "1"], ["topology.nodes=2,3"], [])
    before = [case.of for case in cases(*words)]
    assert sorted(reads) == ["file", "matrix", "trace"], "once a sweep, not once a case"
    assert [case.of for case in cases(*words)] == before
    (tmp_path / kind).write_text(texts[kind][1])
    assert not set(before) & {case.of for case in cases(*words)}


def test_a_case_of_a_version_that_measured_something_else_is_no_case(tmp_path: Path) -> None:
    older = {"case": '["smoke", "0", []]', "verdict": "held"}
    assert finished(iter([json.dumps(older), "[1]", '"x"', json.dumps({**older, "of": "", "set": 3})])) == {}
    (tmp_path / "cases.jsonl").write_text(json.dumps(older) + "\n")
    assert main(["sim", "report", str(tmp_path)]) == 0
    assert "0 of 0 held" in (tmp_path / "index.html").read_text()


def test_the_interval_of_a_median() -> None:
    assert interval([1.0, 2.0]) is None
    values = [float(value) for value in range(1, 101)]
    low, high = interval(values) or (0.0, 0.0)
    assert low < 50.5 < high
    assert 10 < high - low < 35, "of a hundred uniform values: about 1.96 × 100 / (2 × sqrt 100) × 2, some 20"
    assert interval(values) == (low, high)
    assert interval([3.0] * 5) == (3.0, 3.0)


def test_a_failure_shrinks_to_what_matters() -> None:
    """One bound is broken by any publish at all: everything else must go."""
    noisy = table(
        {"at": "1s", "do": "publish"},
        {"at": "2s", "for": "2s", "do": "halves"},
        {"at": "3s", "do": "health", "region": "ashburn"},
        nodes=8,
        link={"loss": "1%"},
        checks={"converge_within": "1ms"},
    )
    found = shrink(from_table("t", noisy), "0")
    assert found is not None
    assert found.check == "converge-within"
    assert found.table["topology"]["nodes"] == 2
    assert len(found.table["timeline"]) == 1
    assert "link" not in found.table
    assert found.said.startswith("acts 3 -> 1, nodes 8 -> 2")
    assert shrink(from_table("t", table()), "0") is None


def test_where_two_journals_part() -> None:
    assert first_divergence(["a\n", "b\n"], ["a\n", "b\n"]) is None
    assert first_divergence(["a\n", "b\n"], ["a\n", "c\n"]) == ["  a", "line 2:", "- b", "+ c"]
    assert first_divergence(["a\n"], ["a\n", "c\n"]) == ["  a", "line 2:", "- (the first ends here)", "+ c"]


def test_a_line_that_parts_far_in_is_shown_where_it_does() -> None:
    long = "x" * 5_000
    parted = first_divergence([f"{long}\n", f"{long}a{long}\n"], [f"{long}\n", f"{long}b{long}\n"])
    assert parted is not None
    before, _, one, other = parted
    assert before == f"  {'x' * 200} (4800 more)"
    assert one == f"- (the same 4950 characters) {'x' * 50}a{'x' * 149} (4851 more)"
    assert other == one.replace("- ", "+ ").replace("a" + "x" * 149, "b" + "x" * 149)


def test_diff_says_that_two_folders_are_not_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (
        ("one", ("smoke",)),
        ("seed", ("smoke", "--seed", "1")),
        ("set", ("smoke", "--set", "settle=5s")),
    ):
        assert main(["sim", "run", *words, "--out", str(tmp_path / name), "--journal", "--json"]) == 0
    main(["sim", "diff", str(tmp_path / "one"), str(tmp_path / "seed")])
    assert "not the same run: smoke, seed 0; and smoke, seed 1" in capsys.readouterr().err
    main(["sim", "diff", str(tmp_path / "one"), str(tmp_path / "set")])
    assert "not the same scenario, though both are smoke, seed 0" in capsys.readouterr().err
    main(["sim", "diff", str(tmp_path / "one"), str(tmp_path / "one")])
    assert capsys.readouterr().err == ""
    (tmp_path / "one" / "result.json").unlink()
    assert main(["sim", "diff", str(tmp_path / "one"), str(tmp_path / "one")]) == 0


def test_diff_shows_the_first_input_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("one", "1"), ("same", "1"), ("other", "2")):
        folder = str(tmp_path / name)
        assert main(["sim", "run", "smoke", "--seed", seed, "--out", folder, "--journal", "--json"]) == 0
    capsys.readouterr()
    assert main(["sim", "diff", str(tmp_path / "one"), str(tmp_path / "same")]) == 0
    assert main(["sim", "diff", str(tmp_path / "one"), str(tmp_path / "other")]) == 1
    assert "line " in capsys.readouterr().out


def test_the_worst_of_an_availability_is_the_least() -> None:
    def case(seed: str, availability: float) -> dict[str, object]:
        spread = {"p50_s": availability, "p99_s": None, "stretch_p99": None}
        rest = {"copies_per_node": None, "idle_bytes_per_node_s": None, "false_positives": None, "verdict": "held"}
        return {"case": seed, "set": [], "convergence": spread, "users": {"availability": availability}, **rest}

    (row,) = summarise([case("0", 0.9), case("1", 0.9996)])
    assert (row["availability worst"], row["p50_s worst"]) == (0.9, 0.9996)


def test_a_sweep_lists_what_it_varies_by_number() -> None:
    """By the digits alone a loss of 0.1 came before one of 0.05."""
    spread = {"p50_s": None, "p99_s": None, "stretch_p99": None}
    rest = {"copies_per_node": None, "idle_bytes_per_node_s": None, "false_positives": None, "verdict": "held"}
    axes = [
        ["network.loss=0", "network.loss=0.05", "network.loss=0.1", "network.loss=0.5", "network.loss=1"],
        ["topology.nodes=50", "topology.nodes=200", "topology.nodes=1000"],
        ["a.b=-5", "a.b=-1", "a.b=0", "a.b=1"],
        ["a.b=1.5s", "a.b=2s", f"a.b={'9' * 5_000}"],
    ]
    for axis in axes:
        same = {"convergence": spread, "users": {"availability": None}, **rest}
        done = [{"case": one, "set": [one], **same} for one in reversed(axis)]
        assert [row["set"] for row in summarise(done)] == axis


def test_a_case_whose_scenario_was_edited_since_the_sweep_began_is_not_run(tmp_path: Path) -> None:
    """It was kept as one of the scenario as it had been. Where its files are makes no other case of it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "rtt.csv").write_text("src,dst,rtt_ms\nA,B,50\n")
    toml = 'purpose = "x"\nduration = "1s"\n[topology]\nnodes = 2\nmodel = "matrix"\nmatrix = "rtt.csv"\n'
    scenario = tmp_path / "here" / "s.toml"
    scenario.write_text(toml)
    (case,) = cases(str(scenario), ["0"], [], [])
    assert run_case(case)["of"] == case.of
    edits = ((scenario, toml.replace("1s", "2s")), (tmp_path / "here" / "rtt.csv", "src,dst,rtt_ms\nA,B,60\n"))
    for file, edited in edits:
        before = file.read_text()
        for written in (edited, "no table"):
            file.write_text(written)
            with pytest.raises(ScenarioError, match="since the sweep began"):
                run_case(case)
        file.write_text(before)
    (tmp_path / "here").rename(tmp_path / "there")
    (moved,) = cases(str(tmp_path / "there" / "s.toml"), ["0"], [], [])
    assert moved.of == case.of
