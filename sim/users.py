"""Users: requests that go through the same `plan` and `decide` as in production, and what became of them.

A user enters at a site, which decides by what *it* knows. What the world is really like decides the outcome: an
endpoint of a region that is DOWN refuses, the next attempt is tried, as the proxy does, and the refused endpoint is
ejected here before the next request is decided.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from operator import add
from pathlib import Path

from lattice.events import Notification, PolicyChanged, RegionChanged, ServedChanged
from lattice.prng import Prng
from lattice.rollouts import Served
from lattice.types import MILLISECOND, SECOND, Level, VersionId
from router.decision.decide import Decision
from sim import inside
from sim.canaries import POLICY, Tries
from sim.host import Host
from sim.routing import HOST, NodeRouter, Programs, policy_blocks, policy_text
from sim.scenario import UserSettings
from sim.stage import Stage
from sim.trace import read_trace

TICK_US = 100 * MILLISECOND


@dataclass(slots=True)
class Felt:
    """What users felt, counted."""

    requests: int = 0
    answered: int = 0
    denied: int = 0
    misrouted: int = 0
    """First sent to a region that was DOWN."""
    nearest: int = 0
    """Answered by the nearest region that was well."""
    extra_us: int = 0
    """Over the nearest region that was well, summed over answered requests."""
    flaps: int = 0
    """How often a site's users were moved to another region."""

    def share(self, count: int) -> float | None:
        return round(count / self.requests, 6) if self.requests else None

    def figures(self) -> dict[str, object]:
        return {
            "requests": self.requests,
            "availability": self.share(self.answered),
            "locality": round(self.nearest / self.answered, 6) if self.answered else None,
            "misrouted": self.misrouted,
            "denied": self.denied,
            "flaps": self.flaps,
            "extra_ms": round(self.extra_us / self.answered / 1_000, 3) if self.answered else None,
        }


