"""Plays a scenario with real processes: starts them, publishes the policy, kills and revives, and records it all.

Whatever ends the run (its time, a signal, an error here, a process that dies), every process is stopped before `play`
returns. The figures come from the recording; nothing here judges.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from lattice.identity import public_key_of
from lattice.types import SECOND, Endpoint
from router.compiling import load_grammar
from router.control.body import DEFAULT_POLICY, ViewBody
from router.control.client import ControlClient, ControlError
from router.control.publish import publish
from router.demo.figures import Answer, Death, Recording, SiteEvent
from router.demo.load import LoadMessage, Plan, Target
from router.demo.processes import Child, ChildError
from router.demo.scenario import HOST, Kill, Region, Scenario, Site, policy_text, ranking, site_toml
from router.demo.screen import Board, Show
from router.policy.errors import PolicyError
from router.site.key_file import write_secret

READY_TIMEOUT_SECONDS = 30.0
"""For a process to say that it listens. It takes one second, on two cores with all of them starting at once a few."""
AGREEMENT_TIMEOUT_SECONDS = 30.0
"""For each step of the start: everybody found, policy in force, regions healthy."""
START_POLL_SECONDS = 0.1
VIEW_TIMEOUT_SECONDS = 5.0
VIEW_POLL_SECONDS = 0.5
"""Views cost the nodes time that users would notice, and events carry their own times: no need to hurry."""
REFRESH_SECONDS = 0.25


class DemoError(Exception):
    """The run cannot go on; the message says what was waited for. Every process has been stopped."""


def epoch_us() -> int:
    """Now, on the clock that all processes of this machine share."""
    return time.time_ns() // 1_000


def endpoint_of(text: str) -> Endpoint:
    """An endpoint as processes print it. Raises ValueError."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


