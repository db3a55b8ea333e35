"""Rows 36 to 38 of the test matrix, as they are in life: nodes that are processes, their sockets, somebody on the wire.

Three sites with a CA, as `edgelattice init` makes them. What goes on between them is on record (`tapped_node`).
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from lattice import wire
from lattice.canonical import INTEGER_MAX
from lattice.cells import CellKind
from lattice.driver import Driver
from lattice.health import Row
from lattice.identity import Ed25519Signer
from lattice.key_ring import KeyRing
from lattice.membership import MemberState, MemberUpdate
from lattice.seal import Plain, Seal, Sealed, sender_in
from lattice.transport import Clock, bind
from lattice.types import CellId, Endpoint, NodeId
from lattice.view import MemberView
from lattice.wire import (
    Compare,
    Delta,
    Graft,
    Heal,
    Message,
    News,
    Ping,
    Rumour,
    WireCell,
)
from router.cli import main
from router.credentials import Credentials
from router.site.config_reader import endpoint_text
from router.site.site_file import load_site_config
from router.site.state_dir import StateDir
from router.starting import _driver
from tests.router.test_node import exchange

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HOUR_S = 3_600
SAVED_S = 4
"""Longer than a node waits to write down what it has heard (`seal_records`)."""
BATCH = 40
POLICY = 'edition 1\nregion r { at 1 1 endpoint 127.0.0.1:9 }\nroute a for "*" { primary r }\n'
TIMING = """
[timing]
swim_interval = "200ms"
swim_timeout = "80ms"
confirm_delay = "100ms"
metrics_delay = "100ms"
"""


class Site:
    """One node, as a process."""

    def __init__(self, directory: Path, seeds: Sequence[Site]) -> None:
        self.name = directory.name
        self.directory = directory
        self.file = directory / "site.toml"
        self._wire = directory / "wire"
        self._log = directory / "log"
        self.ahead_s = 0
        joins = ("--join", str(seeds[0].directory)) if seeds else ()
        assert main(["init", "--site", self.name, "--dir", str(directory), *joins]) == 0
        self._listen("127.0.0.1:0", [endpoint_text(seed.gossip) for seed in seeds])
        self.start()

    def _listen(self, gossip: str, seeds: list[str]) -> None:
        head, _, policy = self.file.read_text().partition("[gossip]")
        policy = policy[policy.index("[policy]") :]
        listen = f'[gossip]\nlisten = "{gossip}"\nmdns = false\nseeds = {json.dumps(seeds)}\n'
        listen += '[http]\nlisten = ["127.0.0.1:0"]\n[control]\nlisten = "127.0.0.1:0"\n'
        self.file.write_text(head + listen + policy + TIMING)

    def start(self) -> None:
        with self._log.open("ab") as log:
            words = ["-m", "tests.router.tapped_node", str(self._wire), str(self.ahead_s), str(self.file)]
            self.process = subprocess.Popen(
                [sys.executable, *words], stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
            )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.startswith("ready"), self._log.read_text()
        at = dict(word.split("=") for word in said.split()[1:])
        self.gossip, self.control = (self._endpoint(at[name]) for name in ("gossip", "control"))

    @staticmethod
    def _endpoint(said: str) -> Endpoint:
        host, _, port = said.rpartition(":")
        return host, int(port)

    def stay(self) -> None:
        """The next life listens where this one does."""
        self.file.write_text(self.file.read_text().replace('"127.0.0.1:0"', f'"{endpoint_text(self.gossip)}"', 1))

    def an_hour_passes(self) -> None:
        self.ahead_s += HOUR_S
        self.process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    @contextmanager
    def kept_back(self) -> Iterator[None]:
        """What it sends does not arrive, and is on record."""
        self.process.send_signal(signal.SIGUSR2)
        yield
        self.process.send_signal(signal.SIGUSR2)

    def sent(self, *targets: Endpoint) -> list[bytes]:
        """All datagrams that it has sent there, in all of its lives."""
        lines = [line.split() for line in self._wire.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [bytes.fromhex(data) for host, port, data in lines if (host, int(port)) in targets]

    async def view(self) -> Any:
        head = "GET /v1/view HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        status, _, answer = await exchange(self.control, head)
        assert status == 200
        return json.loads(answer)

    async def states(self) -> dict[str, str]:
        return {member["site"]: member["state"] for member in (await self.view())["members"]}

    async def counted(self, prefix: str) -> int:
        counters: dict[str, int] = (await self.view())["counters"]
        return sum(number for name, number in counters.items() if name.startswith(prefix))

    async def standing(self) -> tuple[object, ...]:
        """What somebody on the wire might want to change. Not who is suspected: a machine that stalls for half a second
        has somebody suspected, who takes another incarnation and refutes it."""
        view = await self.view()
        members = [
            [each[key] for key in ("site", "node", "address")] + [each["state"] in ("alive", "suspect")]
            for each in view["members"]
        ]
        return members, [each["version"] for each in view["policies"]], view["revoked"], view["quarantined"]

    async def incarnations(self) -> list[int]:
        """Of the members, in their order."""
        return [each["incarnation"] for each in (await self.view())["members"]]


@asynccontextmanager
async def sites(directory: Path, *names: str) -> AsyncIterator[list[Site]]:
    """So many, that all see all."""
    started: list[Site] = []
    try:
        for name in names:
            started.append(Site(directory / name, started[:1]))
        started[0].stay()
        await all_see_all(started)
        yield started
    finally:
        for site in started:
            site.kill()


async def all_see_all(them: Sequence[Site], *others: Site) -> None:
    """Others are members and no processes."""
    everybody = {site.name: "alive" for site in (*them, *others)}

    async def seen() -> bool:
        return [await site.states() for site in them] == [everybody] * len(them)

    await until(seen)


async def until(done: Callable[[], Any]) -> None:
    with trio.fail_after(30):
        while not await done():  # noqa: ASYNC110  (what is waited for is the state of a process, which no event tells of)
            await trio.sleep(0.05)


async def publish(at: Site, them: Sequence[Site]) -> None:
    file = at.directory / "policy"
    file.write_text(POLICY)
    control = ["--control", f"http://{endpoint_text(at.control)}"]
    words = ["policy", "publish", str(file), "--key", str(at.directory / "operator.key"), *control]
    assert await trio.to_thread.run_sync(main, words) == 0

    async def everywhere() -> bool:
        return all([(await site.view())["policies"] for site in them])

    await until(everywhere)


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """Somebody's socket, who never asked for anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.setblocking(False)
        yield stranger


