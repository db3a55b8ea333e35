from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.config import Config
from lattice.identity import public_key_of
from lattice.key_ring import KeyRing
from router.site.config_reader import (
    ConfigError,
    NotExpected,
    duration,
    duration_text,
    endpoint_text,
    listen_endpoint,
    shown,
)
from router.site.key_file import KeyFileError, read_secret, write_secret
from router.site.site_config import CONTROL_LISTEN, SiteConfig
from router.site.site_file import load_site_config

CLUSTER_KEY = bytes(range(32))
AUTHOR_KEY = bytes(range(1, 33))
AUTHOR = public_key_of(AUTHOR_KEY).hex()


TABLES = "cache, cluster, control, geo, gossip, http, policy, site, tcp, timing, tls, upstream"
HOST_PORT = 'host:port, as "10.0.0.2:7946", "[fd00::2]:7946" or "edge.example.com:7946"'
REMOTE = (
    "can be reached from other machines, and nobody is asked who he is; "
    "use 127.0.0.1, or set tls = true, or allow_remote = true behind a firewall"
)


def load(directory: Path, text: str) -> SiteConfig:
    for name, key in (("cluster.key", CLUSTER_KEY), ("operator.key", AUTHOR_KEY)):
        if not (directory / name).exists():
            write_secret(directory / name, key, name)
    path = directory / "site.toml"
    path.write_text(text)
    return load_site_config(path)


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(directory, text)
    assert str(caught.value).count("site.toml: ") == len(caught.value.problems)
    return [problem.render() for problem in caught.value.problems]


MINIMAL = """
[site]
name = "ams"
[cluster]
name = "demo"
key_file = "cluster.key"
[policy]
authors = []
"""

WHOLE = f"""
[site]
name = "ams"
at = "52.37 -4.9"
state_dir = "var/state"
[cluster]
name = "demo"
key_file = "cluster.key"
[gossip]
listen = "0.0.0.0:0"
seeds = ["10.0.0.2:7946", "edge.Example.com:7946", "[fd00::2]:7946"]
mdns = false
mdns_interfaces = ["127.0.0.1"]
[http]
listen = ["0.0.0.0:8080", "[::]:8080"]
[control]
listen = "[::1]:0"
host_names = ["Console.example.com"]
[policy]
authors = ["{AUTHOR}"]
author_key = "operator.key"
[timing]
swim_interval = "0.5s"
swim_timeout = "100ms"
suspicion = "3s"
row_refresh = "5s"
drain = "0s"
"""


def test_what_a_file_does_not_say_has_a_default(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    assert config.site.state_dir == tmp_path / "ams.state"
    assert config.site.at_e6 is None
    assert config.cluster.keys == KeyRing.of(CLUSTER_KEY)
    assert config.cluster.certificates is None
    assert config.gossip.mdns
    assert config.gossip.listen == ("0.0.0.0", 7946)
    assert config.control.listen == CONTROL_LISTEN
    assert config.timing.engine_config() == Config()
    assert [warning.partition(":")[0] for warning in config.warnings] == ["cluster.ca is not set"]


def test_every_key_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, WHOLE)
    assert config.site.at_e6 == (52_370_000, -4_900_000)
    assert config.site.state_dir == tmp_path / "var/state"
    assert config.gossip.seeds == (("10.0.0.2", 7946), ("edge.example.com", 7946), ("fd00::2", 7946))
    assert config.gossip.mdns_interfaces == ("127.0.0.1",)
    assert config.http.listen == (("0.0.0.0", 8080), ("::", 8080))
    assert config.control.listen == ("::1", 0)
    assert config.control.host_names == ("console.example.com",)
    assert config.policy.authors == (bytes.fromhex(AUTHOR),)
    assert config.policy.author_key == AUTHOR_KEY
    assert config.timing.drain_us == 0
    engine = config.timing.engine_config()
    assert (engine.swim_interval_us, engine.ack_timeout_us) == (500_000, 100_000)
    assert (engine.suspicion_us, engine.row_refresh_us) == (3_000_000, 5_000_000)