class Users:
    """All users of a run."""

    def __init__(self, stage: Stage, settings: UserSettings, until: int) -> None:
        self._stage = stage
        self._settings = settings
        self._until = until
        self.felt = Felt()
        self.by_second: dict[int, list[int]] = {}
        """By second since the start: requests, answered, misrouted."""
        self._programs = Programs()
        places = stage.cluster.network.topology.places
        self._routers = [NodeRouter(host.site, places[host.index]) for host in stage.cluster.hosts]
        self._prng = stage.prng("workload/users")
        self._last: dict[int, str] = {}
        self._regions = list(stage.world.regions.values())
        self._start = stage.cluster.now
        self._trace = read_trace(Path(settings.trace)) if settings.trace else None
        self._taken = 0
        """So many requests of the trace have arrived."""
        self._carry = 0
        self._tries = Tries(stage)
        stage.policy_blocks = lambda version: policy_blocks(policy_text(self._regions, version))
        stage.canary_blocks = lambda number: policy_blocks(
            policy_text(self._regions, stage.published, f", rollout {number}")
        )
        stage.cluster.listeners.append(self)
        stage.cluster.scheduler.call(self._start + TICK_US, self._tick)

    def heard(self, host: Host, notification: Notification) -> None:
        router = self._routers[host.index]
        if isinstance(notification, RegionChanged):
            router.stale = True
        elif isinstance(notification, PolicyChanged | ServedChanged) and notification.policy == POLICY:
            self._decide_by(host, self._tries.serve(host))
        elif isinstance(notification, PolicyChanged):
            served = next(p for p in host.engine.policy.policies() if p.policy == notification.policy)
            self._put_into_force(host, served.version, "".join(served.blocks))

    def _decide_by(self, host: Host, served: Served | None) -> None:
        text = None if served is None else host.engine.policy.text_of(served.version)
        if served is not None and text is not None:
            self._put_into_force(host, served.version, text)

    def _put_into_force(self, host: Host, version: VersionId, text: str) -> None:
        router, program = self._routers[host.index], self._programs.of(version, text)
        if program is not None:  # a version that does not compile is not put into force
            router.program, router.stale = program, True
            self._stage.deciding[host.index] = version

    def _ended(self, host: Host, decision: Decision, ending: str) -> None:
        """Before the next request is decided, a version that proves bad is out of force."""
        if not self._stage.rollouts:
            return
        self._tries.ended(host, decision.route, ending, decision.status)
        served = self._tries.serve(host)
        if served is not None and served.version != self._stage.deciding.get(host.index):
            self._decide_by(host, served)

    def merge(self) -> None:
        """Have every process know what users felt at each one's hosts."""
        said = self._stage.cluster.company.gather((self.felt, self.by_second))
        self.felt = Felt(*(sum(values) for values in zip(*(astuple(felt) for felt, _ in said), strict=True)))
        merged: dict[int, list[int]] = {}
        for _, by_second in said:
            for second, counts in by_second.items():
                merged[second] = list(map(add, merged.get(second, (0, 0, 0)), counts))
        self.by_second = merged

    def _tick(self) -> None:
        now = self._stage.cluster.now
        if self._trace is not None:
            so_far_us = (now - self._start) * self._settings.speed_ppm // 1_000_000
            while self._taken < len(self._trace) and self._trace[self._taken][0] <= so_far_us:
                self._arrive(self._trace[self._taken][1])
                self._taken += 1
        else:
            self._carry += self._settings.rate * TICK_US
            for _ in range(self._carry // SECOND):
                self._arrive(f"203.0.{self._prng.below(256)}.{self._prng.below(256)}")
            self._carry %= SECOND
        if now + TICK_US <= self._until:
            self._stage.cluster.scheduler.call(now + TICK_US, self._tick)

    def _arrive(self, client: str) -> None:
        hosts = self._stage.cluster.hosts
        prng = Prng.seeded(client) if self._trace is not None else self._prng
        for _ in range(8):  # users of a site that is not there are led to another, as anycast and DNS do
            host = hosts[prng.below(len(hosts))]
            if host.alive and not host.paused:
                if host.here:
                    self._serve(host, client)
                return

    def _serve(self, host: Host, client: str) -> None:
        stage, felt, router = self._stage, self.felt, self._routers[host.index]
        now = stage.cluster.now
        if router.program is None:
            return  # nothing was ever published here: not this policy's user
        if router.stale:
            router.replan({region: inside.effective_of(host.engine, region) for region in stage.world.regions})
        clock = host.read_clock(now)
        decision = router.decide(client, clock)
        assert decision is not None, f"there is a policy for {HOST}"
        for see in stage.routed:
            see(host, decision)
        counts = self.by_second.setdefault((now - self._start) // SECOND, [0, 0, 0])
        felt.requests += 1
        counts[0] += 1
        if decision.region is None:
            felt.denied += 1
            self._ended(host, decision, "denied")
            return
        spent_us = 0
        for position, attempt in enumerate(decision.attempts):
            region = stage.world.regions[attempt.region]
            router.mask.admit(attempt.endpoint, clock)
            spent_us += region.rtt_us[host.index]
            if stage.world.truth[attempt.region] == Level.DOWN:
                router.mask.eject(attempt.endpoint, clock, "refused")
                if position == 0:
                    felt.misrouted += 1
                    counts[2] += 1
                continue
            router.mask.lift(attempt.endpoint)
            fails_ppm = self._tries.fails_ppm(host)
            if fails_ppm and self._prng.below(1_000_000) < fails_ppm:
                self._ended(host, decision, "relayed_5xx")
                break
            self._answered(host, attempt.region, spent_us)
            counts[1] += 1
            self._ended(host, decision, "relayed_2xx")
            break
        else:
            self._ended(host, decision, "failed_502")

    def _answered(self, host: Host, region: str, spent_us: int) -> None:
        felt, world = self.felt, self._stage.world
        felt.answered += 1
        well = [one for one in self._regions if world.truth[one.name] <= Level.DEGRADED]
        best = min((one.rtt_us[host.index] for one in well), default=spent_us)
        felt.extra_us += max(0, spent_us - best)
        if world.regions[region].rtt_us[host.index] <= best:
            felt.nearest += 1
        if self._last.get(host.index, region) != region:
            felt.flaps += 1
        self._last[host.index] = region