def heard(by: socket.socket) -> list[bytes]:
    frames = []
    while True:
        try:
            frames.append(by.recv(65_536))
        except BlockingIOError:
            return frames


async def say(by: socket.socket | trio.socket.SocketType, frames: Iterable[bytes], to: Endpoint) -> None:
    """No faster than a node reads."""
    for number, frame in enumerate(frames, 1):
        sent = by.sendto(frame, to)
        if not isinstance(sent, int):
            await sent
        if number % BATCH == 0:
            await trio.sleep(0.02)


# --- row 36


async def test_captured_frames_change_nothing_a_second_an_hour_and_a_restart_later(
    tmp_path: Path, stranger: socket.socket
) -> None:
    async with sites(tmp_path, "ams", "fra", "gru") as them:
        ams, fra, gru = them
        await publish(ams, them)
        await trio.sleep(SAVED_S)
        captured = [*fra.sent(ams.gossip), *gru.sent(ams.gossip)]
        assert kinds_of(ams, captured) >= {"Ping", "Ack", "Rumour"}
        assert len(captured) > 40

        async def nothing_comes_of_it() -> None:
            before, lives = await ams.standing(), await ams.incarnations()
            counted = await ams.counted("datagram rejected: replayed")
            await say(stranger, captured, ams.gossip)

            async def all_refused() -> bool:
                return await ams.counted("datagram rejected: replayed") >= counted + len(captured)

            await until(all_refused)
            assert await ams.counted("datagram rejected: replayed") == counted + len(captured)
            assert await ams.standing() == before
            assert all(now >= then for now, then in zip(await ams.incarnations(), lives, strict=True))
            assert heard(stranger) == []

        await trio.sleep(1)
        await nothing_comes_of_it()
        for site in them:
            site.an_hour_passes()
        await trio.sleep(1)
        await all_see_all(them)
        await nothing_comes_of_it()
        ams.kill()
        ams.start()
        await all_see_all(them)
        await nothing_comes_of_it()


