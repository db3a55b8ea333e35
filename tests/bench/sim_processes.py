"""The same story in the simulator and on five real processes: how long until everybody acts on each change.

Five operating-system processes, each a production engine under its trio driver on a loopback UDP socket, with real
Ed25519 and AES-GCM. Loopback has no distance, so each process holds back what it sends by the one-way delay that the
simulator gives the same pair of sites. The changes, and which site sees them when, are those of the simulated run.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from lattice.authoring import compose
from lattice.config import Config
from lattice.driver import Driver
from lattice.engine import Engine
from lattice.events import (
    HealthObserved,
    LocalUpdate,
    MemberChanged,
    Notification,
    OpsSubmitted,
    PeerDiscovered,
    PolicyChanged,
    RegionChanged,
)
from lattice.health import Observation
from lattice.identity import Ed25519Signer, Ed25519Verifier, author_id_of
from lattice.key_ring import KeyRing
from lattice.prng import Prng
from lattice.seal import Sealed
from lattice.transport import Clock, Transport, bind
from lattice.types import SECOND, Endpoint, Level
from sim.experiment import Experiment
from sim.host import Host
from sim.scenario import from_table
from sim.scheduler import EPOCH, Scheduler

CLUSTER = "bench"
NODES = 5
FIRST_S = 3
EVERY_S = 1.5
Told = tuple[float, int, str, str]
"""(seconds since the start, node, "region" or "policy", what)."""


def scenario(changes: int) -> dict[str, object]:
    """Publishes at node 0 in turn with a region that dies and comes back, evenly spaced."""
    rows: list[dict[str, object]] = []
    for number in range(changes):
        row: dict[str, object] = {"at": f"{int((FIRST_S + EVERY_S * number) * 1_000)}ms"}
        if number % 2:
            row |= {"do": "health", "region": "ashburn", "level": "down" if number % 4 == 1 else "healthy"}
        else:
            row |= {"do": "publish", "nodes": "node 0"}
        rows.append(row)
    seconds = int(FIRST_S + EVERY_S * changes) + 2
    return {
        "purpose": "the same story as on real processes",
        "duration": f"{seconds}s",
        "settle": "10s",
        "topology": {"nodes": NODES},
        "link": {"jitter": "0ms", "jitter_share": "0%"},
        "regions": {"count": 1, "watchers": "all", "probe": "200ms"},
        "timeline": rows,
    }


class Script:
    """What the simulation told each node's engine, and when: the story to be told again."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.lines: list[tuple[int, int, str, object]] = []

    def stepped(self, host: Host, event: object, effects: object) -> None:
        if not isinstance(event, LocalUpdate):
            return
        at = self._scheduler.now - EPOCH
        match event.change:
            case HealthObserved(observations):
                self.lines.append((at, host.index, "observe", [(one.region, int(one.level)) for one in observations]))
            case OpsSubmitted():
                self.lines.append((at, host.index, "publish", len(self.lines)))


@dataclass(frozen=True, slots=True)
class Story:
    """One telling: each change's delays at every node, in seconds."""

    delays: list[float]
    missing: int

    @property
    def p50(self) -> float:
        return statistics.median(self.delays)


def simulated(changes: int, seed: str) -> tuple[Story, Script, list[list[int]], list[tuple[str, str]]]:
    """The story in the simulator; with its script, the delays between the sites in microseconds, and who they are."""
    experiment = Experiment(from_table("processes", scenario(changes)), seed)
    script = Script(experiment.cluster.scheduler)
    experiment.cluster.watchers[LocalUpdate].append(script.stepped)
    result = experiment.run()
    assert result.verdict == "held", result.violations
    topology = experiment.cluster.network.topology
    delays_us = [[topology.delay_us(a, b) if a != b else 0 for b in range(NODES)] for a in range(NODES)]
    delays = [delay / SECOND for _, found, _ in result.curves for delay in found]
    places = [(place.name, place.area) for place in topology.places]
    return Story(delays, NODES * changes - len(delays)), script, delays_us, places


def on_processes(script: Script, delays_us: list[list[int]], places: list[tuple[str, str]], changes: int) -> Story:
    """The same on real processes."""
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.sim_processes", str(index), *places[index]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(NODES)
    ]
    try:
        ports = [int(_line(child)) for child in children]
        begin = time.monotonic() + 8.0  # until then they find each other
        for index, child in enumerate(children):
            lines = [line for line in script.lines if line[1] == index]
            order = {"ports": ports, "delays_us": delays_us, "begin": begin, "lines": lines, "changes": changes}
            assert child.stdin is not None
            child.stdin.write(json.dumps(order) + "\n")
            child.stdin.flush()
        told: list[Told] = [tuple(one) for child in children for one in json.loads(_line(child))]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    return _matched(sorted(told), changes)


