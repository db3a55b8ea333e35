"""The tools of `edgelattice policy`, as people call them; and the how-to guide is one of their inputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from router.cli import main
from router.commands.failing import CommandError
from router.commands.signal import share_of_capacity
from router.decision.decide import decide
from router.decision.decision_bytes import decision_bytes
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.decision.program import compile_policy
from router.decision.request import Request
from router.decision.wasm.abi import request_bytes, view_bytes
from router.decision.wasm.host import WasmPolicy
from router.policy import parse

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "policy-tests.md"
(POLICY,) = re.findall(r"^```policy\n(.*?)^```$", HOW_TO.read_text(), re.MULTILINE | re.DOTALL)
LOG = """198.51.100.7 - - [10/Oct/2026:13:55:36 +0000] "GET /v1/cart HTTP/1.1" 200 2326 "-" "curl/8"
nonsense
{"client": "198.51.100.8", "path": "/v1", "country": "DE"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.policy"
    path.write_text(POLICY)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main(["policy", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_the_guides_policy_holds_and_its_test_passes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", file) == (0, f"{file}: holds\n")
    assert run(capsys, "test", file) == (0, "ok     frankfurt dies: amsterdam, never Virginia\n")
    assert run(capsys, "fmt", "--check", file)[0] == 1
    assert run(capsys, "fmt", file) == (0, "")
    assert run(capsys, "fmt", "--check", file) == (0, "")


def test_tests_are_played_for_sites_that_take_another_time(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "test", file, "--failback", "0s")[0] == 0
    status, said = run(capsys, "test", file, "--failback", "2h")
    assert (status, said.count("\n")) == (2, 1)
    assert "--failback: the duration '2h' is out of range; expected a whole number and a unit" in said


def test_a_file_that_cannot_be_written_is_said(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    status, said = run(capsys, "fmt", file)
    assert (status, f"{file}: cannot be written: no space left on device" in said) == (1, True)


def test_a_broken_promise_is_found_before_it_is_published(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(POLICY.replace("secondary any of gdpr", "secondary any"))
    status, said = run(capsys, "check", file)
    assert status == 1
    assert "E402: never eu_leaves does not hold: iad may serve a request with zone eu, country DE" in said
    assert run(capsys, "test", file)[0] == 1
    status, said = run(capsys, "test", file, "--json")
    assert json.loads(said)["failed"][0]["line"] == 19


def test_diff_simulate_and_explain(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, other = tmp_path / "access.log", tmp_path / "other.policy"
    log.write_text(LOG)
    other.write_text(POLICY.replace("primary nearest\n", "primary iad\n"))
    host = ("--host", "api.example.com", "--site", "50 8")
    status, said = run(capsys, "simulate", file, "--log", log, *host, "--json")
    assert status == 0
    assert json.loads(said)["regions"] == {"fra": 2}
    assert json.loads(said)["unreadable"] == 1
    status, said = run(capsys, "diff", file, other, "--log", log, *host)
    assert (status, said.splitlines()[:2]) == (0, ["1 of 2 requests move (50.0 %), 1 of 2 users", "  fra -> iad   1"])
    assert "line 2: 'nonsense' is neither in the common" in said
    assert run(capsys, "diff", file, other, "--log", log, *host, "--max-moved", "5")[0] == 1
    status, said = run(capsys, "explain", file, *host, "--country", "DE", "--set", "fra=down")
    assert status == 0
    assert "ams   secondary: fra DOWN" in said
    assert f"rule residency   {file}:8   zone in eu" in said
    status, said = run(capsys, "diff", file, other, "--json")
    assert [move["from"] + move["to"] for move in json.loads(said)["moves"]] == ["fraiad"]
    assert run(capsys, "diff", file, other, "--set", "iad=down")[1].startswith("0 of 2000 requests move")


def test_a_log_without_a_request_proves_nothing(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "access.log"
    for content in (b"", b"\x00\xff" * 100_000, b"nonsense\n" * 9):
        log.write_bytes(content)
        for tool in (("simulate", file), ("diff", file, file)):
            status, said = run(capsys, *tool, "--log", log)
            assert (status, "no line of it is a request" in said) == (1, True)
    assert "line 5: " in said
    assert "... and 4 more lines" in said


def test_explain_knows_all_that_rules_ask(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        """edition 1
region fra { at 50.11 8.68  endpoint 192.0.2.10:443 }
region iad { at 38.94 -77.45  endpoint 192.0.2.30:443 }
route api for "*" {
  rule live { when upgrade in websocket  primary iad }
  rule tls  { when port in 8443 or sni in "db.example"  primary iad }
  primary nearest
}
"""
    )
    options: tuple[str, ...]
    for options, region in (
        (("--host", "h", "--at", "iad"), "iad"),
        (("--host", "h", "--at", "fra"), "fra"),
        (("--host", "h", "--at", "50.1 8.7"), "fra"),
        (("--host", "h", "--at", "fra", "--header", "Upgrade: WebSocket"), "iad   primary\n  rule live"),
        (("--host", "h", "--at", "fra", "--port", "8443"), "iad   primary\n  rule tls"),
        (("--sni", "db.example", "--at", "fra"), "iad   primary\n  rule tls"),
    ):
        status, said = run(capsys, "explain", file, *options)
        assert (status, said[: len(region)]) == (0, region), (options, said)
    for options, wrong in (
        (("--path", "/x"), "--host"),
        (("--host", "h", "--path", "x"), "write /x"),
        (("--host", "h", "--client", "me"), "'me'"),
        (("--host", "h", "--country", "de"), "write DE"),
        (("--host", "h", "--at", "nowhere"), "'50.11 8.68'"),
        (("--host", "h", "--set", "fr=down"), "did you mean 'fra'?"),
        (("--host", "h", "--set", "fra"), "expected REGION=LEVEL"),
        (("--host", "h", "--time", "9999-12-31T00:00:00Z"), "years are from 1970 to 2199"),
    ):
        status, said = run(capsys, "explain", file, *options)
        assert (status, wrong in said, "Traceback" in said) == (2, True, False), said


def test_json_and_bad_options(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "compile", file)
    assert status == 0
    assert json.loads(said)["is"] == "Policy"
    kept = file.with_name("kept.json")
    assert run(capsys, "compile", file, "--output", kept) == (0, "")
    assert kept.read_text() == said
    status, said = run(capsys, "compile", file, "--output", file.with_name("nowhere") / "kept.json")
    assert (status, "cannot be written" in said, "Traceback" in said) == (1, True, False)
    for options in (("--site", "here"), ("--set", "nowhere=down"), ("--set", "fra=ill"), ("--time", "noon")):
        status, said = run(capsys, "explain", file, "--host", "h", *options)
        assert status == 2
        assert "Traceback" not in said
    assert run(capsys, "simulate", file, "--log", "/nonexistent")[0] == 2
    for share in ("nan", "inf", "-1", "101"):
        assert run(capsys, "diff", file, file, "--max-moved", share)[0] == 2


def test_a_module_is_written_and_decides(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = file.with_suffix(".wasm")
    assert run(capsys, "compile", file, "--target", "wasm", "--output", output) == (0, "")
    wasm = WasmPolicy(output.read_bytes())
    program = compile_policy(parse(file.read_text("utf-8")))
    wasm.plan(view_bytes(program, {}, SitePlace("here", 0, 0)))
    request = Request("192.0.2.7", "shop.example.com", "/")
    expected = decide(plan(program, {}, SitePlace("here", 0, 0)), request, frozenset())
    assert wasm.decide(request_bytes(request)) == decision_bytes(expected)
    status, said = run(capsys, "compile", file, "--target", "wasm")
    assert (status, "--output" in said, "Traceback" in said) == (2, True, False)


def test_a_policy_in_json_is_a_policy(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, text = file.with_name("kept.json"), file.with_name("again.policy")
    assert run(capsys, "compile", file, "--output", kept) == (0, "")
    assert run(capsys, "check", kept) == (0, f"{kept}: holds\n")
    assert run(capsys, "test", kept) == run(capsys, "test", file)
    assert run(capsys, "diff", file, kept)[1].startswith("0 of ")
    assert run(capsys, "compile", kept, "--target", "text", "--output", text) == (0, "")
    assert run(capsys, "compile", text)[1] == kept.read_text()
    status, said = run(capsys, "fmt", kept)
    assert (status, "policy compile --target text" in said) == (1, True)
    kept.write_text(kept.read_text().replace('"edition": 1', '"edition": 1, "colour": 2'))
    status, said = run(capsys, "check", kept)
    assert (status, f"{kept}: $.colour: unknown; a Policy has edition, " in said) == (1, True)


def test_what_is_no_policy_file_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, said in (
        (b"\xff\xfee\x00", "not UTF-8 text: byte 0 is 0xff; save it as UTF-8"),
        ("# \u00fc".encode() * (1 << 21), "bytes long"),
        (b'{"edition": 1, "x": "' + b"x" * (1 << 23), "$: longer than 4194304 characters"),
        (b"{", "$: not JSON"),
        (b"", "the policy is empty"),
    ):
        file.write_bytes(content)
        status, told = run(capsys, "check", file)
        assert (status, said in told, "Traceback" in told) == (1, True, False), told[:500]
        status, told = run(capsys, "check", "--json", file)
        assert (status, said in json.loads(told)["diagnostics"][0]["message"]) == (1, True)
    assert run(capsys, "check", "--json", file.with_name("missing"))[0] == 2


def test_a_policy_without_tests_is_no_tested_policy(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(POLICY[: POLICY.index("test ")])
    assert run(capsys, "test", file) == (
        0,
        f'edgelattice: {file}: has no test; write: test "what must be" {{ given ... expect ... }}\n',
    )


def test_what_fails_its_own_tests_is_not_published(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(POLICY.replace("expect region ams tier secondary", "expect region iad"))
    assert main(["init", "--site", "ams", "--dir", str(tmp_path / "ams")]) == 0
    capsys.readouterr()
    status, said = run(capsys, "publish", file, "--key", tmp_path / "ams" / "operator.key", "--control", "127.0.0.1:1")
    assert (status, "its own tests fail; nothing was published" in said) == (1, True), said
    assert f"{file}:17:17: test frankfurt dies" in said


def test_a_rate_is_a_share_of_the_declared_capacity() -> None:
    assert [share_of_capacity(POLICY, "fra", rps) for rps in (0, 1_000, 4_000, 9_000)] == [0, 25, 100, 100]
    for policy, region in ((POLICY, "nrt"), (POLICY.replace("  capacity 4000rps", ""), "fra")):
        with pytest.raises(CommandError, match=f"declares no capacity for region {region}; add a line there"):
            share_of_capacity(policy, region, 1)
