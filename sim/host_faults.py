"""What can go wrong on a machine: it dies, stops, crawls, forgets, or has the wrong time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from lattice.events import LeaveRequested
from lattice.prng import Prng
from lattice.types import SECOND
from sim.converged import meet
from sim.host import ClockFault, Host
from sim.quantities import Section, any_duration, choice, number, some_duration
from sim.stage import Selector, Stage, selector

DISKS = ("intact", "empty", "torn")


def damage(stage: Stage, host: Host, disk: str, prng: Prng) -> None:
    """What a crash did to the disk: nothing, everything, or one record half written and one lost."""
    if disk != "intact":
        host.disk_whole, host.ever_damaged = False, True
    if disk == "empty":
        host.disk.clear()
    elif disk == "torn" and (keys := stage.cluster.company.of(host, lambda: sorted(host.disk))):
        torn, lost = (keys[prng.below(len(keys))] for _ in range(2))
        if host.here:
            host.disk[torn] = host.disk[torn][: len(host.disk[torn]) // 2]
            host.disk.pop(lost, None)


def boot(stage: Stage, host: Host) -> None:
    """Start a process, by the clock as it is by now, tell it its seeds, and let its prober look."""
    host.clock = stage.clocks.pop(host.index, host.clock)
    stage.cluster.start(host)
    meet(stage.cluster, host, stage.seeds)
    stage.world.tell(stage.cluster, host)


@dataclass(slots=True)
class Crash:
    """Processes die; with an end, they start again on the disk they left."""

    which: Selector
    disk: str = "intact"
    _down: list[Host] = field(default_factory=list)
    _prng: Prng | None = None

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        self._prng = prng
        self._down = [host for host in stage.chosen(self.which, prng) if host.alive]
        for host in self._down:
            stage.cluster.crash(host)
        stage.touch(self._down)
        return f"{len(self._down)} nodes"

    def end(self, stage: Stage) -> None:
        assert self._prng is not None
        for host in self._down:
            damage(stage, host, self.disk, self._prng)
            boot(stage, host)
        stage.release(self._down)
        self._down = []


@dataclass(slots=True)
class CrashLoop:
    """Processes die again and again, shortly after they start."""

    which: Selector
    every_us: int
    disk: str = "intact"
    _hosts: list[Host] = field(default_factory=list)
    _on: bool = False

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        self._hosts = [host for host in stage.chosen(self.which, prng) if host.alive]
        self._on = True
        stage.touch(self._hosts)
        self._turn(stage, prng)
        return f"{len(self._hosts)} nodes"

    def _turn(self, stage: Stage, prng: Prng) -> None:
        if not self._on:
            return
        for host in self._hosts:
            if host.alive:
                stage.cluster.crash(host)
            else:
                damage(stage, host, self.disk, prng)
                boot(stage, host)
        stage.cluster.scheduler.call(stage.cluster.now + self.every_us, lambda: self._turn(stage, prng))

    def end(self, stage: Stage) -> None:
        self._on = False
        for host in self._hosts:
            if not host.alive:
                boot(stage, host)
        stage.release(self._hosts)


@dataclass(slots=True)
class RollingRestart:
    """One node after the other is restarted, each down for a moment."""

    which: Selector
    every_us: int
    down_us: int
    disk: str = "intact"

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        hosts = stage.chosen(self.which, prng)
        for position, host in enumerate(hosts):
            at = stage.cluster.now + position * self.every_us
            one = Crash(Selector("node", names=(str(host.index),)), self.disk)
            stage.cluster.scheduler.call(at, partial(one.begin, stage, prng, at + self.down_us))
            stage.cluster.scheduler.call(at + self.down_us, partial(one.end, stage))
        return f"{len(hosts)} nodes"

    def end(self, stage: Stage) -> None:
        """Each ends by itself."""


@dataclass(slots=True)
class Pause:
    """Processes are stopped and later go on as if nothing had happened."""

    which: Selector
    _hosts: list[Host] = field(default_factory=list)

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        self._hosts = [host for host in stage.chosen(self.which, prng) if host.alive]
        for host in self._hosts:
            stage.cluster.pause(host)
        stage.touch(self._hosts)
        return f"{len(self._hosts)} nodes"

    def end(self, stage: Stage) -> None:
        for host in self._hosts:
            if host.paused:
                stage.cluster.resume(host)
                stage.world.tell(stage.cluster, host)  # its prober goes on too
        stage.release(self._hosts)


@dataclass(slots=True)
class Slow:
    """Machines that take long over every input."""

    which: Selector
    cost_us: int
    _hosts: list[Host] = field(default_factory=list)

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        self._hosts = stage.chosen(self.which, prng)
        for host in self._hosts:
            host.cost_us = self.cost_us
        stage.touch(self._hosts)
        return f"{len(self._hosts)} nodes"

    def end(self, stage: Stage) -> None:
        for host in self._hosts:
            host.cost_us = 0
            stage.cluster.resume(host)
        stage.release(self._hosts)


@dataclass(slots=True)
class WrongClock:
    """Clocks that are off, or run fast or slow. A jump forward shows at once, one back at the next start."""

    which: Selector
    offset_us: int
    drift_ppm: int
    _hosts: list[Host] = field(default_factory=list)

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        self._hosts = stage.chosen(self.which, prng)
        for host in self._hosts:
            self._set(stage, host, ClockFault(self.offset_us, self.drift_ppm, stage.cluster.now))
        return f"{len(self._hosts)} nodes"

    def _set(self, stage: Stage, host: Host, clock: ClockFault) -> None:
        """A running process goes on from what it has read if the new clock is behind that; the next one reads it."""
        now = stage.cluster.now
        stage.clocks.pop(host.index, None)
        behind_us = host.read_clock(now) - clock.read(now)
        if host.alive and behind_us > 0:
            stage.clocks[host.index] = clock
            clock = replace(clock, offset_us=clock.offset_us + behind_us)
        host.clock = clock

    def end(self, stage: Stage) -> None:
        for host in self._hosts:
            self._set(stage, host, ClockFault())


@dataclass(slots=True)
class Leave:
    """Nodes say goodbye and stop."""

    which: Selector

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        hosts = [host for host in stage.chosen(self.which, prng) if host.alive]
        for host in hosts:
            stage.cluster.tell(host, LeaveRequested())
            stage.cluster.crash(host)
        return f"{len(hosts)} nodes"

    def end(self, stage: Stage) -> None:
        """They stay away."""


@dataclass(slots=True)
class Join:
    """Nodes that were not there start, each knowing only the seeds."""

    which: Selector
    over_us: int

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        hosts = [host for host in stage.chosen(self.which, prng) if not host.alive]
        for position, host in enumerate(hosts):
            at = stage.cluster.now + self.over_us * position // max(1, len(hosts))
            stage.cluster.scheduler.call(at, partial(boot, stage, host))
        return f"{len(hosts)} nodes"

    def end(self, stage: Stage) -> None:
        """They stay."""


ONE = Selector("count", 1)


def read_crash(section: Section) -> Crash:
    return Crash(section.take("nodes", selector, ONE), section.take("disk", choice(*DISKS), "intact"))


def read_crash_loop(section: Section) -> CrashLoop:
    every_us = section.take("every", some_duration, 2 * SECOND)
    return CrashLoop(section.take("nodes", selector, ONE), every_us, section.take("disk", choice(*DISKS), "intact"))


def read_rolling_restart(section: Section) -> RollingRestart:
    return RollingRestart(
        section.take("nodes", selector, Selector("all")),
        section.take("every", some_duration, SECOND),
        section.take("down", some_duration, SECOND),
        section.take("disk", choice(*DISKS), "intact"),
    )


def read_pause(section: Section) -> Pause:
    return Pause(section.take("nodes", selector, ONE))


def read_slow(section: Section) -> Slow:
    return Slow(section.take("nodes", selector, ONE), section.take("cost", some_duration, 100_000))


def read_clock(section: Section) -> WrongClock:
    ahead = section.take("ahead", any_duration, 0)
    behind = section.take("behind", any_duration, 0)
    drift = section.take("drift_ppm", number(-500_000, 500_000), 0)
    return WrongClock(section.take("nodes", selector, ONE), ahead - behind, drift)


def read_leave(section: Section) -> Leave:
    return Leave(section.take("nodes", selector, ONE))


def read_join(section: Section) -> Join:
    return Join(section.take("nodes", selector, Selector("late")), section.take("over", any_duration, SECOND))
