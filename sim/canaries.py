"""Rollouts in a run: an operator begins one, a controller advances it, and sites judge it by their users' requests.

Of the requests decided by a *bad* version a share fails, whatever region they go to; what sites make of that is theirs
to find out, by the same `Trial` as in production. The controller looks every so often at one node, as
`policy rollout advance --watch` does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from lattice.authoring import compose_entry, compose_rollout
from lattice.events import OpsSubmitted, RolloutJudged
from lattice.identity import author_id_of
from lattice.prng import Prng
from lattice.rollouts import STAGES, RolloutId, Served, Start, Word, fault_of_stages
from lattice.types import SECOND
from router.sequential_test import Judgement
from router.trial import Trial
from sim import inside
from sim.changes import OPERATOR
from sim.host import Host
from sim.quantities import NotExpected, Section, share, some_duration
from sim.signing import KeyedSigner
from sim.stage import Selector, Stage, selector

POLICY = "default"
_WORDS = {Judgement.PASSED: Word.PASSED, Judgement.CONDEMNED: Word.CONDEMNED}


@dataclass(slots=True)
class Told:
    """What became of one rollout."""

    start: Start
    fails_ppm: int
    began: int
    failures: Counter[int] = field(default_factory=Counter)
    """By host, requests that failed under it."""
    first_condemned: int | None = None
    last_served: int | None = None
    """When a request was last decided under it."""
    served: set[int] = field(default_factory=set)
    complete_at: int | None = None


@dataclass(slots=True)
class Rollout:
    """An act: begin a rollout at a node, and advance it."""

    which: Selector
    fails_ppm: int
    stages: tuple[int, ...]
    every_us: int

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        hosts = [host for host in stage.chosen(self.which, prng) if host.alive and not host.paused]
        if not hosts:
            return "nobody was up"
        host, operator = hosts[0], KeyedSigner(OPERATOR)
        view, store = host.engine.view(), host.engine.policy
        base = view.standing(POLICY)
        chain = store.chain(author_id_of(operator.public_key))
        if base is None or stage.canary_blocks is None or chain.seq < stage.chain_seq:
            return f"{host.site} has no policy to go back to, or not all of the operator's ops: not begun"
        publication, start = compose_rollout(
            operator, chain, POLICY, stage.canary_blocks(len(stage.rollouts)), base=base, stages=self.stages,
            first=(), sites={member.site for member in view.members}, message="", now_ms=stage.cluster.now // 1_000,
            blocks_known=store.blocks_known(author_id_of(operator.public_key)),
        )  # fmt: skip
        stage.chain_seq = publication.ops[-1].op.seq
        stage.versions[publication.version] = stage.published
        told = Told(start, self.fails_ppm, stage.cluster.now)
        stage.rollouts[start.id] = told
        stage.cluster.tell(host, OpsSubmitted(tuple(op.data for op in publication.ops)))
        stage.cluster.scheduler.call(stage.cluster.now + self.every_us, lambda: self._look(stage, told, host, until))
        inside_of_it = sum(start.includes(each.site, 0) for each in stage.cluster.hosts)
        how = f"a version that fails {self.fails_ppm / 10_000:g} %" if self.fails_ppm else "a good version"
        return f"{how} to {inside_of_it} of {len(stage.cluster.hosts)} sites at first"

    def _look(self, stage: Stage, told: Told, host: Host, until: int) -> None:
        """As a controller: advance what has passed, end with what is over."""
        now = stage.cluster.now
        seen = next((each for each in host.engine.view().rollouts if each.id == told.start.id), None)
        if host.alive and not host.paused and seen is not None:
            if seen.state == "complete":
                told.complete_at = now
                return
            if seen.state != "under way":
                return
            operator = KeyedSigner(OPERATOR)
            chain = host.engine.policy.chain(author_id_of(operator.public_key))
            if seen.passed and chain.seq >= stage.chain_seq:
                op = compose_entry(operator, chain, told.start, seen.stage + 1, "", now // 1_000)
                stage.chain_seq = op.op.seq
                stage.cluster.journal.note(now, f"rollout advanced to stage {seen.stage + 1}")
                stage.cluster.tell(host, OpsSubmitted((op.data,)))
        if now + self.every_us < until:
            stage.cluster.scheduler.call(now + self.every_us, lambda: self._look(stage, told, host, until))

    def end(self, stage: Stage) -> None:
        """What was begun goes its way."""


class Tries:
    """What sites are to decide by, and how they judge it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._trials: dict[tuple[int, int], Trial] = {}
        """By host and life, as the next."""
        self._given_up: dict[tuple[int, int], set[RolloutId]] = {}

    def serve(self, host: Host) -> Served | None:
        """What the host's router is to decide by now."""
        served = inside.served(host.engine, POLICY)
        if served is None:
            return None
        life = host.index, host.life
        if served.rollout in self._given_up.get(life, ()) and served.base is not None:
            served = Served(served.base)
        trial = self._trials.get(life)
        if served.rollout is None:
            self._trials.pop(life, None)
        elif trial is None or (trial.rollout, trial.stage) != (served.rollout, served.stage):
            self._trials[life] = Trial(served.rollout, served.stage, lambda each: self._judged(host, each))
        return served

    def _judged(self, host: Host, trial: Trial) -> None:
        told = self._stage.rollouts[trial.rollout]
        if trial.judgement is Judgement.CONDEMNED:
            self._given_up.setdefault((host.index, host.life), set()).add(trial.rollout)
            if told.first_condemned is None:
                told.first_condemned = self._stage.cluster.now
        self._stage.cluster.tell(host, RolloutJudged(trial.rollout, trial.stage, _WORDS[trial.judgement]))

    def fails_ppm(self, host: Host) -> int:
        """What share of the requests fails that are decided there now."""
        trial = self._trials.get((host.index, host.life))
        return 0 if trial is None else self._stage.rollouts[trial.rollout].fails_ppm

    def ended(self, host: Host, route: str, ending: str, status: int) -> None:
        """A request that was decided there has come to its end."""
        trial = self._trials.get((host.index, host.life))
        if trial is None:
            return
        told = self._stage.rollouts[trial.rollout]
        told.last_served = self._stage.cluster.now
        told.served.add(host.index)
        before = trial.failures
        trial.ended(route, ending, status)
        told.failures[host.index] += trial.failures - before


def figures(stage: Stage) -> list[dict[str, object]]:
    """Of every rollout of a run, the earliest first."""
    return [
        {
            "fails": told.fails_ppm / 1_000_000,
            "sites_tried": len(told.served),
            "failures_max": max(told.failures.values(), default=0),
            "failures": sum(told.failures.values()),
            "back_s": None
            if told.first_condemned is None or told.last_served is None
            else round(max(0, told.last_served - told.first_condemned) / SECOND, 3),
            "complete_s": None if told.complete_at is None else round((told.complete_at - told.began) / SECOND, 3),
        }
        for told in stage.rollouts.values()
    ]


def _stages(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(each) is int for each in value) or fault_of_stages(value):
        raise NotExpected("percents that rise to 100, such as [1, 5, 25, 100]")
    return tuple(value)


def read_rollout(section: Section) -> Rollout:
    return Rollout(
        section.take("nodes", selector, Selector("node", names=("0",))),
        section.take("fails", share, 0),
        section.take("stages", _stages, STAGES),
        section.take("every", some_duration, SECOND),
    )