async def play(scenario: Scenario, directory: Path, board: Board, show: Show) -> Recording:
    """The whole run, its files in `directory`. Raises `DemoError` or `ChildError`; no process outlives the call."""
    conductor = _Conductor(scenario, directory, board, show)
    try:
        return await conductor.run()
    except BaseExceptionGroup as group:
        raise _cause(group) from None


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one thing to tell of several that went wrong at once: when a process died, others may have noticed too."""
    leaves = list(_leaves(group))
    told = [leaf for kind in (ChildError, DemoError) for leaf in leaves if isinstance(leaf, kind)]
    unexpected = [leaf for leaf in leaves if not isinstance(leaf, ChildError | DemoError | trio.Cancelled)]
    return unexpected[0] if unexpected else told[0] if told else group


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


class _Conductor:
    def __init__(self, scenario: Scenario, directory: Path, board: Board, show: Show) -> None:
        self._scenario = scenario
        self._directory = directory
        self._board = board
        self._show = show
        self._children: list[Child] = []
        self._region_children: dict[str, Child] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._http: dict[str, Endpoint] = {}
        self._control: dict[str, ControlClient] = {}
        self._author_key = os.urandom(32)
        self._answers: list[Answer] = []
        self._deaths: list[Death] = []
        self._events: dict[str, list[SiteEvent]] = {site.name: [] for site in scenario.sites}
        self._events_seen: set[tuple[str, SiteEvent]] = set()
        self._published_us = 0
        self._version = ""

    async def run(self) -> Recording:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self._prepare()
                nursery.start_soon(self._refresh_screen)
                await self._start()
                await self._run_load()
                await self._look_everywhere()
                self._show.stage("stopping every process")
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop_all()
            nursery.cancel_scope.cancel()
        return Recording(
            ranking=ranking(self._scenario),
            sites=[site.name for site in self._scenario.sites],
            answers=self._answers,
            deaths=self._deaths,
            published_us=self._published_us,
            applied_ms={site.name: self._applied_ms(site) for site in self._scenario.sites},
            events=self._events,
        )

    # --- the files

    def _prepare(self) -> None:
        author = public_key_of(self._author_key).hex()
        write_secret(self._directory / "cluster.key", os.urandom(32), "the demo's cluster key")
        write_secret(self._directory / "author.key", self._author_key, "the demo's policy author")
        (self._directory / "logs").mkdir()
        for site in self._scenario.sites:
            (self._directory / f"{site.name}.toml").write_text(site_toml(site, self._directory, author))

    # --- the processes

    async def _spawn(self, name: str, arguments: list[str]) -> Child:
        # -P: whatever lies in the directory that the demo was called from is not to be imported.
        child = await Child.start(name, [sys.executable, "-P", *arguments], self._directory / "logs" / f"{name}.log")
        self._children.append(child)
        return child

    async def _stop_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for child in self._children:
                nursery.start_soon(child.stop)

    async def _start_region(self, region: Region) -> None:
        """Starts a region's process, on the port that it had if it has had one."""
        port = self._endpoints[region.name][1] if region.name in self._endpoints else 0
        listen = f"{region.host}:{port}"
        arguments = ["-m", "router.demo.backend", "--region", region.name, "--listen", listen, "--until-stdin-closes"]
        child = await self._spawn(region.name, arguments)
        ready = await child.ready(READY_TIMEOUT_SECONDS)
        self._endpoints[region.name] = endpoint_of(ready["listen"])
        self._region_children[region.name] = child
        self._board.alive[region.name] = True
        self._nursery.start_soon(child.ended)

    async def _start_site(self, site: Site) -> None:
        code = "import sys; from router.cli import main; sys.exit(main())"
        config = str(self._directory / f"{site.name}.toml")
        child = await self._spawn(site.name, ["-c", code, "run", config, "--until-stdin-closes"])
        ready = await child.ready(READY_TIMEOUT_SECONDS)
        self._http[site.name] = endpoint_of(ready["http"].partition(",")[0])
        self._control[site.name] = ControlClient(f"http://{ready['control']}", VIEW_TIMEOUT_SECONDS)
        self._nursery.start_soon(child.ended)

    # --- the start, step by step

    async def _start(self) -> None:
        scenario = self._scenario
        self._show.stage(
            f"starting {_count(len(scenario.regions), 'region')} and {_count(len(scenario.sites), 'site')}"
        )
        async with trio.open_nursery() as nursery:
            for region in scenario.regions:
                nursery.start_soon(self._start_region, region)
            for site in scenario.sites:
                nursery.start_soon(self._start_site, site)
        await self._until("the sites find each other by mDNS", self._knows_everybody)

        text = policy_text(scenario, self._endpoints)
        (self._directory / "policy.edge").write_text(text)
        first = scenario.sites[0].name
        await trio.to_thread.run_sync(load_grammar)  # this process checks the policy too: not the cluster's time
        self._published_us = epoch_us()
        try:
            self._version = await trio.to_thread.run_sync(
                self._publish, self._control[first], text, abandon_on_cancel=True
            )
        except (ControlError, PolicyError) as error:
            raise DemoError(f"{first} did not take the policy: {error}") from error
        self._show.event(self._published_us, f"policy {self._version[:8]} published to {first} alone")
        await self._until(f"the policy published to {first} comes into force everywhere", self._has_policy)
        await self._until("every site finds every region healthy", self._finds_all_healthy)

    def _publish(self, client: ControlClient, text: str) -> str:
        """As `edgelattice policy publish` does: signed here, handed to one node. The version. Blocking."""
        now_ms = epoch_us() // 1_000
        return publish(client, self._author_key, DEFAULT_POLICY, text, "the demo's policy", now_ms)[0].version

    async def _until(self, what: str, agrees: Callable[[ViewBody], bool]) -> None:
        """Looks at the sites until each one agrees. Raises `DemoError` when that takes too long."""
        waiting: list[str] = []
        with trio.move_on_after(AGREEMENT_TIMEOUT_SECONDS):
            while True:
                await self._look_everywhere()
                views = self._board.views
                waiting = [
                    site.name for site in self._scenario.sites if site.name not in views or not agrees(views[site.name])
                ]
                total = len(self._scenario.sites)
                self._show.stage(f"{what}: {total - len(waiting)} of {total}")
                if not waiting:
                    return
                await trio.sleep(START_POLL_SECONDS)
        raise DemoError(f"waited {AGREEMENT_TIMEOUT_SECONDS:g} s until {what}; not so at {', '.join(waiting)}")

    def _knows_everybody(self, view: ViewBody) -> bool:
        alive = {member.site for member in view.members if member.state == "alive"}
        return {site.name for site in self._scenario.sites} <= alive | {view.site}

    def _has_policy(self, view: ViewBody) -> bool:
        return any(policy.version == self._version and policy.applied_ms is not None for policy in view.policies)

    def _finds_all_healthy(self, view: ViewBody) -> bool:
        healthy = {body.region for body in view.regions if body.effective == "HEALTHY"}
        return {region.name for region in self._scenario.regions} <= healthy

    def _applied_ms(self, site: Site) -> int | None:
        view = self._board.views.get(site.name)
        policies = () if view is None else view.policies
        return next((policy.applied_ms for policy in policies if policy.version == self._version), None)

    # --- looking

    async def _look_everywhere(self) -> None:
        """Takes every site's view and what is new in them, in order of time."""
        told: list[tuple[SiteEvent, str]] = []
        async with trio.open_nursery() as nursery:
            for site in self._scenario.sites:
                nursery.start_soon(self._look, site, told)
        for event, site_name in sorted(told, key=lambda one: one[0].at_ms):
            self._show.event(event.at_ms * 1_000, f"{site_name}: {event.text}")

    async def _look(self, site: Site, told: list[tuple[SiteEvent, str]]) -> None:
        """One site's view; a site that does not answer now is asked again later."""
        try:
            view = await trio.to_thread.run_sync(self._control[site.name].view, abandon_on_cancel=True)
        except ControlError:
            return
        self._board.views[site.name] = view
        for body in view.events:
            event = msgspec.convert(body, SiteEvent)
            if (site.name, event) not in self._events_seen:
                self._events_seen.add((site.name, event))
                self._events[site.name].append(event)
                told.append((event, site.name))

    async def _keep_looking(self) -> None:
        while True:
            await self._look_everywhere()
            await trio.sleep(VIEW_POLL_SECONDS)

    async def _refresh_screen(self) -> None:
        while True:
            self._show.refresh(epoch_us())
            await trio.sleep(REFRESH_SECONDS)

    # --- the run

    async def _run_load(self) -> None:
        scenario = self._scenario
        targets = [Target(site.zone, *self._http[site.name], site.clients) for site in scenario.sites]
        plan = Plan(tuple(targets), scenario.rate, int(scenario.seconds * scenario.rate), HOST)
        child = await self._spawn("load", ["-m", "router.demo.load"])
        await child.tell(msgspec.json.encode(plan) + b"\n")
        decoder = msgspec.json.Decoder(LoadMessage)
        started_us: int | None = None
        async with trio.open_nursery() as nursery:
            while (line := await child.lines.next()) is not None:
                message = decoder.decode(line)
                if message.started_us is not None:
                    started_us = self._board.started_us = message.started_us
                    self._show.stage(f"{scenario.rate} requests a second, from {_count(len(scenario.sites), 'zone')}")
                    nursery.start_soon(self._keep_looking)
                    for kill in scenario.kills:
                        nursery.start_soon(self._kill_and_revive, kill, started_us)
                self._answers += message.answers
                self._board.answered(message.answers)
                if message.finished:
                    nursery.cancel_scope.cancel()
                    return
            raise ChildError(await child.obituary())

    async def _kill_and_revive(self, kill: Kill, started_us: int) -> None:
        await _sleep_until_us(started_us + kill.at_us)
        index = len(self._deaths)
        self._deaths.append(Death(kill.region, epoch_us()))
        self._region_children[kill.region].kill()
        self._board.alive[kill.region] = False
        self._show.event(self._deaths[index].killed_us, f"{kill.region} killed with SIGKILL")
        await _sleep_until_us(started_us + kill.return_at_us)
        await self._start_region(next(region for region in self._scenario.regions if region.name == kill.region))
        returned_us = epoch_us()
        self._deaths[index] = Death(kill.region, self._deaths[index].killed_us, returned_us)
        self._show.event(returned_us, f"{kill.region} listens again, on the same port")


async def _sleep_until_us(at_us: int) -> None:
    await trio.sleep(max(0, at_us - epoch_us()) / SECOND)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
