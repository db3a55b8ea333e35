"""`edgelattice keys`, `edgelattice ca` and joining by bundle: the files they write, and what they refuse."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lattice.certificates import Authority, read_certificate
from lattice.grants import Role
from lattice.identity import public_key_of
from lattice.key_ring import KeyRing
from lattice.types import Micros
from router.cli import main
from router.commands import keys as keys_command
from router.commands.failing import CommandError
from router.commands.operator import operator_of
from router.control.body import KeysBody, PeerKeysBody
from router.control.client import ControlClient, ControlError
from router.site.ca_dir import CaDir
from router.site.key_file import read_key_ring, read_secret, write_secret
from router.site.site_file import load_site_config
from router.site.state_dir import node_key_in


@pytest.fixture
def ams(tmp_path: Path) -> Path:
    assert (
        main(["init", "--site", "ams", "--dir", str(tmp_path / "ams"), "--bundle", str(tmp_path / "edge.bundle")]) == 0
    )
    return tmp_path / "ams"


def ring_of(site: Path) -> KeyRing:
    return read_key_ring(site / "cluster.keys")[0]


def test_secrets_are_for_their_owner_alone(ams: Path) -> None:
    for name in ("ca.key", "operator.key", "cluster.keys", "ams.state/node.key", "../edge.bundle"):
        assert (ams / name).stat().st_mode & 0o777 == 0o600, name


def test_a_rotation_by_commands(
    ams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody_runs(control: str | None, site: Path) -> Asked:
        raise ControlError(f"{site.name}: nobody answers")

    monkeypatch.setattr(keys_command, "client_for", nobody_runs)
    fra = tmp_path / "fra"
    assert main(["init", "--site", "fra", "--dir", str(fra), "--join", str(ams), "--port-offset", "1"]) == 0
    old = ring_of(ams).used.id.hex()
    assert main(["keys", "add", str(ams), "--label", "2027-01"]) == 0
    new = ring_of(ams).keys[1].id.hex()
    assert f"then: edgelattice keys use {ams} {new}" in capsys.readouterr().out
    assert main(["keys", "add", str(fra), "--from", str(ams)]) == 0
    assert main(["keys", "add", str(fra), "--from", str(ams / "cluster.keys")]) == 0
    assert "has all of them already" in capsys.readouterr().out
    assert ring_of(fra).tag == ring_of(ams).tag
    for site in (ams, fra):
        assert main(["keys", "remove", str(site), old]) == 2
        assert "is the one in use: use another first" in capsys.readouterr().err
        assert main(["keys", "use", str(site), new]) == 0
        assert "no node was asked who lags behind (site.toml: nobody answers)" in capsys.readouterr().err
    for site in (fra, ams / "site.toml"):
        assert main(["keys", "remove", str(site), old]) == 0
    assert ring_of(fra) == ring_of(ams)
    assert [key.id.hex() for key in ring_of(fra).keys] == [new]
    assert (fra / "cluster.keys").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in fra.iterdir() if path.name.startswith(".")) == []


class Asked:
    """A running node, as far as `keys` asks one."""

    def __init__(self, *peers: PeerKeysBody) -> None:
        self.peers = list(peers)

    def keys(self) -> KeysBody:
        return KeysBody("ams", [], self.peers)


def test_a_step_waits_for_the_sites_that_lag_behind(
    ams: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = ring_of(ams).used.id.hex()
    assert main(["keys", "add", str(ams), "--label", "2027-01"]) == 0
    new = ring_of(ams).keys[1].id.hex()

    def known(fra_key: str, fra_has_ours: bool) -> None:
        peers = [
            PeerKeysBody("01", "fra", "alive", fra_key, {}, fra_key == new, fra_has_ours),
            PeerKeysBody("02", "nyc", "suspect", new, {}, True, True),
            PeerKeysBody("03", "kix", "down", old, {}, False, False),
        ]
        monkeypatch.setattr(keys_command, "client_for", lambda control, site: Asked(*peers))

    for command, key, lagging, abreast in (
        ("use", new, (old, False), (old, True)),
        ("remove", old, (old, True), (new, True)),
    ):
        before = (ams / "cluster.keys").read_bytes()
        known(*lagging)
        assert main(["keys", command, str(ams), key]) == 1
        said = capsys.readouterr().err
        assert said.startswith("edgelattice: fra: "), "nyc has done its step, and kix is not there"
        assert "--anyway" in said
        assert (ams / "cluster.keys").read_bytes() == before
        known(*abreast)
        assert main(["keys", command, str(ams), key]) == 0
        said = capsys.readouterr().err
        assert said.startswith("edgelattice: kix (away): "), "or nobody would know why it is not heard when it is back"
    assert main(["keys", "add", str(ams), "--label", "2027-02"]) == 0
    known(new, False)
    assert main(["keys", "use", "--anyway", str(ams), ring_of(ams).keys[1].id.hex()]) == 0


def test_a_node_that_is_named_and_does_not_answer_is_no_reason_to_go_on(
    ams: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "add", str(ams), "--label", "2027-01"]) == 0
    before = ring_of(ams)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and does not listen
        control = f"127.0.0.1:{deaf.getsockname()[1]}"
        assert main(["keys", "use", str(ams), before.keys[1].id.hex(), "--control", control]) == 1
    assert control in capsys.readouterr().err
    assert ring_of(ams) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["use", "{ams}", "zz"], "'zz' is no key id: expected 4 hexadecimal digits"),
        (["use", "{ams}", "0000"], "no key 0000 here; there is "),
        (["add", "{ams}"], "give either --label, for a new key, or --from"),
        (["add", "{ams}", "--label", "a b"], "'a b' is no label"),
        (["add", "{ams}", "--from", "{ams}/ca.key"], "a bare key may be anybody's"),
        (["add", "{ams}", "--from", "{ams}/none"], "no such cluster key file"),
    ],
)
def test_keys_asked_for_wrongly(ams: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    before = (ams / "cluster.keys").read_bytes()
    assert main(["keys", *(argument.format(ams=ams) for argument in arguments)]) == 2
    assert said in capsys.readouterr().err
    assert (ams / "cluster.keys").read_bytes() == before


@pytest.mark.parametrize("other", ["shop", "shop/site.toml", "shop/cluster.keys"])
def test_another_cluster_s_keys_are_not_mixed_in(
    ams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    assert main(["init", "--site", "ams", "--dir", str(tmp_path / "shop"), "--cluster", "shop"]) == 0
    before = ring_of(ams)
    assert main(["keys", "add", str(ams), "--from", str(tmp_path / other)]) == 2
    assert "'shop', and this site is of 'edge'" in capsys.readouterr().err
    assert ring_of(ams) == before


def test_an_old_key_file_becomes_a_ring(ams: Path) -> None:
    (ams / "cluster.keys").unlink()
    write_secret(ams / "cluster.keys", b"\x07" * 32, "one key, as it used to be")
    assert main(["keys", "add", str(ams), "--label", "next"]) == 0
    assert ring_of(ams).used.secret == b"\x07" * 32
    assert len(ring_of(ams).keys) == 2


def test_a_site_elsewhere_joins_by_bundle_request_and_certificate(
    ams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    iad, bundle = tmp_path / "iad", tmp_path / "edge.bundle"
    for secret in ("ca.key", "operator.key", "ams.state/node.key"):
        assert read_secret(ams / secret, "key")[0].hex() not in bundle.read_text(), secret
    assert main(["init", "--site", "iad", "--dir", str(iad), "--join", str(bundle)]) == 0
    assert sorted(path.name for path in iad.iterdir()) == [
        "ca.crt", "cluster.keys", "iad.state", "node.csr", "site.toml",
    ]  # fmt: skip
    assert "edgelattice ca issue --role node --request node.csr --out node.crt" in capsys.readouterr().out
    issue = ["ca", "issue", "--ca", str(ams), "--role", "node", "--request", str(iad / "node.csr")]
    assert main([*issue, "--out", str(iad / "node.crt")]) == 0
    assert main([*issue, "--out", str(iad / "node.crt")]) == 2
    assert "--replace does" in capsys.readouterr().err
    assert main([*issue, "--out", str(iad / "node.crt"), "--replace"]) == 0
    ours, theirs = load_site_config(iad / "site.toml"), load_site_config(ams / "site.toml")
    assert ours.cluster.keys == theirs.cluster.keys
    certificate = read_certificate((iad / "node.crt").read_bytes())
    assert certificate.public_key == public_key_of(node_key_in(iad / "iad.state"))
    authority = Authority((ams / "ca.crt").read_bytes())
    assert authority.judge(certificate.der, Role.NODE, Micros(certificate.not_before + 1)).name == "iad"


def test_an_operator_is_made_shown_and_taken_back(
    ams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ca", "issue", "--ca", "ams", "--role", "operator", "--name", "eva"]) == 0
    key = public_key_of(read_secret(Path("eva.key"), "key")[0])
    assert f"as long as eva.crt is beside the key; public key {key.hex()}" in capsys.readouterr().out
    assert main(["ca", "show", "eva.crt"]) == 0
    assert capsys.readouterr().out.startswith("operator eva of edge\n")
    nobody = ["--control", "http://127.0.0.1:9"]
    assert main(["ca", "revoke", "--ca", "ams", "eva", *nobody]) == 1
    assert "which op of that operator shall be the last to count?" in capsys.readouterr().err
    assert not Path("ams/ca.revoked").exists()
    assert main(["ca", "revoke", "--ca", "ams", "eva", "--withdraw", *nobody]) == 1
    told = capsys.readouterr()
    assert f"revoked operator eva {key.hex()}\n" in told.out
    assert "Copy ams/ca.revoked beside the ca.crt of any site that runs" in told.err
    assert main(["ca", "revoke", "--ca", "ams", "eva"]) == 1
    assert "'eva' is revoked already" in capsys.readouterr().err
    assert main(["ca", "issue", "--ca", "ams", "--role", "operator", "--name", "max", "--key", "eva.key"]) == 2
    assert "was revoked for good: make a new one" in capsys.readouterr().err
    stranger = "ab" * 32
    assert main(["ca", "revoke", "--ca", "ams", stranger, "--withdraw", *nobody]) == 1
    assert f"revoked operator {stranger}\n" in capsys.readouterr().out
    assert main(["ca", "revoke", "--ca", "ams", "nobody"]) == 1
    assert "'nobody' was not issued here" in capsys.readouterr().err
    assert len(CaDir(Path("ams")).revoked()) == 2
    with Path("ams/ca.revoked").open("a") as file:
        file.write("00ff\n")
    assert main(["ca", "show", "--ca", "ams"]) == 2
    assert "ams/ca.revoked: bad shape" in capsys.readouterr().err
    lines = Path("ams/ca.revoked").read_text().splitlines()
    Path("ams/ca.revoked").write_text("\n".join(lines[:2]))
    assert main(["ca", "show", "--ca", "ams"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.endswith("revoked") for line in shown] == [False, False, True]


def test_what_was_issued_for_a_role_that_nobody_knows_is_taken_back(
    ams: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: ControlClient, revocations: list[bytes]) -> None:
        raise ControlError("the revocation was taken and goes to the other nodes, but", 503)

    monkeypatch.chdir(ams.parent)
    assert main(["ca", "issue", "--ca", "ams", "--role", "viewer", "--name", "robot"]) == 0
    issued = Path("ams/ca.issued")
    issued.write_text(issued.read_text().replace(" viewer ", " auditor "))
    monkeypatch.setattr(ControlClient, "submit_revocations", full)
    assert main(["ca", "revoke", "--ca", "ams", "robot"]) == 1
    told = capsys.readouterr()
    assert "revoked auditor robot " in told.out
    assert "it is written down, but the node can not promise to keep it: the revocation was taken" in told.err
    assert len(CaDir(Path("ams")).revoked()) == 1


def test_what_stands_beside_an_operator_s_key_is_looked_at(
    ams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for role, name in (("operator", "eva"), ("viewer", "max"), ("operator", "old")):
        days = ["--days", "5"] if name == "old" else []
        assert main(["ca", "issue", "--ca", "ams", "--role", role, "--name", name, *days]) == 0
    operator = operator_of(Path("eva.key"))
    assert operator.grant == read_certificate(Path("eva.crt").read_bytes()).grant is not None
    assert operator_of(ams / "operator.key").grant is None, "that of `init` stands in policy.authors"
    capsys.readouterr()
    assert operator_of(Path("old.key")).grant is not None
    assert "old.crt expires on " in capsys.readouterr().err
    Path("later").write_text("")
    monkeypatch.setattr("router.commands.operator.time.time_ns", lambda: 4 * 10**18)
    assert operator_of(Path("old.key")).grant is None
    assert "old.crt expired on " in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="a viewer may not write policy"):
        operator_of(Path("max.key"))
    Path("eva.crt").write_bytes(Path("old.crt").read_bytes())
    with pytest.raises(CommandError, match=r"of another key than eva\.key"):
        operator_of(Path("eva.key"))
    Path("eva.crt").write_text("junk")
    with pytest.raises(CommandError, match="no certificate; remove it"):
        operator_of(Path("eva.key"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["issue", "--ca", "{ams}", "--role", "node", "--name", "x"], "give its --request (node.csr)"),
        (["issue", "--ca", "{ams}", "--role", "viewer"], "--name is missing"),
        (["issue", "--ca", "{ams}", "--role", "viewer", "--name", "A B"], "expected 1 to 32 of a-z"),
        (["issue", "--ca", "{tmp}", "--role", "viewer", "--name", "x"], "ca.crt: no such file"),
        (["issue", "--ca", "{ams}", "--role", "node", "--request", "{ams}/site.toml"], "no certificate request"),
        (["issue", "--ca", "{ams}", "--role", "node", "--request", "{ams}/none"], "none: no such file or directory"),
        (
            ["issue", "--ca", "{ams}", "--role", "operator", "--request", "{ams}/x.csr"],
            "whoever is operator has a key of their own",
        ),
        (["issue", "--ca", "{ams}", "--role", "viewer", "--name", "x", "--key", "{ams}/ca.key"], "the CA's own key"),
        (["init", "--cluster", "edge", "--dir", "{ams}"], "exists, and nothing is replaced"),
        (["show", "{ams}/site.toml"], "site.toml: no certificate"),
        (["bundle", "{ams}", "--out", "{ams}/site.toml"], "exists, and nothing is replaced"),
    ],
)
def test_the_ca_asked_wrongly(
    ams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["ca", *(argument.format(ams=ams, tmp=tmp_path) for argument in arguments)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("out", ["edge.bundle", "nowhere/new.bundle"])
def test_where_the_bundle_cannot_go_no_site_is_made(
    ams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    new = ["init", "--site", "fra", "--dir", str(tmp_path / "fra"), "--join", str(ams), "--bundle", str(tmp_path / out)]
    assert main(new) == 2
    assert str(tmp_path / out) in capsys.readouterr().err
    assert not (tmp_path / "fra").exists()


@pytest.mark.parametrize("joins", [False, True])
def test_a_clock_that_was_never_set_certifies_nobody(
    ams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, joins: bool
) -> None:
    """Its certificates would be over before they are carried anywhere."""
    new = ["init", "--site", "fra", "--dir", str(tmp_path / "fra"), *(["--join", str(ams)] if joins else [])]
    issue = ["ca", "issue", "--ca", str(ams), "--role", "viewer", "--name", "eva", "--out", str(tmp_path / "eva.crt")]
    with monkeypatch.context() as patch:
        patch.setattr("time.time_ns", lambda: 86_400 * 10**9)
        for command in (new, issue):
            assert main(command) == 2
            assert "this machine's clock says 1970-01-02 00:00 UTC" in capsys.readouterr().err
    assert main(new) == 0, "nothing that was half made is in the way"


def test_what_failed_half_way_can_simply_be_tried_again(
    ams: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = (ams / "ca.key").read_bytes()
    (ams / "ca.key").write_text("no key")
    new = ["init", "--site", "fra", "--dir", str(tmp_path / "fra"), "--join", str(ams)]
    assert main(new) == 2
    assert "ca.key: expected the CA's key" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "fra").iterdir()] == ["fra.state"]
    (ams / "ca.key").write_bytes(key)
    assert main(new) == 0


@pytest.mark.parametrize(
    "content", ["", "x", "[bundle]\ncluster = 5", "[bundle]\ncluster = 'e'\nkeys = 'use'\nca = 'x'"]
)
def test_what_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (tmp_path / "b").write_text(content)
    (tmp_path / "b").chmod(0o600)
    assert main(["init", "--site", "x", "--dir", str(tmp_path / "x"), "--join", str(tmp_path / "b")]) == 2
    assert str(tmp_path / "b") in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
