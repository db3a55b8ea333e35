"""What people type by mistake: each is told what is wrong and what to do, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.cli import main
from router.control.client import control_url


def wrong(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of them."""
    assert main(arguments) == status
    told = capsys.readouterr().err
    assert "mistake of ours" not in told
    assert "Errno" not in told
    return told


@pytest.fixture
def ams(tmp_path: Path) -> Path:
    assert main(["init", "--site", "ams", "--dir", str(tmp_path / "ams")]) == 0
    return tmp_path / "ams"


@pytest.mark.parametrize("group", [[], ["ca"], ["keys"], ["policy"], ["policy", "rollout"], ["sim"]])
def test_a_group_alone_shows_its_help_once(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = wrong(group, 2, capsys)
    assert told.count("Usage: ") == 1
    assert "\nedgelattice: " not in told
    assert "\nCommands:\n" in told


def test_a_certificate_goes_into_a_file(
    ams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    issue = ["ca", "issue", "--ca", str(ams), "--role", "operator", "--name", "eva"]
    before = (ams / "ca.issued").read_text()
    assert "ams is a directory; --out names a file" in wrong([*issue, "--out", "ams", "--replace"], 2, capsys)
    assert not (tmp_path / "ams.key").exists(), "no key without its certificate"
    assert (ams / "ca.issued").read_text() == before


def test_a_ca_where_none_can_be(ams: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ams / "site.toml"
    told = wrong(["ca", "show", "--ca", str(file)], 2, capsys)
    assert told == f"edgelattice: {file / 'ca.crt'}: not a directory\n"
    told = wrong(["ca", "show", str(ams)], 2, capsys)
    assert told == f"edgelattice: {ams} is a directory; what a CA has issued: edgelattice ca show --ca {ams}\n"


def test_the_ca_publishes_no_policy(ams: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = wrong(["cache", "purge", "a.test", "--key", str(ams / "ca.key")], 2, capsys)
    assert told == f"edgelattice: {ams / 'ca.key'} is the CA's, which writes no policy; give an operator's key\n"


@pytest.mark.parametrize("key", ["nothere.key", "operator.key"])
def test_a_region_s_key_comes_from_the_ca(ams: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = wrong(["signal", "--key", str(ams / key)], 2, capsys)
    assert "`edgelattice ca issue --role region --name REGION`" in told
    assert "init" not in told


def test_a_control_address_with_half_a_bracket() -> None:
    with pytest.raises(ValueError, match=r"'http://\[::1' is no control address"):
        control_url("http://[::1")


@pytest.mark.parametrize(
    ("option", "place", "said"),
    [
        ("--site", "mars", "--site 'mars': 'mars' is not a latitude"),
        ("--site", "50", "--site '50': '' is not a longitude"),
        ("--site", "99 999", "--site '99 999': latitude '99' is out of range"),
    ],
)
def test_a_place_names_its_option(
    option: str, place: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "one.policy"
    policy.write_text('edition 1\nregion fra { at 50 8 endpoint 127.0.0.1:1 }\nroute all for "*" { primary fra }\n')
    assert said in wrong(["policy", "explain", str(policy), "--host", "a.test", option, place], 2, capsys)


@pytest.mark.parametrize("stages", ["1,5", "0,100", "5,1,100", "5,5,100", "1,", "a", "1,101", ",".join("1" * 17)])
def test_stages_that_do_not_rise_to_all(stages: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = wrong(["policy", "rollout", "start", "x", "--key", "y", "--stages", stages], 2, capsys)
    assert "Invalid value for '--stages'" in told
    assert "such as 1,5,25,100" in told
