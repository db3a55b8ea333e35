"""Real nodes on real networks: each in a network namespace, on bridges that are cut, narrowed and plugged in.

Needs root and iproute2, and takes a minute: `make extras` runs it. Nothing outside the namespaces is touched, and their
names carry this process's number.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

COMMAND = str(Path(sys.executable).with_name("edgelattice"))
WHY_NOT = (
    "`make extras` runs it"
    if not os.environ.get("EDGELATTICE_NAMESPACES")
    else "needs root"
    if os.geteuid()
    else "needs `ip` and `tc` (iproute2)"
    if not (shutil.which("ip") and shutil.which("tc"))
    else ""
)
pytestmark = [pytest.mark.slow, pytest.mark.extras, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)


class Network:
    """Sites that hear each other over bridges; the bridges stand in a namespace of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._prefix = f"el{os.getpid()}-"
        self._bridges = f"{self._prefix}bridges"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._others: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def made(self, *sites: str) -> Iterator[Network]:
        with ExitStack() as stack:
            for name in (self._bridges, *map(self.namespace, sites)):
                try:
                    ip("netns", "add", name)
                except subprocess.CalledProcessError as error:
                    pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
                stack.callback(ip, "netns", "delete", name)
            stack.callback(self._stop)
            for place, site in enumerate(sites):
                joins = ("--join", str(self._directory / sites[0])) if place else ()
                self.run("init", "--site", site, "--dir", str(self._directory / site), *joins)
                ip("-n", self.namespace(site), "link", "set", "lo", "up")
            yield self

    def _stop(self) -> None:
        for other in self._others:
            other.kill()
            other.communicate()
        for node in self._nodes.values():
            node.terminate()
        for node in self._nodes.values():
            node.wait(timeout=30)

    def namespace(self, site: str) -> str:
        return f"{self._prefix}{site}"

    def lan(self, name: str) -> None:
        ip("-n", self._bridges, "link", "add", name, "type", "bridge")
        ip("-n", self._bridges, "link", "set", name, "up")

    def plug(self, site: str, lan: str, address: str | None = None) -> None:
        """Give a site an interface on a network; with no address it has the link-local one that the kernel gives it."""
        inside, outside = f"to-{lan}", f"{lan}-{site}"
        peer = ("type", "veth", "peer", "name", outside, "netns", self._bridges)
        ip("-n", self.namespace(site), "link", "add", inside, *peer)
        ip("-n", self._bridges, "link", "set", outside, "master", lan, "up")
        if address is not None:
            ip("-n", self.namespace(site), "address", "add", f"{address}/24", "dev", inside)
        ip("-n", self.namespace(site), "link", "set", inside, "up")

    def unplug(self, site: str, lan: str) -> None:
        ip("-n", self.namespace(site), "link", "delete", f"to-{lan}")

    def renumber(self, site: str, lan: str, old: str, new: str) -> None:
        """As when a lease ends."""
        ip("-n", self.namespace(site), "address", "delete", f"{old}/24", "dev", f"to-{lan}")
        ip("-n", self.namespace(site), "address", "add", f"{new}/24", "dev", f"to-{lan}")

    def pull(self, site: str, lan: str) -> None:
        """The cable at the other end: the site does not notice."""
        ip("-n", self._bridges, "link", "set", f"{lan}-{site}", "down")

    def inside(self, site: str, *words: str) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(["ip", "netns", "exec", self.namespace(site), *words], stdout=subprocess.PIPE)
        self._others.append(started)
        return started

    def narrow(self, site: str, lan: str, rate: str) -> None:
        """Both ways, with room for 400 ms."""
        for namespace, device in ((self.namespace(site), f"to-{lan}"), (self._bridges, f"{lan}-{site}")):
            shape = ["root", "tbf", "rate", rate, "burst", "2kb", "latency", "400ms"]
            found = subprocess.run(
                ["ip", "netns", "exec", namespace, "tc", "qdisc", "add", "dev", device, *shape],
                capture_output=True,
                text=True,
            )
            if found.returncode:
                pytest.skip(f"no token bucket in this kernel: {found.stderr.strip()}")

    def choke(self, site: str, lan: str, packet_bytes: int) -> None:
        """What is larger is dropped on the way, and nobody is told: a tunnel whose ICMP is filtered."""
        ip("-n", self._bridges, "link", "set", f"{lan}-{site}", "mtu", str(packet_bytes))

    def blackhole(self, site: str, address: str) -> None:
        ip("-n", self.namespace(site), "route", "add", "blackhole", f"{address}/32")

    def start(self, site: str) -> None:
        with (self._directory / f"{site}.log").open("wb") as log:
            inside = ["ip", "netns", "exec", self.namespace(site), COMMAND]
            self._nodes[site] = subprocess.Popen(
                [*inside, "run", str(self._directory / site / "site.toml")], stdout=log, stderr=subprocess.STDOUT
            )

    def run(self, *words: str, at: str = "") -> str:
        inside = ["ip", "netns", "exec", self.namespace(at)] if at else []
        done = subprocess.run([*inside, COMMAND, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def view(self, site: str) -> dict[str, Any]:
        view: dict[str, Any] = json.loads(self.run("status", "--json", at=site))
        return view

    def states(self, site: str) -> dict[str, str]:
        """What a site says of each; nothing before it answers."""
        try:
            return {member["site"]: member["state"] for member in self.view(site)["members"]}
        except AssertionError:
            assert self._nodes[site].poll() is None, (self._directory / f"{site}.log").read_text()
            return {}

    def brought_together(self, sites: Sequence[str]) -> dict[str, str]:
        """All on one network, found by mDNS alone; what each then says of all."""
        self.lan("lan")
        for host, site in enumerate(sites, 1):
            self.plug(site, "lan", f"10.77.0.{host}")
            self.start(site)
        everybody = dict.fromkeys(sites, "alive")
        self.until(lambda: all(self.states(site) == everybody for site in sites), 60, "mDNS brings all together")
        return everybody

    def until(self, holds: Callable[[], bool], within_s: float, what: str) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
            time.sleep(0.5)


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(tmp_path)


def large_policy() -> str:
    """60 kB: seven and a half seconds of 64 kbit/s at least."""
    zones = [
        f"zone z{number} {{ at 1 1 {' '.join(f'10.{number}.{block}.0/24' for block in range(20))} }}"
        for number in range(200)
    ]
    regions = [f"region r{number} {{ at {number} {number} endpoint 192.0.2.{number + 1}:80 }}" for number in range(4)]
    return "\n".join(["edition 1", *regions, *zones, 'route a for "*" { primary nearest secondary any }', ""])


def test_a_narrow_link_a_missing_route_and_a_tunnel_part_nobody(network: Network, tmp_path: Path) -> None:
    sites = ("ams", "fra", "gru", "iad", "sin")
    with network.made(*sites):
        everybody = network.brought_together(sites)

        network.choke("iad", "lan", 1_280)
        network.narrow("sin", "lan", "64kbit")
        network.blackhole("ams", "10.77.0.3")
        network.blackhole("gru", "10.77.0.1")
        policy = tmp_path / "large.policy"
        policy.write_text(large_policy())
        network.run("policy", "publish", str(policy), "--key", str(tmp_path / "ams/operator.key"), at="ams")
        (version,) = [each["version"] for each in network.view("ams")["policies"]]

        def versions(site: str) -> list[str]:
            return [each["version"] for each in network.view(site)["policies"]]

        network.until(lambda: all(versions(site) == [version] for site in sites), 150, "the policy is everywhere")
        for site in sites:
            view = network.view(site)
            assert view["counters"]["bytes out"] < 3_000_000, f"{site} floods"
            assert not [name for name in view["counters"] if "inbox full" in name]
        # Whose pings are lost on a full link may hold somebody as down for a moment; nobody stays so.
        network.until(lambda: all(network.states(site) == everybody for site in sites), 60, "and all are there")


REGION = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", 65_536
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(sys.argv[1].encode())
        self.wfile.flush()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 80), Answer).serve_forever()