def kinds_of(site: Site, frames: Iterable[bytes]) -> set[str]:
    config = load_site_config(site.file)
    assert config.cluster.keys is not None
    reader = Sealed(config.cluster.name, config.cluster.keys)
    return {type(wire.decode(reader.open(frame)[1], 1 << 16)).__name__ for frame in dict.fromkeys(frames)}


# --- row 37


class Liar:
    """A site's own node, in this process: a member like any other, that can be made to say something else as well."""

    def __init__(self, driver: Driver, signer: Ed25519Signer) -> None:
        self.driver = driver
        self.signer = signer

    @property
    def node(self) -> NodeId:
        return self.driver.view().node

    def member(self, site: str) -> tuple[MemberView, Row]:
        """What it knows of a site."""
        (member,) = [member for member in self.driver.view().members if member.site == site]
        row = self.driver._engine._row_of(member.node)
        assert row is not None
        return member, row

    def frame(self, message: Message) -> bytes:
        return self.driver._engine._seal.close(self.node, wire.encode(message), self.driver._clock.now())

    def signed(self, row: bytes) -> bytes:
        return row + self.signer.sign(b"row", row)

    async def sees(self, count: int) -> bool:
        return [member.state for member in self.driver.view().members] == ["alive"] * count


@asynccontextmanager
async def lying(site: Site, them: Sequence[Site]) -> AsyncIterator[Liar]:
    """This site's process ends, and its node lives on here, known to all."""
    site.kill()
    site.stay()
    config = load_site_config(site.file)
    transport, state, clock = await bind(*site.gossip), StateDir(config.site.state_dir), Clock()
    try:
        credentials = Credentials(config, state.node_key, clock.now)
        driver = _driver(config, state, transport, clock, credentials, lambda _: None, lambda *_: None)
        liar = Liar(driver, Ed25519Signer(state.node_key, config.cluster.name, credentials.grant))
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            await until(partial(liar.sees, len(them) + 1))
            await all_see_all(them, site)
            yield liar
            nursery.cancel_scope.cancel()
    finally:
        transport.close()
        state.close()


def claims(liar: Liar) -> list[Message]:
    """That it is dead, or has left, in the liar's own name and with everybody else as the witness."""
    fra, row = liar.member("fra")
    told = [
        MemberUpdate(fra.node, state, row.incarnation + ahead, by.node, seq)
        for state in (MemberState.SUSPECT, MemberState.DOWN, MemberState.LEFT)
        for by in liar.driver.view().members
        for ahead, seq in ((0, row.seq), (0, INTEGER_MAX), (1, 0), (10**6, 0))
    ]
    return [message for claim in told for message in (News((claim,)), Ping(7, bytes(16), (claim,)))]


def forgeries(liar: Liar) -> list[Message]:
    """Rows by which it is elsewhere, is called otherwise, or sees nothing, signed by the liar or by nobody."""
    _, row = liar.member("fra")
    later = replace(row, seq=row.seq + 5)
    false = (replace(later, site="elsewhere"), replace(later, endpoint=("192.0.2.1", 9)), replace(later, reports=()))
    data = [form for lie in false for form in (liar.signed(lie.payload()), lie.payload() + bytes(64))]
    cells = [(WireCell(CellKind.ROW, row),) for row in data]
    return [
        message
        for cell in cells
        for message in (Rumour(cell), Heal(cell), Delta(bytes(16), cell), Ping(7, bytes(16), (), cell))
    ]


