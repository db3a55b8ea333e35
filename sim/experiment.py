"""One run: a scenario and a seed in, a result out. Safety all along; then heal, and demand liveness.

1. Build the cluster, start it, and let the timeline and the swarm do their worst; safety checks watch every step.
2. At the end of `duration` everything that still lasts is ended ("healed").
3. Liveness: every promise of `liveness` must come true within `settle`. If not, the result says which did not, and what
   was missing.

Same scenario, same seed: same digest, on every machine. Nothing here reads a clock; whoever wants progress passes a
function in.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from lattice.dissemination import Flood, RandomFanout, Strategy, Tree
from lattice.engine import Engine
from lattice.events import Notification
from lattice.identity import author_id_of
from lattice.types import MILLISECOND, SECOND
from lattice.view import LatticeView
from sim import canaries, inside
from sim.bounds import Bound, Measured, bounds_of
from sim.changes import OPERATOR, publish
from sim.checks import BrokenError, Check, Violation
from sim.cluster import INPUTS, Cluster
from sim.converged import start_cold, start_converged
from sim.envelopes import Seals
from sim.faults import KINDS
from sim.frugality import Quiet
from sim.host import EngineMaker, Host, Maker
from sim.journal import Journal, Lines
from sim.metrics import Metrics, percentile, seconds, summary
from sim.network import Network
from sim.promises import ALWAYS, AT_LAST
from sim.scenario import Scenario, Step
from sim.scheduler import EPOCH
from sim.signing import KeyedSigner
from sim.stage import ScenarioError, Stage
from sim.users import Users
from sim.world import Doubts, World

SLICE_US = 100 * MILLISECOND
LOOK_SMALL = 10
"""Up to so many nodes, the node that stepped is looked at after every step."""
SPREAD_US = SECOND
"""After so long the policy that users brought is everywhere, and idle nodes are idle."""
ACQUAINTED_US = 5 * SECOND
"""After the last node of a cold start has begun, its acquaintance is upkeep: no part of what idle nodes cost."""

LEFT_NODES = 256
"""From so many nodes on an experiment leaves itself to the next one to be freed."""

Progress = Callable[[int, int, int], None]
"""(virtual microseconds done, of how many at most, events)."""


@dataclass(slots=True)
class Result:
    """What came of a run."""

    scenario: Scenario
    seed: str
    verdict: str
    """ "held", "violated" or "unknown"."""
    digest: str
    events: int
    nodes: int
    virtual_us: int
    violations: list[Violation]
    changes: list[dict[str, object]]
    acts: list[tuple[int, int | None, str, str]]
    """(from, to, what, how far) of everything the timeline did, since the start."""
    figures: dict[str, object]
    curves: list[tuple[str, list[int], list[int]]] = field(default_factory=list)
    """(change, delays, floors), sorted, in microseconds."""
    announced: list[tuple[int, int, str, str]] = field(default_factory=list)
    by_second: dict[int, list[int]] = field(default_factory=dict)
    sites: list[tuple[str, str, int, int]] = field(default_factory=list)
    regions: list[tuple[str, int, int, str]] = field(default_factory=list)
    """(name, latitude, longitude, the truth about it at the end)."""
    learned: list[tuple[str, int, dict[int, int]]] = field(default_factory=list)
    """(change, when, by host when it learned)."""
    checks: list[tuple[str, str, str]] = field(default_factory=list)
    """(name, promise, how it came out)."""


@contextmanager
def uncollected(nodes: int) -> Iterator[None]:
    """No search for cycles meanwhile. A run makes hardly any (its memory is the same), and what it holds grows all the
    time, so each search goes through more: a quarter of the time of thousands of nodes.

    The first search afterwards is due at once, and would go through all that was made. Of many nodes that counts as old
    instead, and the next experiment of so many frees it (`LEFT_NODES`).
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            if nodes >= LEFT_NODES:
                gc.freeze()
                gc.unfreeze()
                Experiment.left = True
            gc.enable()