"""
USERS = """
import http.client, json, threading, time
told, end = [], time.time() + 9
def user():
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
    while (began := time.time()) < end:
        connection.request("GET", "/", headers={"Host": "h"})
        answer = connection.getresponse()
        told.append((answer.status, answer.read().decode(), round(1e3 * (time.time() - began))))
        time.sleep(max(0, 0.02 - (time.time() - began)))
users = [threading.Thread(target=user) for _ in range(8)]
[each.start() for each in users]
[each.join() for each in users]
print(json.dumps(told))
"""


def test_a_region_whose_network_is_cut_keeps_nobody_waiting(network: Network, tmp_path: Path) -> None:
    """Nothing is refused and nothing comes back: what was in flight is asked elsewhere, and so is who would connect."""
    with network.made("ams", "fra", "gru"):
        network.lan("lan")
        for host, site in enumerate(("ams", "fra", "gru"), 1):
            network.plug(site, "lan", f"10.77.0.{host}")
        for region in ("fra", "gru"):
            network.inside(region, sys.executable, "-c", REGION, region)
        network.start("ams")
        network.until(lambda: network.states("ams") == {"ams": "alive"}, 60, "the node answers")
        policy = tmp_path / "two.policy"
        policy.write_text(
            "edition 1\nregion fra { at 50 8 endpoint 10.77.0.2:80 }\nregion gru { at -23 -46 endpoint 10.77.0.3:80 }\n"
            'route a for "*" { primary fra secondary gru }\n'
        )
        network.run("policy", "publish", str(policy), "--key", str(tmp_path / "ams/operator.key"), at="ams")

        def well() -> bool:
            return [each["effective"] for each in network.view("ams")["regions"]] == ["HEALTHY", "HEALTHY"]

        network.until(well, 30, "both regions are well")
        users = network.inside("ams", sys.executable, "-c", USERS)
        time.sleep(4)
        network.pull("fra", "lan")
        told = json.loads(users.communicate(timeout=60)[0])
        assert {status for status, _, _ in told} == {200}
        assert [region for _, region, _ in told[:8]] == ["fra"] * 8
        assert [region for _, region, _ in told[-8:]] == ["gru"] * 8
        slowest = max(took_ms for _, _, took_ms in told)
        assert slowest < 1_500, "a connect would have waited for 2 s"


def test_sites_whose_addresses_change_are_the_same_sites(network: Network) -> None:
    """One gets the address that the other has just left, and so hears itself where it believes the other to be."""
    sites = ("ams", "fra", "gru", "iad")
    with network.made(*sites):
        everybody = network.brought_together(sites)
        network.renumber("fra", "lan", "10.77.0.2", "10.77.0.22")
        network.renumber("iad", "lan", "10.77.0.4", "10.77.0.2")

        def moved(site: str) -> bool:
            members = {member["site"]: (member["state"], member["address"]) for member in network.view(site)["members"]}
            return (members["fra"], members["iad"]) == (("alive", "10.77.0.22:7946"), ("alive", "10.77.0.2:7946"))

        network.until(lambda: all(map(moved, sites)), 60, "all know where they are, they themselves too")
        time.sleep(5)
        for site in sites:
            assert network.states(site) == everybody
            assert not [event for event in network.view(site)["events"] if "as well" in event["text"]], "no second one"


def test_a_network_that_is_plugged_in_later_is_found_without_a_word(network: Network) -> None:
    with network.made("ams", "fra", "gru"):
        network.lan("old")
        network.lan("new")
        network.plug("ams", "old", "10.77.0.1")
        network.plug("fra", "old", "10.77.0.2")
        network.plug("gru", "new", "10.78.0.3")
        for site in ("ams", "fra", "gru"):
            network.start(site)
        both = {"ams": "alive", "fra": "alive"}
        network.until(lambda: network.states("ams") == network.states("fra") == both, 60, "the old network is one")
        assert network.states("gru") in ({}, {"gru": "alive"})

        def meets() -> bool:
            return network.states("ams").get("gru") == network.states("gru").get("ams") == "alive"

        network.plug("ams", "new", "10.78.0.1")
        network.until(meets, 60, "the new interface is seen, and who is behind it")
        network.unplug("ams", "new")
        network.until(lambda: network.states("ams").get("gru") == "down", 60, "what is unplugged is down")
        network.plug("ams", "new", "10.78.0.1")
        network.until(meets, 90, "and is called again when it is back")
        # Two that hear each other on two networks speak from two addresses in turn, and are no two.
        network.plug("fra", "new", "10.78.0.2")
        network.until(lambda: network.states("gru").get("fra") == "alive", 60, "all hear all")
        time.sleep(12)
        for site in ("ams", "fra", "gru"):
            assert not [event for event in network.view(site)["events"] if "as well" in event["text"]], "no second one"
        # And when one of the two is cut, each is called on the other, before anybody calls it down.
        network.pull("fra", "old")
        began_ms = time.time() * 1e3

        def called_on_the_new() -> bool:
            members = {site: network.view(site)["members"] for site in ("ams", "fra")}
            at = {(site, each["site"]): each["address"] for site, them in members.items() for each in them}
            return (at["ams", "fra"], at["fra", "ams"]) == ("10.78.0.2:7946", "10.78.0.1:7946")

        network.until(called_on_the_new, 15, "the other address is tried")
        time.sleep(10)
        for site in ("ams", "fra", "gru"):
            said = [event for event in network.view(site)["events"] if event["at_ms"] > began_ms]
            assert not [event for event in said if event["text"].endswith(" down")]


def test_a_network_with_link_local_addresses_alone_serves(network: Network, tmp_path: Path) -> None:
    sites = ("ams", "fra", "gru")
    with network.made(*sites):
        network.lan("lan")
        for site in sites:
            network.plug(site, "lan")
            config = tmp_path / site / "site.toml"
            config.write_text(config.read_text().replace("0.0.0.0:7946", "[::]:7946"))
            network.start(site)
        everybody = dict.fromkeys(sites, "alive")
        network.until(lambda: all(network.states(site) == everybody for site in sites), 60, "mDNS brings all together")
        policy = tmp_path / "large.policy"
        policy.write_text(large_policy())
        network.run("policy", "publish", str(policy), "--key", str(tmp_path / "ams/operator.key"), at="ams")
        network.until(lambda: all(network.view(site)["policies"] for site in sites), 60, "what goes by streams, too")
        network.pull("gru", "lan")
        network.until(lambda: network.states("ams").get("gru") == "down", 60, "who is cut off is down")