def _line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, "a node's process ended early; its words are above"
    return line


def _matched(told: Sequence[Told], changes: int) -> Story:
    """Each change with the first word of every node that follows it and fits it."""
    delays: list[float] = []
    for number in range(changes):
        at = FIRST_S + EVERY_S * number
        kind = "region" if number % 2 else "policy"
        wanted = {1: "DOWN", 3: "HEALTHY"}.get(number % 4, "")
        for node in range(NODES):
            after = (
                when - at
                for when, who, what, text in told
                if who == node and what == kind and at <= when < at + EVERY_S and text.endswith(wanted)
            )
            first = next(after, None)
            if first is not None:
                delays.append(first)
    return Story(delays, NODES * changes - len(delays))


# --- one process


class Distant:
    """A UDP socket to far away: what is sent waits for the one-way delay to its target, then goes."""

    def __init__(self, udp: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        self._udp = udp
        self._nursery = nursery
        self.delays_s: dict[Endpoint, float] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._udp, name)

    async def sendto(self, data: bytes, target: Endpoint) -> int:
        self._nursery.start_soon(self._later, data, target, self.delays_s.get(target, 0.0))
        return len(data)

    async def _later(self, data: bytes, target: Endpoint, delay_s: float) -> None:
        await trio.sleep(delay_s)
        await self._udp.sendto(data, target)


async def node(index: int, site: str, area: str) -> None:
    """Be one node: say the port, read the order, play the script, say what was announced when."""
    operator = Ed25519Signer(bytes([99]) * 32, CLUSTER)
    bound = await bind("127.0.0.1", 0)
    clock = Clock()
    told: list[Told] = []
    begin = 0.0

    def heard(notification: Notification) -> None:
        since = time.monotonic() - begin
        if isinstance(notification, RegionChanged):
            told.append((since, index, "region", f"{notification.region} {notification.new.name}"))
        elif isinstance(notification, PolicyChanged):
            told.append((since, index, "policy", notification.version.hex()))
        elif isinstance(notification, MemberChanged):
            told.append((since, index, "member", f"{notification.site} {notification.state}"))

    config = Config()
    engine = Engine(
        config=config,
        site=site,
        area=area,
        endpoint=bound.endpoint,
        signer=Ed25519Signer(bytes([index + 1]) * 32, CLUSTER),
        verifier=Ed25519Verifier(CLUSTER),
        seal=Sealed(CLUSTER, KeyRing.of(bytes(range(32)))),
        authors=[author_id_of(operator.public_key)],
        prng=Prng.seeded(f"process {index}"),
        now=clock.now(),
    )
    async with trio.open_nursery() as nursery:
        udp = Distant(bound.udp, nursery)
        driver = Driver(engine, Transport(udp, bound.tcp), None, clock, heard, config.frame_bytes_max)  # type: ignore[arg-type]  # the socket, at a distance
        await nursery.start(driver.run)
        sys.stdout.write(f"{bound.endpoint[1]}\n")
        sys.stdout.flush()
        order = json.loads(await trio.to_thread.run_sync(sys.stdin.readline))
        begin = order["begin"]
        ends = [("127.0.0.1", port) for port in order["ports"]]
        udp.delays_s = {end: order["delays_us"][index][there] / SECOND for there, end in enumerate(ends)}
        for end in ends[:index]:
            await driver.submit(PeerDiscovered(end))
        since_ms = clock.now() // 1_000
        healthy = Observation("ashburn", Level.HEALTHY, 20_000, 0, 0, since_ms, 20)
        await driver.submit(HealthObserved((healthy,)))
        for at, _, what, given in order["lines"]:
            await trio.sleep(max(0.0, begin + at / SECOND - time.monotonic()))
            if what == "observe":
                now_ms = clock.now() // 1_000
                seen = tuple(Observation(name, Level(level), 20_000, 0, 0, now_ms, 20) for name, level in given)
                await driver.submit(HealthObserved(seen))
            else:
                author, store = author_id_of(operator.public_key), driver.policy
                heads = store.heads("default")
                publication = compose(
                    operator,
                    store.chain(author),
                    "default",
                    [f"# {given}\n{'#' * 200}\n"],
                    message="",
                    now_ms=clock.now() // 1_000,
                    parent=heads[-1].version if heads else None,
                    supersedes=store.context("default"),
                    blocks_known=store.blocks_known(author),
                )
                await driver.submit(OpsSubmitted(tuple(op.data for op in publication.ops)))
        await trio.sleep(max(0.0, begin + FIRST_S + EVERY_S * order["changes"] + 1.0 - time.monotonic()))
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        await trio.sleep(60)  # the parent ends us


if __name__ == "__main__":
    trio.run(node, int(sys.argv[1]), sys.argv[2], sys.argv[3])