@pytest.mark.parametrize("lies", [claims, forgeries])
async def test_a_member_s_word_about_another_changes_nothing(
    lies: Callable[[Liar], list[Message]], tmp_path: Path
) -> None:
    """Nobody is down or has left, is elsewhere or called otherwise, by one member's word; and people hear of it."""
    async with sites(tmp_path, "ams", "fra", "gru") as them:
        ams, fra, gru = them
        async with lying(gru, [ams, fra]) as liar:
            before, _ = liar.member("fra")
            for _ in range(40):
                await say(liar.driver._transport.udp, [liar.frame(lie) for lie in lies(liar)], ams.gossip)
                await trio.sleep(0.05)
                now = {each["node"]: each for each in (await ams.view())["members"]}[before.node.hex()]
                assert (now["site"], now["address"]) == ("fra", endpoint_text(fra.gossip))
                assert now["state"] in ("alive", "suspect")
            told = [event["text"] for event in (await ams.view())["events"]]
            assert not [text for text in told if text.endswith((" down", " left"))]
            if lies is forgeries:
                (alarm,) = [text for text in told if "is not signed by whom it names (site " in text]
                assert alarm.startswith(f"from {endpoint_text(gru.gossip)} came a row ")
                assert await ams.counted("row rejected: bad row signature") == 40 * len(forgeries(liar))
            else:
                assert await fra.counted("refutations") > 0, "it heard of it, and answered"


# --- row 38

DIVERTED = 1
"""Times as much goes to where a member seems to be as came from there, at most."""


async def test_whoever_has_no_keys_has_nothing_sent_to_the_address_that_it_writes(
    tmp_path: Path, stranger: socket.socket
) -> None:
    """Pings and questions, made up or captured, from the address of somebody who never asked."""
    async with sites(tmp_path, "ams", "fra") as them:
        ams, fra = them
        await publish(ams, them)
        captured = fra.sent(ams.gossip)
        cluster, sender = load_site_config(fra.file).cluster.name, sender_in(captured[-1])
        assert sender is not None
        asked: list[Message] = [Ping(7, bytes(16)), Compare(7, (bytes(4),) * 16), Graft((CellId(bytes(16)),) * 64)]
        seals: tuple[Seal, ...] = (Plain(cluster), Sealed(cluster, KeyRing.of(bytes(32))))
        forged = [seal.close(sender, wire.encode(each), Clock().now()) for seal in seals for each in asked]
        torn = [frame[:-1] for frame in captured] + [frame[:-1] + bytes([frame[-1] ^ 1]) for frame in captured]
        frames = [*captured, *forged, *torn, b"", bytes(1_200)]
        before = await ams.counted("datagram rejected: ")
        await say(stranger, frames, ams.gossip)

        async def all_refused() -> bool:
            return await ams.counted("datagram rejected: ") >= before + len(frames)

        await until(all_refused)
        await trio.sleep(1)
        assert heard(stranger) == []


async def test_frames_that_are_diverted_bring_no_more_than_they_are(tmp_path: Path, stranger: socket.socket) -> None:
    """Somebody on the path keeps what a site sends, and sends it on from where somebody else is: no keys are needed."""
    async with sites(tmp_path, "ams", "fra", "gru") as them:
        ams, fra, _ = them
        done, came, went = len(fra.sent(ams.gossip)), 0, 0
        with fra.kept_back():
            for _ in range(20):
                await trio.sleep(0.05)
                fresh = fra.sent(ams.gossip)[done:]
                await say(stranger, fresh, ams.gossip)
                done, came = done + len(fresh), came + sum(map(len, fresh))
                went += sum(map(len, heard(stranger)))
                assert went <= DIVERTED * came
                assert ("fra", endpoint_text(fra.gossip)) in [
                    (member["site"], member["address"]) for member in (await ams.view())["members"]
                ]
            await trio.sleep(0.2)
            went += sum(map(len, heard(stranger)))
        assert 0 < went <= DIVERTED * came
        await all_see_all(them)
        assert heard(stranger) == []
