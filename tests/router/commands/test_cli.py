"""The command line, end to end: the real control API on a socket, in another thread; a node only where one is run."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest
import trio

from router.cli import COMMANDS, edgelattice, main
from router.commands.lazy_group import LazyGroup
from router.commands.policy import COMMANDS as POLICY_COMMANDS
from router.commands.policy import policy
from router.control.api import control_app
from router.control.client import ControlClient, ControlError, control_url
from router.control.server import serve_control
from router.listening import bound_endpoint, listen
from router.process import run_until_told
from router.site.key_file import read_secret, write_secret
from router.site.site_config import BoundEndpoints, SiteConfig
from router.site.site_file import load_site_config
from tests.router.control.fake_target import AUTHOR_KEY, POLICY, VERSION, FakeTarget

BROKEN = POLICY.replace("region fra", "regoin fra")


class Served:
    """A control API for a fake node, on a real socket."""

    def __init__(self, target: FakeTarget) -> None:
        self.target = target
        listener = listen(("127.0.0.1", 0), "control.listen")
        self.url = f"http://127.0.0.1:{bound_endpoint(listener)[1]}"
        self._stop = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve, listener))
        self._thread.start()
        self._started.wait()

    async def _serve(self, listener: socket.socket) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, control_app(self.target), listener, self._stop)
            self._started.set()

    def close(self) -> None:
        assert self._token is not None
        self._token.run_sync_soon(self._stop.set)
        self._thread.join()


@pytest.fixture
def served() -> Iterator[Served]:
    node = Served(FakeTarget(AUTHOR_KEY))
    yield node
    node.close()


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.policy"
    path.write_text(POLICY)
    return path


@pytest.fixture
def operator_key(tmp_path: Path) -> Path:
    path = tmp_path / "operator.key"
    write_secret(path, AUTHOR_KEY, "operator")
    return path


@pytest.fixture
def unused_url() -> Iterator[str]:
    """An address where nobody listens, and nobody else will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


# --- init


@pytest.mark.parametrize(("word", "said"), [("polcy", "Did you mean policy?"), ("xyzzy", "'xyzzy'. See")])
def test_a_word_that_is_no_command(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert said in capsys.readouterr().err


def test_init_makes_a_site_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--site", "ams", "--dir", str(tmp_path / "ams")]) == 0
    config = load_site_config(tmp_path / "ams" / "site.toml")
    assert (config.site.name, config.cluster.name, config.warnings) == ("ams", "edge", ())
    operator, _ = read_secret(tmp_path / "ams" / "operator.key", "operator's key")
    assert config.cluster.keys is not None
    assert operator != config.cluster.keys.used.secret
    assert len(config.policy.authors) == 1
    told = capsys.readouterr().out
    for command in ("run", "policy publish FILE --key", "status", "--join"):
        assert f"edgelattice {command}" in told or command in told


def test_a_second_site_joins_without_the_operators_key(tmp_path: Path) -> None:
    first, second = tmp_path / "ams", tmp_path / "fra"
    assert main(["init", "--site", "ams", "--dir", str(first)]) == 0
    assert main(["init", "--site", "fra", "--dir", str(second), "--join", str(first), "--port-offset", "1"]) == 0
    ours, theirs = load_site_config(second / "site.toml"), load_site_config(first / "site.toml")
    assert (ours.cluster.name, ours.cluster.keys) == (theirs.cluster.name, theirs.cluster.keys)
    assert ours.policy.authors == theirs.policy.authors
    assert ours.gossip.seeds == (("127.0.0.1", 7946),)
    assert (ours.gossip.listen[1], ours.http.listen[0][1], ours.control.listen[1]) == (7947, 8081, 8181)
    assert sorted(path.name for path in second.iterdir()) == [
        "ca.crt",
        "cluster.keys",
        "fra.state",
        "node.crt",
        "site.toml",
    ]


def test_init_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "operator.key").write_text("precious")
    assert main(["init", "--site", "ams", "--dir", str(tmp_path)]) == 2
    assert "operator.key exists, and init replaces nothing" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["operator.key"]


