"""`edgelattice sim`: what it prints, what it leaves, and its exit status."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from router.cli import main
from sim.scenario import shipped


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
    capsys.readouterr()
    assert sim("replay", str(folder)) == 0
    assert said["digest"] in capsys.readouterr().out
    assert sim("replay", said["token"]) == 0
    assert said["digest"] in capsys.readouterr().out
    (folder / "result.json").write_text(json.dumps({**said, "digest": "another"}))
    assert sim("replay", str(folder)) == 1
    assert "the history differs" in capsys.readouterr().err


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
        (("run", "smoke", "--journal"), "--journal needs --out"),
        (("validate", "nowhere.toml"), "there is no such file"),
        (("replay", "el1-xx"), "the token is damaged"),
        (("replay", "nothing"), "a token begins with"),
    ],
)
def test_wrong_usage_is_status_2(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim(*words) == 2
    assert said in capsys.readouterr().err


def test_explain_shows_the_scenario_or_everything_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("explain", "lan-1000") == 0
    assert 'model = "lan"' in capsys.readouterr().out
    assert sim("explain") == 0
    said = capsys.readouterr().out
    assert "region-cut" in said
    assert "verdict-is-quorum" in said


def test_validate(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("validate", "halves", "--set", "topology.nodes=9") == 0
    assert "4 acts on 9 nodes" in capsys.readouterr().out