class Looker:
    """Has the checks look at whole nodes, and tells them of what engines notify."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = checks
        self._hearing = [check for check in checks if type(check).heard is not Check.heard]
        self._restarting = [check for check in checks if type(check).restarted is not Check.restarted]
        self._pacing = [check for check in checks if type(check).elapsed is not Check.elapsed]
        looking = [check for check in checks if type(check).looked is not Check.looked]
        self._looking = [check.looked for check in looking]
        self._anyhow = [check.looked for check in looking if not check.of_view]
        self._seen: dict[int, LatticeView] = {}
        """By host, the view that was last looked at."""

    def join(self, cluster: Cluster, every: int) -> None:
        """Have this cluster tell, each check what it asked for; a whole node is looked at every so many steps."""
        for check in self._checks:
            if type(check).stepped is not Check.stepped:
                watchers = cluster.watchers_told if check.when_told else cluster.watchers
                for kind in check.inputs or INPUTS:
                    watchers[kind].append(check.stepped)
            if type(check).kept is not Check.kept:
                cluster.keepers.append(check.kept)
        cluster.look_every(every, self.look)
        cluster.restarts.append(self.restarted)
        cluster.listeners.append(self)

    def look(self, host: Host) -> None:
        """At a whole node; whatever shows only in the view, if it or the root changed since the last time."""
        view = host.engine.view()
        if self._seen.get(host.index) is view and view.root == inside.root_of(host.engine):
            for see in self._anyhow:
                see(host, view, ())
        else:
            self._seen[host.index] = view
            rows = inside.held_rows(host.engine)
            for see in self._looking:
                see(host, view, rows)

    def heard(self, host: Host, notification: Notification) -> None:
        for check in self._hearing:
            check.heard(host, notification)

    def restarted(self, host: Host, before: Engine) -> None:
        for check in self._restarting:
            check.restarted(host, before)

    def elapsed(self) -> None:
        for check in self._pacing:
            check.elapsed()


class Experiment:
    """A run that can be watched while it goes."""

    left: ClassVar = False
    """Whether one of many nodes may wait to be freed."""

    def __init__(
        self,
        scenario: Scenario,
        seed: str = "0",
        *,
        engine_type: EngineMaker = Engine,
        lines: Lines | None = None,
        progress: Progress | None = None,
        strategy: Callable[[], Strategy] | None = None,
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.progress = progress
        if Experiment.left and scenario.topology.nodes >= LEFT_NODES:
            gc.collect()
            Experiment.left = False
        with uncollected(scenario.topology.nodes):
            self._build(engine_type, lines, strategy or _strategy(scenario))

    def _build(self, engine_type: EngineMaker, lines: Lines | None, strategy: Callable[[], Strategy] | None) -> None:
        scenario, name = self.scenario, self.seed
        topology = scenario.build_topology(name)
        maker = Maker(
            config=scenario.config,
            seed=name,
            authors=(author_id_of(KeyedSigner(OPERATOR).public_key),),
            engine_type=engine_type,
            seal=Seals(scenario.seal == "sealed"),
            certified=scenario.certified,
            strategy=strategy,
        )
        network = Network(topology, scenario.link, name)
        self.cluster = Cluster(maker, network, Journal(EPOCH, lines))
        self.world = World(topology, scenario.regions, name)
        count = len(topology)
        self.stage = Stage(self.cluster, self.world, range(count - scenario.topology.late, count))
        self.metrics = Metrics(self.stage)
        self.timeline = scenario.timeline(name)
        off = set(scenario.checks.off)
        if scenario.strategy in {"random", "flood"}:
            off.add(Quiet.name)  # they are here to be compared, not to be frugal
        self.safety: list[Check] = [check(self.stage, EPOCH) for check in ALWAYS if check.name not in off]
        self.liveness: list[Check] = [check(self.stage, EPOCH) for check in AT_LAST if check.name not in off]
        self.every = scenario.checks.every or _every(count)
        looker = self.looker = Looker([*self.safety, *self.liveness])
        self.stage.routed += [check.routed for check in self.safety if type(check).routed is not Check.routed]
        looker.join(self.cluster, self.every)
        self.cluster.listeners.append(Doubts(self.cluster, self.world))
        self.acts: list[list[object]] = []
        self._running: list[tuple[Step, list[object]]] = []
        self.users: Users | None = None
        self.bounds: list[Bound] = []
        """What the scenario asks for itself, once the run has come to its end."""
        self._owed = list(self.liveness)
        """What is to come true in the end, and has not yet."""

    def run(self) -> Result:
        """Run to the end, or to the first broken promise. Raises `ScenarioError`, and OSError of a journal's file."""
        with uncollected(len(self.cluster.hosts)):
            return self._run()

    def _run(self) -> Result:
        cluster = self.cluster
        violations: list[Violation] = []
        verdict = "held"
        try:
            self.begin()
            self.go_on()
        except BrokenError as error:
            violations.append(error.violation)
            verdict = "violated"
        except AssertionError as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            evidence = f"assertion {error} ({where.filename.rpartition('/')[2]}:{where.lineno})"
            violations.append(Violation("no-input-raises", cluster.now - EPOCH, "", evidence))
            verdict = "violated"
        except (ScenarioError, OSError):
            raise  # no engine did that: it knows of no file
        except Exception as error:  # noqa: BLE001  (whatever an engine raises is a broken promise of its contract)
            where = traceback.extract_tb(error.__traceback__)[-1]
            evidence = f"{type(error).__name__}: {error} ({where.filename.rpartition('/')[2]}:{where.lineno})"
            violations.append(Violation("no-input-raises", cluster.now - EPOCH, "", evidence))
            verdict = "violated"
        return self.result(verdict, violations)

    # --- the phases

    def go_on(self) -> None:
        """From the beginning to the end. Raises what the first broken promise or a tired engine raises."""
        self._advance(EPOCH + self.scenario.duration_us)
        self._heal()
        self._settle()
        for check in [*self.safety, *self.liveness]:
            check.finished()
        self._merge()
        self._judge()

    def begin(self) -> None:
        """Make the engines, start the cluster, and schedule the timeline."""
        scenario, cluster, stage = self.scenario, self.cluster, self.stage
        cluster.equip()
        present = [host for host in cluster.hosts if host.index not in stage.late]
        stage.seeds = present[: scenario.topology.seeds]
        if scenario.topology.start == "converged":
            ends = EPOCH + scenario.duration_us + scenario.settle_us
            start_converged(cluster, present, lambda host: self.world.observations(host, cluster.now), ends)
        else:
            start_cold(cluster, present, stage.seeds, scenario.topology.over_us)
            for host in present:
                at = cluster.now + scenario.topology.over_us + MILLISECOND
                cluster.scheduler.call(at, partial(self.world.tell, cluster, host))
        if scenario.users.rate or scenario.users.trace:
            self.users = Users(stage, scenario.users, EPOCH + scenario.duration_us)
            if scenario.topology.start == "converged":
                assert stage.policy_blocks is not None, "users brought a policy"
                publish(stage, present[0], stage.policy_blocks(1))
        first = min((step.at_us for step in self.timeline), default=scenario.duration_us)
        if scenario.topology.start == "converged" and self.users is None:
            self.metrics.begin_idle(cluster.now)
        elif scenario.topology.start == "converged":
            cluster.scheduler.call(EPOCH + min(SPREAD_US, first), lambda: self.metrics.begin_idle(cluster.now))
        elif (acquainted := scenario.topology.over_us + ACQUAINTED_US) < first:
            cluster.scheduler.call(EPOCH + acquainted, lambda: self.metrics.begin_idle(cluster.now))
        cluster.scheduler.call(EPOCH + first, lambda: self.metrics.end_idle(cluster.now))
        for step in self.timeline:
            cluster.scheduler.call(EPOCH + step.at_us, self._starter(step))

    def _starter(self, step: Step) -> Callable[[], None]:
        def begin() -> None:
            cluster, stage = self.cluster, self.stage
            ends = EPOCH + (self.scenario.duration_us if step.lasts_us is None else step.at_us + step.lasts_us)
            ends = min(ends, EPOCH + self.scenario.duration_us)
            cluster.journal.note(cluster.now, f"{step.do} {step.name}")
            said = step.act.begin(stage, stage.prng(f"fault/{step.name}"), ends)
            act: list[object] = [cluster.now - EPOCH, None, step.do, said]
            self.acts.append(act)
            if KINDS[step.do].is_fault:
                self._running.append((step, act))
                if step.lasts_us is not None:
                    cluster.scheduler.call(ends, lambda: self._end(step, act))

        return begin

    def _end(self, step: Step, act: list[object]) -> None:
        if (step, act) in self._running:
            self._running.remove((step, act))
            self.cluster.journal.note(self.cluster.now, f"end of {step.do} {step.name}")
            step.act.end(self.stage)
            act[1] = self.cluster.now - EPOCH

    def _merge(self) -> None:
        """Have every process know what all have counted."""
        if not self.cluster.company.alone:
            self.cluster.merge()
            self.metrics.merge()
            if self.users is not None:
                self.users.merge()

    def _heal(self) -> None:
        for step, act in list(self._running):
            if step.do != "crash" or step.lasts_us is not None:  # a crash without an end is for good
                self._end(step, act)
        self.cluster.journal.note(self.cluster.now, "healed")

    def _settle(self) -> None:
        """Let time pass until every liveness promise is kept, or patience is at an end."""
        patience = self.cluster.now + self.scenario.settle_us
        wait_us = SLICE_US
        while self._owed and self.cluster.now < patience:
            self._owed = [check for check in self._owed if check.pending() is not None]
            if self._owed:
                self._advance(min(self.cluster.now + wait_us, patience))
                wait_us = min(wait_us * 2, SECOND)

    def _advance(self, until: int) -> None:
        most = self.scenario.duration_us + self.scenario.settle_us
        while self.cluster.now < until:
            self.cluster.company.pass_time(self.cluster, min(self.cluster.now + SLICE_US, until))
            self.looker.elapsed()
            if self.progress is not None:
                self.progress(self.cluster.now - EPOCH, most, self.cluster.company.events(self.cluster.journal.events))

    def _judge(self) -> None:
        """What this scenario asks for beyond what always holds."""
        felt, detection = self.users.felt if self.users else None, self._detection()
        delays = [
            (change.name, change.delays_us(host.index for host in self.cluster.living()))
            for change in self.stage.changes
        ]
        measured = Measured(
            false_positives=self.metrics.false_positives,
            idle_bytes=self.metrics.idle_bytes_per_node_s(len(self.cluster.hosts)),
            answered=felt.answered if felt else 0,
            requests=felt.requests if felt else 0,
            detection_s=detection["all_max_s"] if detection else None,
            slowest=[(name, after[-1]) for name, after in delays if after],
        )
        self.bounds = list(bounds_of(self.scenario.checks, measured))
        for bound in self.bounds:
            if bound.broken is not None:
                raise BrokenError(Violation(bound.name, self.cluster.now - EPOCH, "", bound.broken))

    # --- the result

    def result(self, verdict: str, violations: list[Violation]) -> Result:
        cluster, metrics, stage = self.cluster, self.metrics, self.stage
        hosts = [host.index for host in cluster.living() if host.index not in stage.liars]
        topology = cluster.network.topology
        return Result(
            scenario=self.scenario,
            seed=self.seed,
            verdict=verdict,
            digest=cluster.journal.digest,
            events=cluster.journal.events,
            nodes=len(cluster.hosts),
            virtual_us=cluster.now - EPOCH,
            violations=violations,
            changes=[summary(change, stage) for change in stage.changes],
            acts=[(int(str(a[0])), None if a[1] is None else int(str(a[1])), str(a[2]), str(a[3])) for a in self.acts],
            figures=self._figures(),
            curves=[
                (change.name, change.delays_us(hosts), change.floor_us(topology, hosts)) for change in stage.changes
            ],
            announced=[(at - EPOCH, host, kind, what) for at, host, kind, what in sorted(metrics.timeline, key=_when)],
            by_second=self.users.by_second if self.users else {},
            sites=[(place.name, place.group, place.latitude_e6, place.longitude_e6) for place in topology.places],
            regions=[
                (region.name, region.latitude_e6, region.longitude_e6, self.world.truth[region.name].name)
                for region in self.world.regions.values()
            ],
            learned=[
                (change.name, change.at - EPOCH, dict(sorted(change.learned.items()))) for change in stage.changes
            ],
            checks=[
                (check.name, check.promise, self._outcome(check, violations))
                for check in (*self.safety, *self.liveness)
            ]
            + [(bound.name, bound.promise, "held" if bound.broken is None else "broken") for bound in self.bounds],
        )

    def _outcome(self, check: Check, violations: Sequence[Violation]) -> str:
        if any(violation.check == check.name for violation in violations):
            return "broken"
        return "unknown" if check in self._owed else "held"

    def _figures(self) -> dict[str, object]:
        metrics, cluster = self.metrics, self.cluster
        nodes = len(cluster.hosts)
        virtual_s = max(1, cluster.now - EPOCH) / SECOND
        return {
            "messages_by_type": dict(sorted(metrics.messages.items())),
            "bytes_by_type": dict(sorted(metrics.bytes.items())),
            "bytes_per_node_s": round(metrics.total_bytes() / nodes / virtual_s),
            "idle_bytes_per_node_s": metrics.idle_bytes_per_node_s(nodes),
            "false_positives": metrics.false_positives,
            "detection": self._detection(),
            "called_down": metrics.called_down(),
            "dropped": dict(sorted((cluster.network.dropped + cluster.dropped).items())),
            "refused": dict(sorted(metrics.refused.items())),
            "region_changes": dict(sorted(metrics.flips.by_region.items())),
            "users": self.users.felt.figures() if self.users else None,
            "rollouts": canaries.figures(self.stage) or None,
            "looked_every": self.every,
        }

    def _detection(self) -> dict[str, float | None] | None:
        """From a crash to everybody's knowing: over all processes that were crashed and are still gone."""
        first: list[int] = []
        last: list[int] = []
        living = {host.index for host in self.cluster.living()}
        for died_at, index in self.cluster.deaths:
            told = self.metrics.down_announced.get(self.cluster.hosts[index].node, {})
            after = sorted(at - died_at for host, at in told.items() if host in living and at >= died_at)
            if after and index not in living:
                first.append(after[0])
                last.append(after[-1])
        if not first:
            return None
        return {
            "crashes": len(first),
            "first_p50_s": seconds(percentile(sorted(first), 50)),
            "all_p50_s": seconds(percentile(sorted(last), 50)),
            "all_max_s": seconds(max(last)),
        }


def _when(announced: tuple[int, int, str, str]) -> tuple[int, int]:
    return announced[:2]


def _strategy(scenario: Scenario) -> Callable[[], Strategy] | None:
    match scenario.strategy:
        case "random":
            return lambda: RandomFanout(scenario.fanout)
        case "flood":
            return Flood
        case "tree":
            return lambda: Tree(scenario.degree)
    return None


def _every(nodes: int) -> int:
    """How many events lie between two looks at a whole node: a look costs as much as the node knows."""
    return 1 if nodes <= LOOK_SMALL else nodes * nodes // 40 + 1
