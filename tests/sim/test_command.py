"""`edgelattice sim`: what it prints, what it leaves, and its exit status."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from router.cli import main
from router.commands import sim as sim_command
from router.commands import sim_progress
from sim.outcome import token_of
from sim.scenario import shipped

KEYS = [
    "verdict", "scenario", "nodes", "seed", "digest", "convergence", "copies_per_node", "idle_bytes_per_node_s",
    "bytes_by_type", "false_positives", "users", "events", "events_per_s", "wall_s", "peak_mb",
]  # fmt: skip


FAR = r"\d+\.\d of at most 50 s, [\d,]+ events/s, \d+ s left"


LONG = "n" * 300


def sim(*words: str) -> int:
    return main(["sim", *words])


def test_the_list_names_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [name for name, _ in shipped()]


def test_a_run_ends_with_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("run", "smoke", "--json", "--set", "topology.nodes=3") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["nodes"], said["seed"]) == ("held", 3, "0")
    assert said["events"] > 0
    assert said["wall_s"] > 0
    assert list(said) == KEYS
    assert list(said["convergence"]) == ["p50_s", "p99_s", "p100_s", "floor_s", "stretch_p99"]
    assert list(said["users"]) == ["availability", "locality", "misrouted"]


def test_a_run_folder_can_be_read_and_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert sim("run", "smoke", "--seed", "7", "--set", "topology.nodes=4", "--out", str(folder), "--journal") == 0
    said = json.loads((folder / "result.json").read_text())
    assert said["rerun"] == "edgelattice sim run smoke --seed 7 --set topology.nodes=4"
    page = (folder / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert "http" not in page.replace("http-equiv", ""), "the page fetches nothing"
    assert len((folder / "events.jsonl").read_text().splitlines()) >= said["events"]
    with (folder / "changes.csv").open() as file:
        assert {row["change"] for row in csv.DictReader(file)} >= {"frankfurt DOWN", "policy default v2"}
    (folder / "report.html").write_text("lost")
    assert sim("report", str(folder)) == 0
    assert (folder / "report.html").read_text() == page
    capsys.readouterr()
    assert sim("replay", str(folder)) == 0
    assert said["digest"] in capsys.readouterr().out
    assert sim("replay", said["token"]) == 0
    assert said["digest"] in capsys.readouterr().out
    (folder / "result.json").write_text(json.dumps({**said, "digest": "another"}))
    assert sim("replay", str(folder)) == 1
    assert "the history differs" in capsys.readouterr().err


def test_a_report_does_not_say_that_nothing_was_done_where_nothing_changed(tmp_path: Path) -> None:
    assert sim("run", "equivocation", "--set", "topology.nodes=4", "--set", "duration=6s", "--set", "users.rate=0",
               "--out", str(tmp_path)) == 0  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert "the nodes had to bear what is told below" in page
    assert "left alone" not in page
    assert 'class="unreached"' not in page, "there was nothing that anybody did not learn"


def test_a_scenario_of_ones_own_is_run_again_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its matrix lies beside it; the folder is read elsewhere, and the seed is two words."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "rtt.csv").write_text("src,a,b\na,,100\nb,100,\n")
    scenario, folder, small = tmp_path / "own" / "mine.toml", tmp_path / "run", tmp_path / "small.toml"
    scenario.write_text(
        'purpose = "mine"\nduration = "3s"\n[topology]\nnodes = 3\nmodel = "matrix"\nmatrix = "rtt.csv"\n'
        '[checks]\nconverge_within = "1ms"\n[[timeline]]\nat = "1s"\ndo = "publish"\n'
    )
    words = [str(scenario), "--seed", "a b"]
    assert sim("run", *words, "--out", str(folder)) == 1
    said = json.loads((folder / "result.json").read_text())
    assert f"edgelattice: again: {said['rerun']}\n" in capsys.readouterr().err
    assert shlex.split(said["rerun"]) == ["edgelattice", "sim", "run", *words]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for what in (str(folder), said["token"]):
        assert sim("replay", what, "--json") == 1
        again = json.loads(capsys.readouterr().out)
        assert (again["scenario"], again["digest"]) == ("mine", said["digest"])
    assert sim("shrink", *words, "--out", str(small)) == 1
    assert "nodes 3 -> 2" in capsys.readouterr().err
    assert sim("run", str(small), "--seed", "a b") == 1


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("story.json", lambda story: story.pop("checks")),
        ("story.json", lambda story: story["figures"].pop("convergence")),
        ("story.json", lambda story: story.update(acts=[[1]])),
        ("result.json", lambda result: result.pop("scenario")),
        ("result.json", None),
    ],
)
def test_a_folder_of_another_version_is_said_to_be_one(
    file: str, damage: Callable[[dict[str, Any]], object] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim("run", "smoke", "--set", "topology.nodes=2", "--out", str(tmp_path)) == 0
    told = json.loads((tmp_path / file).read_text())
    if damage is None:
        told = [told]
    else:
        damage(told)
    (tmp_path / file).write_text(json.dumps(told))
    capsys.readouterr()
    assert sim("report" if file == "story.json" else "replay", str(tmp_path)) == 2
    assert f"edgelattice: {tmp_path} is " in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "smoke"), r"\d+\.\d of at most 50 s, [\d,]+ events/s, \d+ s left"),
        (
            ("replay", token_of("smoke", "1", ["topology.nodes=2"])),
            r"\d+\.\d of at most 50 s, [\d,]+ events/s, \d+ s left",
        ),
        (("compare", "smoke"), r"ours, random 4: \d+\.\d of at most 60 s, [\d,]+ events/s, \d+ s left"),
        (("soak", "--budget", "0.1", "--jobs", "1"), r"\d+ seeds held, \d+\.\d/s, \d+ s left"),
        (("sweep", "smoke", "--seeds", "0:2", "--jobs", "1", "--out", "{}"), r"1 of 2 cases, \d+\.\d/s, \d+ s left"),
        (("shrink", "smoke", "--set", "checks.converge_within=1ms"), r"\d+ runs of at most 400, \d+\.\d/s"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_how_far_it_is_is_a_line_of_a_terminal_or_plain_lines(
    words: tuple[str, ...], said: str, terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in ("TERMINAL_EVERY_S", "PLAIN_EVERY_S"):
        monkeypatch.setattr(sim_progress, name, 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    few = () if words[0] == "replay" else ("--set", "topology.nodes=2")
    sim(*(word.format(tmp_path) for word in words), *few)
    told = capsys.readouterr().err
    wipe = "\r\x1b[2K"
    assert re.search(f"{re.escape(wipe)}{said}{re.escape(wipe)}" if terminal else f"(?m)^{said}$", told)
    assert terminal or "\x1b" not in told
    assert all(line.startswith("edgelattice: ") for line in told.rpartition(wipe)[2].splitlines() if terminal)


def test_a_broken_promise_is_status_1_and_one_line_to_repeat_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("run", "smoke", "--seed", "3", "--set", "checks.idle_bytes_max=1") == 1
    said = capsys.readouterr()
    assert "BROKEN idle-bytes" in said.out
    assert "again: edgelattice sim run smoke --seed 3 --set checks.idle_bytes_max=1" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "smok"), "did you mean smoke?"),
        (("run", "smoke", "--set", "topology.nods=3"), "did you mean nodes?"),
        (("run", "smoke", "--set", "timeline.0.region=atlantis"), "there is no region 'atlantis'"),
        (("run", "smoke", "--set", "timeline.0.at=soon"), '--set timeline.0.at = "soon": expected a duration'),
        (("run", "smoke", "--set", "topology.foo.bar=5"), "--set topology.foo: unknown key"),
        (("run", "smoke", "--set", 'checks.off=["same-root"]'), "did you mean same-roots?"),
        (("run", "smoke", "--journal"), "--journal needs --out"),
        (("validate", "nowhere.toml"), "there is no such file"),
        (("replay", "el1-xx"), "the token is damaged; was all of it copied?"),
        (("replay", ""), "nothing: no run folder, and no token: a token begins with"),
        (("sweep", "smoke", "--out", "x", "--seeds", ""), "--seeds: '': expected 0:100"),
        (("sweep", "smoke", "--out", "x", "--seeds", "1,2,1"), "--seeds: '1,2,1': '1' is there twice"),
        (("sweep", "smoke", "--out", "x", "--grid", ""), "--grid: '': expected a.b=1,2,3"),
        (("sweep", "smoke", "--out", "x", "--grid", "a.b=3,3"), "'3' is there twice"),
        (("sweep", "smoke", "--out", "x", "--grid", "a.b=3", "--grid", "a.b=4"), "'a.b' is there twice"),
        (("soak", "--budget", "soon"), "'soon' is not a valid number."),
        (("replay", "nothing"), "a token begins with"),
        (("report", "."), "is no run folder"),
        (("sweep", "smoke", "--out", "x", "--executor", "dask"), "--scheduler ADDRESS go together"),
        (("sweep", "smoke", "--out", "x", "--seeds", "5:2"), "--seeds: '5:2': expected 0:100"),
        (("sweep", "smoke", "--out", "x", "--seeds", "²:3"), "--seeds: '²:3': expected 0:100"),
        (("sweep", "smoke", "--out", "/proc/x"), "--out /proc/x: no such file or directory"),
        (("run", "smoke", "--out", "/proc/x"), "--out /proc/x: no such file or directory"),
        (("shrink", "smoke", "--set", "timeline.0.region=atlantis"), "there is no region 'atlantis'"),
        (("shrink", "smoke", "--out", "/nowhere/x.toml"), "there is no directory /nowhere"),
        (("compare", "smoke", "--set", "topology.nodes=1"), "compare two nodes or more"),
        (("soak", "--budget", "nan"), "nan is not a number"),
        (("validate", "canary", "--set", "timeline.0.stages=[100,5,100]"), "percents that rise to 100"),
        (("validate", "canary", "--set", "timeline.0.stages=[true,100]"), "percents that rise to 100"),
    ],
)
def test_wrong_usage_is_status_2(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim(*words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Errno" not in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", LONG), "there is no scenario of that name"),
        (("run", LONG + ".toml"), "a file's name has at most 255 bytes"),
        (("validate", "."), "there is no scenario of that name"),
        (("validate", "./"), "is a directory; name a file in it"),
        (("explain", "/dev/zero.toml"), "there is no such file"),
        (("run", "smoke", "--out", LONG), ": file name too long"),
        (("sweep", "smoke", "--out", LONG), ": file name too long"),
        (("shrink", "smoke", "--out", f"{LONG}/x.toml"), "there is no directory"),
        (("replay", LONG), "a token begins with"),
        (("replay", token_of("n\0.toml", "0", [])), "a file's name has no NUL byte in it"),
        (("replay", token_of("/".join("abcdefgh" * 99), "0", ["x=" + str(n) for n in range(500)])), "no such file"),
        (("report", LONG), "does not exist"),
        (("diff", LONG, LONG), "does not exist"),
    ],
)
def test_a_name_that_cannot_be_one_is_status_2(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim(*words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "mistake of ours" not in told


def test_a_token_longer_than_a_file_name_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    sets = [f"topology.nodes={nodes}" for nodes in range(400, 1, -1)]
    token = token_of("smoke", "3", sets)
    assert len(token) > 255
    assert sim("replay", token) == 0
    assert "smoke: 2 nodes, seed 3" in capsys.readouterr().out


def test_what_is_no_text_in_a_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("story.json", "result.json"):
        (tmp_path / file).write_bytes(b"\xff\xfe")
    assert sim("report", str(tmp_path)) == 2
    assert sim("replay", str(tmp_path)) == 2
    assert capsys.readouterr().err.count("is no run folder") == 2
    (tmp_path / "cases.jsonl").write_bytes(b"\xff\xfe\n")
    (tmp_path / "events.jsonl").write_bytes(b"\xff\xfe\n")
    assert sim("report", str(tmp_path)) == 0
    assert sim("diff", str(tmp_path), str(tmp_path)) == 0


def test_a_run_that_cannot_be_kept_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("ran first")

    monkeypatch.setattr(sim_command, "_run", never)
    (tmp_path / "file").write_text("")
    assert sim("run", "smoke", "--out", str(tmp_path / "file" / "x")) == 2


@pytest.mark.parametrize("file", ["result.json", "users.csv", "report.html", "events.jsonl"])
def test_a_disk_that_is_full_is_said_and_nobody_broke_a_promise(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file).symlink_to("/dev/full")
    assert sim("run", "smoke", "--set", "topology.nodes=3", "--journal", "--out", str(tmp_path)) == 2
    said = capsys.readouterr()
    assert said.err.endswith("no space left on device\n")
    assert str(tmp_path) in said.err
    assert "violated" not in said.out
    assert ("held, digest" in said.out) == (file != "events.jsonl"), "what the run took its minutes for is said"


@pytest.mark.parametrize("file", ["summary.json", "index.html"])
def test_a_sweep_on_a_full_disk_says_so(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / file).symlink_to("/dev/full")
    words = ("--set", "topology.nodes=2", "--seeds", "0:1", "--jobs", "1", "--out", str(tmp_path))
    assert sim("sweep", "smoke", *words) == 2
    assert capsys.readouterr().err.endswith(f"{tmp_path}: no space left on device\n")


def test_a_run_that_is_to_break_a_promise_holds_when_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text(
        'purpose = "too little"\nexpect = "violated"\nduration = "2s"\n[topology]\nnodes = 2\n'
        "[checks]\nidle_bytes_max = 1\n"
    )
    folder = tmp_path / "folder"
    assert sim("run", str(broken), "--out", str(folder)) == 0
    assert sim("replay", str(folder)) == 0
    sweep = ("sweep", str(broken), "--seeds", "0:1", "--jobs", "1", "--out", str(tmp_path / "swept"))
    assert sim(*sweep) == 0
    assert "runs 1, held 0" in capsys.readouterr().out


def test_a_seed_that_asks_for_what_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("soak", "smoke", "--set", "timeline.0.region=atlantis", "--jobs", "1") == 2
    assert "smoke: there is no region 'atlantis'" in capsys.readouterr().err


def test_explain_shows_the_scenario_or_everything_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("explain", "lan-1000") == 0
    assert 'model = "lan"' in capsys.readouterr().out
    assert sim("explain") == 0
    said = capsys.readouterr().out
    assert "region-cut" in said
    assert "verdict-is-quorum" in said


def test_shrinking_what_holds_says_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("shrink", "smoke", "--set", "topology.nodes=2", "--set", "duration=13s") == 0
    assert "there is nothing to shrink; `edgelattice sim soak` looks for" in capsys.readouterr().err


def test_a_run_in_which_nothing_changes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = tmp_path / "still.toml"
    still.write_text('purpose = "nothing happens"\nduration = "2s"\n[topology]\nnodes = 2\n')
    assert sim("run", str(still), "--json", "--out", str(tmp_path / "run")) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["convergence"].values()) == {None}
    assert said["copies_per_node"] is None
    assert sim("run", str(still)) == 0
    assert "  no region changed, and no policy was published\n" in capsys.readouterr().out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "No region changed and no policy was published; the nodes were left alone." in page
    assert "How each change spread" not in page
    assert "None" not in page
    assert "35 of 35 promises held." in page


def test_a_broken_run_counts_what_was_not_to_be_told(tmp_path: Path) -> None:
    """Who was not healed in time was not asked everything."""
    (tmp_path / "far.toml").write_text(
        'purpose = "no time to heal in"\nduration = "5s"\nsettle = "1ms"\n[topology]\nnodes = 3\n'
        '[[timeline]]\nat = "1s"\ndo = "isolate"\n[[timeline]]\nat = "4s"\ndo = "publish"\n'
    )
    assert sim("run", str(tmp_path / "far.toml"), "--json", "--out", str(tmp_path)) == 1
    outcomes = [one["outcome"] for one in json.loads((tmp_path / "result.json").read_text())["checks"]]
    held, broken, unknown = (outcomes.count(one) for one in ("held", "broken", "unknown"))
    assert broken or unknown
    page = (tmp_path / "report.html").read_text()
    told = re.search(r"<p>(\d+) of (\d+) promises held(?:, (\d+) broken)?(?:, (\d+) not to be told)?\.</p>", page)
    assert told is not None
    assert [int(one or 0) for one in told.groups()] == [held, len(outcomes), broken, unknown]


def test_the_list_of_commands_is_not_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("--help") == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def test_validate(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("validate", "halves", "--set", "topology.nodes=9") == 0
    assert "4 acts on 9 nodes" in capsys.readouterr().out


def test_a_soak_says_what_it_did_to_the_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("soak", "--budget", "0.1", "--jobs", "2", "--set", "topology.nodes=3") == 0
    said = capsys.readouterr().out
    assert "seeds held, 0 to " in said
    assert "faults: " in said
    assert sim("soak", "--budget", "0.1", "--jobs", "1", "--from", "5", "--set", "checks.idle_bytes_max=1") == 1
    assert "again: edgelattice sim run swarm --seed 5" in capsys.readouterr().err


@pytest.mark.extras
@pytest.mark.parametrize("form", ["png", "svg"])
def test_pictures_are_exported_for_papers(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("run", "smoke", "--out", str(tmp_path), "--json") == 0
    if find_spec("matplotlib") is None:
        assert sim("report", str(tmp_path), "--export", form) == 2
        assert "pip install 'edgelattice[plots]'" in capsys.readouterr().err
        pytest.skip("matplotlib is not installed: the extra is `plots`")
    assert sim("report", str(tmp_path), "--export", form) == 0
    magic = {"png": b"\x89PNG", "svg": b"<?xml"}[form]
    for name in ("propagation", "bytes"):
        assert (tmp_path / f"{name}.{form}").read_bytes().startswith(magic)


def test_a_run_by_several_processes_says_the_same_and_why_it_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    wan = ("run", "wan-1000", "--json", "--set", "topology.nodes=70", "--set", "duration=7s")
    assert sim(*wan, "--jobs", "1") == 0
    alone = json.loads(capsys.readouterr().out)
    assert sim(*wan, "--jobs", "2") == 0
    together = capsys.readouterr()
    assert "one process" not in together.err
    told = json.loads(together.out)
    cost = {"events_per_s", "wall_s", "peak_mb"}
    assert {name: told[name] for name in told.keys() - cost} == {name: alone[name] for name in alone.keys() - cost}
    assert sim("run", "smoke", "--json", "--jobs", "2") == 0
    assert "one process: its hosts are few" in capsys.readouterr().err