def test_init_says_what_a_name_may_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--site", "AMS 1", "--dir", str(tmp_path)]) == 2
    assert "--site 'AMS 1': expected 1 to 32 of a-z" in capsys.readouterr().err


# --- policy


def test_check_of_a_policy_that_holds(policy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", str(policy_file)]) == 0
    assert capsys.readouterr().out == f"{policy_file}: holds\n"
    assert main(["policy", "check", "--json", str(policy_file)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"ok": True, "file": str(policy_file), "diagnostics": [], "left_out": 0}


def test_check_of_one_that_does_not(policy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy_file.write_text(BROKEN)
    assert main(["policy", "check", str(policy_file)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{policy_file}:7:1: " in told.err
    assert "edgelattice: the policy has 1 mistake\n" in told.err
    assert main(["policy", "check", "--json", str(policy_file)]) == 1
    (diagnostic,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert (diagnostic["line"], diagnostic["column"]) == (7, 1)


def test_check_of_what_is_no_policy_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", str(tmp_path / "none")]) == 2
    assert "cannot be read: no such file or directory" in capsys.readouterr().err
    (tmp_path / "binary").write_bytes(b"\x80")
    assert main(["policy", "check", str(tmp_path / "binary")]) == 1
    assert "not UTF-8 text: byte 0 is 0x80" in capsys.readouterr().err


def test_a_published_policy_is_signed_here_and_accepted_there(
    served: Served, policy_file: Path, operator_key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish = ["policy", "publish", str(policy_file), "--key", str(operator_key), "--control", served.url]
    assert main([*publish, "-m", "open asia"]) == 0
    (accepted,) = served.target.store.policies()
    assert "".join(accepted.blocks) == POLICY
    assert accepted.message == "open asia"
    assert f"published default {accepted.version.hex()[:8]} to cluster demo" in capsys.readouterr().out

    policy_file.write_text(POLICY.replace("52.37", "52.38"))
    assert main(publish) == 0
    (replaced,) = served.target.store.policies()
    assert replaced.version != accepted.version
    assert replaced.rivals == ()


def test_what_does_not_hold_is_never_sent(
    served: Served, policy_file: Path, operator_key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy_file.write_text(BROKEN)
    assert main(["policy", "publish", str(policy_file), "--key", str(operator_key), "--control", served.url]) == 1
    assert "the policy has 1 mistake; nothing was published" in capsys.readouterr().err
    assert served.target.store.policies() == ()


def test_an_author_whom_nobody_knows_is_refused(
    served: Served, policy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_secret(tmp_path / "other.key", bytes(32), "someone else")
    publish = ["policy", "publish", str(policy_file), "--key", str(tmp_path / "other.key"), "--control", served.url]
    assert main(publish) == 1
    assert "edgelattice: nothing was published: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--key", "missing.key"], "missing.key: no such operator's key file"),
        (["--name", "../x"], "policy name '../x': expected"),
        (["--control", "ftp://x"], "'ftp://x' is no control address"),
    ],
)
def test_publishing_wrongly(
    policy_file: Path, operator_key: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["policy", "publish", str(policy_file), "--key", str(operator_key), *options]) == 2
    assert said in capsys.readouterr().err


# --- status, decide


def test_status_as_a_table_and_as_json(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--control", served.url]) == 0
    assert "ams:DOWN fra:FAILING" in capsys.readouterr().out
    assert main(["status", "--json", "--control", served.url.removeprefix("http://")]) == 0
    assert json.loads(capsys.readouterr().out)["policies"][0]["version"] == VERSION.hex()


def test_status_of_the_node_of_a_site_file(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site_toml = tmp_path / "site.toml"
    address = served.url.removeprefix("http://")
    site_toml.write_text(
        f'[site]\nname = "ams"\n[cluster]\nname = "demo"\ninsecure = true\n[control]\nlisten = "{address}"\n'
    )
    assert main(["status", str(site_toml)]) == 0
    assert "site ams" in capsys.readouterr().out
    site_toml.write_text(site_toml.read_text().replace(address, "127.0.0.1:0"))
    assert main(["status", str(site_toml)]) == 2
    assert "give --control with the address from the node's ready line" in capsys.readouterr().err


def test_a_decision(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["decide", "--client", "127.10.0.1", "--host", "shop.example.com", "--path", "/a", "--control", served.url]
    assert main(ask) == 0
    assert "secondary: fra DOWN" in capsys.readouterr().out
    assert main([*ask, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["region"], told["version"], told["trial"]) == ("ams", VERSION.hex(), "")
    ask[2] = "me"
    assert main(ask) == 2
    assert 'client = "me": expected a numeric IPv4 or IPv6 address' in capsys.readouterr().err


def test_nobody_answers(unused_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--control", unused_url]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"edgelattice: no node answers at {unused_url}: connection refused; is it running")
    assert told.count("\n") == 1


@pytest.fixture
def stranger() -> Iterator[str]:
    """An HTTP server that is no node."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(500 if "decide" in self.path else 200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it)
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_someone_else_answers(stranger: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--control", stranger]) == 1
    assert "something else than a node would" in capsys.readouterr().err
    assert main(["decide", "--client", "::1", "--host", "a", "--control", stranger]) == 1
    assert "answered 500, not as a node would; is this a control address?" in capsys.readouterr().err


def test_someone_answers_who_speaks_no_http() -> None:
    with listen(("127.0.0.1", 0), "test") as listener:
        listener.setblocking(True)

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(ControlError, match="is this a control address"):
            ControlClient(f"http://127.0.0.1:{bound_endpoint(listener)[1]}").view()
        thread.join()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://10.0.0.1:8180/", "http://10.0.0.1:8180"),
        ("10.0.0.1:8180", "http://10.0.0.1:8180"),
        (":8181", "http://127.0.0.1:8181"),
        ("[::1]:8180", "http://[::1]:8180"),
        ("edge.example.com:80", "http://edge.example.com:80"),
        ("https://x:1/", "https://x:1"),
    ],
)
def test_a_control_address_as_people_type_it(text: str, url: str) -> None:
    assert control_url(text) == url


@pytest.mark.parametrize(
    "text", ["", "x", "ftp://x:1", "file:///etc/passwd", "http://x:99999", "http://x:1/v1", "http://x y:1"]
)
def test_what_is_no_control_address(text: str) -> None:
    with pytest.raises(ValueError, match="is no control address"):
        control_url(text)


# --- the whole command


@pytest.mark.parametrize("arguments", [["fly"], ["status", "--jsn"], ["run"], ["policy", "publish"]])
def test_wrong_usage_is_two_lines_and_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("Usage: edgelattice")
    assert "edgelattice: " in told
    assert "--help." in told


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for word in ("demo", "init", "run", "status", "decide", "policy", "Exit status"):
        assert word in told
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edgelattice 0.")


@pytest.mark.parametrize(
    ("group", "name"), [*((edgelattice, name) for name in COMMANDS), *((policy, name) for name in POLICY_COMMANDS)]
)
def test_the_list_of_commands_says_what_each_says_of_itself(group: LazyGroup, name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert command.name == name
    line = (COMMANDS if group is edgelattice else POLICY_COMMANDS)[name].line
    assert line == command.get_short_help_str(limit=200)


@pytest.mark.parametrize("command", ["status", "policy check"])
def test_a_command_loads_nothing_of_a_node_that_it_does_not_need(command: str) -> None:
    code = (
        f"import sys; from router.cli import main; main({[*command.split(), '--help']}); print(*sys.modules, sep='\\n')"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "router.control.body" in loaded
    assert not {"trio", "pycrdt", "zeroconf"} & set(loaded)


def test_the_list_of_commands_is_nobody_s_expense() -> None:
    code = "import sys; from router.cli import main; main(['--help']); print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "router.commands.failing" in loaded
    assert not {"trio", "lark", "lattice.types", "router.commands.shared"} & set(loaded)


def test_an_interrupted_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(ControlClient, "view", interrupted)
    assert main(["status"]) == 130
    assert capsys.readouterr().err.endswith("edgelattice: interrupted\n")


def test_a_mistake_of_ours_is_no_traceback_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mistaken(*_: object) -> bytes:
        raise ZeroDivisionError("we did")

    monkeypatch.setattr(ControlClient, "view", mistaken)
    assert main(["status"]) == 1
    told = capsys.readouterr().err
    assert "edgelattice: ZeroDivisionError: we did" in told
    assert "Traceback" not in told
    monkeypatch.setenv("EDGELATTICE_TRACEBACK", "1")
    assert main(["status"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_wrong_site_file_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.toml").write_text('[site]\nnmae = "ams"\n')
    assert main(["run", str(tmp_path / "site.toml")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("edgelattice: ") for line in lines)
    assert "site.nmae: unknown key; did you mean name?" in lines[1]


# --- run


async def test_a_node_runs_until_a_signal_and_then_drains(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[site]\nname = "ams"\n[cluster]\nname = "demo"\ninsecure = true\n')
    config = load_site_config(tmp_path / "site.toml")
    happened: list[str] = []

    async def node(
        config: SiteConfig, *, ready: object, stop: trio.Event, hangups: trio.MemoryReceiveChannel[None] | None = None
    ) -> None:
        assert hangups is not None
        signal.raise_signal(signal.SIGHUP)
        await hangups.receive()
        happened.append("read")
        signal.raise_signal(signal.SIGTERM)
        await stop.wait()
        happened.append("drained")

    async def stubborn(
        config: SiteConfig, *, ready: object, stop: trio.Event, hangups: trio.MemoryReceiveChannel[None] | None = None
    ) -> None:
        signal.raise_signal(signal.SIGINT)
        await stop.wait()
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    def ready(_: BoundEndpoints) -> None:
        return

    with trio.fail_after(10):
        await run_until_told(node, config, ready=ready, told=happened.append)
        await run_until_told(stubborn, config, ready=ready, told=happened.append)
    assert happened == [
        "SIGHUP: reading files anew",
        "read",
        "SIGTERM: draining; once more to leave at once",
        "drained",
        "SIGINT: draining; once more to leave at once",
        "SIGINT again: leaving at once",
    ]


@pytest.mark.slow
def test_a_real_node_starts_answers_and_leaves_with_its_standard_input(tmp_path: Path) -> None:
    assert main(["init", "--site", "ams", "--dir", str(tmp_path)]) == 0
    site_toml = tmp_path / "site.toml"
    text = site_toml.read_text()
    for port in (7946, 8080, 8180):
        text = text.replace(f":{port}", ":0")
    site_toml.write_text(text.replace("mdns = true", "mdns = false").replace('"0.0.0.0:0"', '"127.0.0.1:0"'))
    assert tomllib.loads(site_toml.read_text())["gossip"]["listen"] == "127.0.0.1:0"

    command = [sys.executable, "-c", "import sys; from router.cli import main; sys.exit(main())"]
    with subprocess.Popen(
        [*command, "run", str(site_toml), "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as node:
        assert node.stdout is not None
        ready = node.stdout.readline()
        assert ready.startswith("ready site=ams gossip=127.0.0.1:"), ready
        control = ready.rstrip().rpartition("control=")[2]
        assert ControlClient(f"http://{control}").view().site == "ams"
        _, errors = node.communicate(timeout=30)
    assert node.returncode == 0
    assert "standard input closed: draining" in errors
    assert "Traceback" not in errors


# --- keys


def test_the_keys_by_id_and_who_lags(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list", "--control", served.url]) == 0
    shown = capsys.readouterr().out
    assert "7f3a  2026-11  in use" in shown
    assert "seals with another key" in shown
    assert main(["keys", "list", "--json", "--control", served.url]) == 0
    (peer,) = json.loads(capsys.readouterr().out)["peers"]
    assert (peer["site"], peer["key"], peer["frames"], peer["uses_ours"]) == ("fra", "01c4", {"01c4": 12}, False)


def test_status_shows_what_somebody_should_do_something_about(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--control", served.url]) == 0
    assert "the node's certificate expires on 2027-01-01" in capsys.readouterr().out