def test_no_key_is_ever_shown(tmp_path: Path) -> None:
    told = repr(load(tmp_path, WHOLE))
    assert repr(CLUSTER_KEY) not in told
    assert repr(AUTHOR_KEY) not in told


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
[site]
name = "AMS 1"
at = "52.37, 4.90"
[cluster]
key_file = "missing.key"
[gossip]
listen = 7946
seeds = ["10.0.0.2", "10.0.0.2:7946", "nowhere:0"]
mdns = "yes"
mdns_interface = ["127.0.0.1"]
[http]
listen = "0.0.0.0:8080"
[control]
listen = "0.0.0.0:8180"
[policy]
authors = ["abc"]
[timing]
suspicion = 3
row_refresh = "5 parsecs"
[cache]
size = 64
object_size = "2GiB"
[metrics]
x = 1
""",
    )
    assert found == [
        'site.name = "AMS 1": expected 1 to 32 of a-z, 0-9 and -; for example "ams-1"',
        'site.at = "52.37, 4.90": expected latitude and longitude in degrees, as "52.37 4.90"; no comma between them',
        "cluster.name: is missing: expected 1 to 32 of a-z, 0-9 and -",
        f"cluster.key_file: {tmp_path}/missing.key: no such cluster key file; `edgelattice init` makes one",
        'gossip.listen = 7946: expected address:port with a numeric address, as "127.0.0.1:8080" or "[::1]:8080"',
        f'gossip.seeds[0] = "10.0.0.2": expected {HOST_PORT}; the port is missing',
        f'gossip.seeds[2] = "nowhere:0": expected {HOST_PORT}; a port is 1 to 65535',
        'gossip.mdns = "yes": expected true or false',
        "gossip.mdns_interface: unknown key; did you mean mdns_interfaces?",
        'http.listen = "0.0.0.0:8080": expected an array; write listen = ["0.0.0.0:8080"]',
        f"control.listen: 0.0.0.0:8180 {REMOTE}",
        'policy.authors[0] = "abc": expected an Ed25519 public key: 64 hexadecimal digits; there are 3',
        'cache.size = 64: expected a size from 0B to 1024GiB, as "64MiB"; in quotes and with a unit, as "64MiB"',
        'cache.object_size = "2GiB": expected a size from 1B to 1GiB',
        'timing.suspicion = 3: expected a duration from 50ms to 10m, as "250ms"; in quotes and with a unit, as "3s"',
        'timing.row_refresh = "5 parsecs": expected a duration from 100ms to 10m, as "250ms"; units: us, ms, s, m, h',
        f"metrics: unknown key; known here: {TABLES}",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[site", "not TOML: Expected ']' at the end of a table declaration (at end of document)"),
        ('site = "ams"', "expected a table; write [site] on a line of its own"),
        (MINIMAL.replace("key_file", "insecure = true\nkey_file"), "cluster.insecure: is true, and key_file is set"),
        (MINIMAL.replace('key_file = "cluster.key"', ""), "cluster.key_file: is missing"),
        (MINIMAL.replace("key_file", 'ca = "ca.crt"\nkey_file'), "cluster.certificate: is missing, and ca is set"),
        (MINIMAL + 'author_key = "operator.key"', f'add "{AUTHOR}" there, on every site'),
        (MINIMAL + '[timing]\nswim_timeout = "1s"', "timing.swim_timeout: 1s leaves no time"),
        (MINIMAL + '[timing]\nswim_interval = "1ms"', "expected a duration from 10ms to 1m"),
        (MINIMAL + "[http]\nlisten = []", "http.listen: expected at least one address:port"),
        (MINIMAL + '[http]\nlisten = ["::1:80"]', "an IPv6 address stands in brackets"),
        (MINIMAL + '[http]\nlisten = ["localhost:80"]', '"127.0.0.1:80"?'),
        (MINIMAL + '[http]\nlisten = ["0.0.0.0:80", "0.0.0.0:80"]', "stands there more than once"),
        (MINIMAL + '[http]\ntls_listen = ["[::]:443"]', "tls.certificates: is missing, and http.tls_listen is set"),
        (MINIMAL + '[http]\nlisten = ["[::]:443"]\ntls_listen = ["[::]:443"]', "http.tls_listen: [::]:443 stands"),
        (MINIMAL + '[[upstream.unix]]\npath = "a"', "upstream.unix[0].endpoint: is missing"),
        (MINIMAL + '[[tls.certificates]]\nkey = "a"', "tls.certificates[0].chain: is missing: expected printable text"),
        (MINIMAL + '[[tls.certificates]]\nchian = "a"', "tls.certificates[0].chian: unknown key; did you mean chain?"),
        (MINIMAL + '[upstream]\nkey = "a"', "upstream.certificate: is missing, and key is set; set both or neither"),
        (MINIMAL + '[upstream]\nallow = ["10.0.0.1/8"]', 'upstream.allow[0] = "10.0.0.1/8": expected an address block'),
        (
            MINIMAL + "[control]\nunsigned_signals = false",
            "control.unsigned_signals: without a CA no region can",
        ),
        (
            MINIMAL.replace("key_file", 'ca = "a"\ncertificate = "b"\nkey_file')
            + "[control]\nallow_remote = true\nunsigned_signals = true",
            "control.unsigned_signals: with allow_remote any other machine could speak",
        ),
        (MINIMAL + "[control]\ntls = true", "control.tls: without a CA nobody has a certificate to show"),
        (MINIMAL + '[tls]\ncertificates = "a"', 'tls.certificates = "a": expected an array of tables'),
        (
            MINIMAL + '[http]\nforwarded_by = "Via"',
            'http.forwarded_by = "Via": expected "X-Forwarded-For" or "Forwarded"',
        ),
        (MINIMAL + '[http]\nforwarded_by = "Forwarded"', "http.forwarded_from: is missing, and forwarded_by is set"),
        (MINIMAL + '[http]\nforwarded_from = ["10.0.0.1/8"]', 'http.forwarded_from[0] = "10.0.0.1/8": expected an'),
        (MINIMAL + '[tls]\nmin_version = "1.1"', 'tls.min_version = "1.1": expected "1.2" or "1.3"'),
        (MINIMAL + '[tcp]\nlisten = ["0.0.0.0:25"]\ntls_listen = ["0.0.0.0:25"]', "tcp.tls_listen: 0.0.0.0:25 stands"),
        (MINIMAL.replace('"ams"', '"ams\\u001b[31m"'), "\\x1b[31m"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, text: str, said: str) -> None:
    assert said in "\n".join(problems(tmp_path, text))


def test_a_file_that_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_site_config(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_site_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match=r"not UTF-8 text: byte 4 is 0xff"):
        load_site_config(tmp_path / "binary.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5_000)
    with pytest.raises(ConfigError, match=r"deep\.toml: not"):
        load_site_config(tmp_path / "deep.toml")


def test_what_works_but_should_be_known_is_a_warning(tmp_path: Path) -> None:
    text = MINIMAL.replace('key_file = "cluster.key"', "insecure = true").replace("authors = []", "")
    config = load(tmp_path, text)
    assert config.cluster.keys is None
    assert [warning.partition(":")[0] for warning in config.warnings] == [
        "cluster.insecure",
        "policy.authors is empty, and there is no CA",
    ]


def test_a_remote_control_api_has_to_be_asked_for(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL + '[control]\nlisten = "0.0.0.0:8180"\nallow_remote = true')
    assert config.control.listen == ("0.0.0.0", 8180)
    assert config.control.unsigned_signals, "without a CA nobody can sign"


CERTIFIED = MINIMAL.replace("key_file", 'ca = "ca.crt"\ncertificate = "node.crt"\nkey_file')
OPEN_API = '[control]\nlisten = "0.0.0.0:8180"\nallow_remote = true\n'


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (CERTIFIED, True),
        (CERTIFIED + "[control]\nunsigned_signals = false", False),
        (CERTIFIED + OPEN_API, False),
        (CERTIFIED + '[control]\nlisten = "0.0.0.0:8180"\ntls = true', False),
        (CERTIFIED + '[control]\nlisten = "0.0.0.0:8180"\ntls = true\nunsigned_signals = true', True),
        (CERTIFIED + OPEN_API + "unsigned_signals = false", False),
    ],
)
def test_a_site_may_take_only_signed_signals(tmp_path: Path, text: str, taken: bool) -> None:
    assert load(tmp_path, text).control.unsigned_signals == taken


# --- key files


def test_a_key_is_written_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "some.key"
    write_secret(path, CLUSTER_KEY, "what it is")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret(path, "cluster key") == (CLUSTER_KEY, None)
    with pytest.raises(FileExistsError):
        write_secret(path, AUTHOR_KEY, "another")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.key"
    write_secret(path, CLUSTER_KEY, "what it is")
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match=r"everyone on this machine can read the cluster key; chmod 600 .*some\.key"):
        read_secret(path, "cluster key")
    path.chmod(0o640)
    key, warning = read_secret(path, "cluster key")
    assert key == CLUSTER_KEY
    assert warning is not None
    assert "the group can read" in warning


@pytest.mark.parametrize("content", ["", "00", "zz" * 32, "00" * 33, "# comment only\n", "\0" * 5_000])
def test_a_key_file_with_something_else_in_it_is_never_quoted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "some.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="expected the cluster key: 64 hexadecimal digits") as caught:
        read_secret(path, "cluster key")
    assert not content or content.strip() not in str(caught.value).replace(str(path), "")


# --- readings


@given(st.integers(0, 10**9 - 1))
def test_a_duration_reads_back_from_its_text(duration_us: int) -> None:
    assert duration(0, 10**9)(duration_text(duration_us)) == duration_us


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 65_535))
def test_an_endpoint_reads_back_from_its_text(address: object, port: int) -> None:
    assert listen_endpoint(endpoint_text((str(address), port))) == (str(address), port)


@given(st.one_of(st.text(), st.integers(), st.none(), st.lists(st.integers()), st.floats(), st.datetimes()))
def test_a_reading_refuses_whatever_else_there_is(value: object) -> None:
    for reading in (listen_endpoint, duration(0, 10)):
        with pytest.raises(NotExpected, match=r"a numeric address|a duration from"):
            reading(value)
    assert shown(value).isprintable()
