"""The policy in force at this node: the last version it was to serve that compiled, and the memory of it (edge).

The lattice elects a version, or has this site try one; this node compiles it, and only then is it in force and said to
be. A version that does not compile here (another edition, a limit) changes nothing: the last good one stays, and the
refusal is there to see. Which version is in force is written down, for a restart begins with it.

While a rollout's version is in force, the one before it is kept compiled: to give the new one up is to put a program in
another's place, at once, within the very call that told of the failure. Nothing is awaited before the next decision.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio

from lattice.driver import Driver
from lattice.events import PolicyApplied, RolloutJudged
from lattice.rollouts import RolloutId, Served, Word
from lattice.types import VersionId, short
from router.compiling import compile_text, complaint
from router.control.api import DEFAULT_POLICY
from router.decision.decide import route_at
from router.decision.program import Program
from router.journal import Journal
from router.policy import PolicyError
from router.sequential_test import Judgement
from router.site.state_dir import LastGood
from router.trial import Trial

log = logging.getLogger("edgelattice")

REMEMBER_AGAIN_S = 5.0
"""As the database's writer tries again."""
_WORDS = {Judgement.PASSED: Word.PASSED, Judgement.CONDEMNED: Word.CONDEMNED}


@dataclass(frozen=True, slots=True)
class InForce:
    """A compiled policy, and since when it serves here."""

    version: VersionId
    text: str
    program: Program
    applied_ms: int


def redefined(program: Program, others: Program) -> frozenset[str]:
    """The regions that mean something else by one policy than by the other: other endpoints, other rules of health."""
    return frozenset(
        name
        for name, region in program.regions.items()
        if (known := others.regions.get(name)) is None
        or known.endpoints != region.endpoints
        or others.health[name] != program.health[name]
    )


class PolicyKeeper:
    """Use on the trio thread that runs the driver."""

    def __init__(
        self,
        driver: Driver,
        last_good: LastGood,
        prepare: Callable[[Program], Awaitable[None]],
        serve_by: Callable[[InForce, Trial | None, InForce | None], None],
        journal: Journal,
        on_disk: Callable[[int, str], None],
        now_ms: Callable[[], int],
    ) -> None:
        """`prepare` does what takes time; `serve_by` brings a policy into force, what it is tried by, and what other
        sites still serve; `on_disk` is told what became of the disk, and how grave it is."""
        self._driver = driver
        self._last_good = last_good
        self._prepare = prepare
        self._serve_by = serve_by
        self._journal = journal
        self._on_disk = on_disk
        self._now_ms = now_ms
        self._elected = trio.Event()
        self._unremembered: VersionId | None = None
        """The version in force, while the disk does not take it."""
        self._told: VersionId | None = None
        """Which version is in force, by our word to the lattice and on disk."""
        self.in_force: InForce | None = None
        self._base: InForce | None = None
        """What is put into force again when the trial fails."""
        self.trial: Trial | None = None
        """Of the version in force, while a rollout brings it."""
        self._given_up: set[RolloutId] = set()
        """By our own trials; the lattice may not have heard yet."""
        self._verdicts: deque[RolloutJudged] = deque()

    def elected(self) -> None:
        """The lattice may have elected another version."""
        self._elected.set()

    def serve_instead(self, served: Served) -> None:
        """This site is to serve that from now on: at once, if it is what we were to go back to."""
        if self._base is not None and served.version == self._base.version:
            self._go_back(f"version {short(served.version)} again: its successor was given up")
        self.elected()

    async def keep(self) -> None:
        """Put every version that this site is to serve into force, once it compiles."""
        while True:
            with trio.move_on_after(math.inf if self._unremembered is None else REMEMBER_AGAIN_S):
                await self._elected.wait()
            if self._unremembered is not None:
                await self._remember(self._unremembered)
            self._elected = trio.Event()
            await self._settle()

    async def _settle(self) -> None:
        """From what the lattice says now to what is in force here, and known to be."""
        while self._verdicts:
            await self._driver.submit(self._verdicts.popleft())
        await self._tell()
        served = self._to_serve()
        if served is None or self._is_served(served):
            return
        found = await self._compiled(served.version)
        if found is None:
            return
        base = None
        if served.rollout is not None and served.base is not None:
            base = await self._compiled(served.base)
            if base is None:
                return  # without a way back there is no way forth
        await self._prepare(found.program)
        if self._to_serve() != served:
            self.elected()  # while we compiled
            return
        trial = None
        if served.rollout is not None and base is not None:
            route_before = partial(route_at, base.program)
            trial = Trial(served.rollout, served.stage, self._on_judged, route_before)
        self._put_into_force(found, base, trial)
        await self._tell()

    def _to_serve(self) -> Served | None:
        served = self._driver.view().serving(DEFAULT_POLICY)
        if served is not None and served.rollout in self._given_up and served.base is not None:
            return Served(served.base)
        return served

    def _is_served(self, served: Served) -> bool:
        if self.in_force is None or self.in_force.version != served.version:
            return False
        trial = self.trial
        return (None if trial is None else (trial.rollout, trial.stage)) == (
            None if served.rollout is None else (served.rollout, served.stage)
        )

    async def _compiled(self, version: VersionId) -> InForce | None:
        """A version, ready to be put into force; None, and it is told, if it does not compile, or is not here."""
        for ready in (self.in_force, self._base):
            if ready is not None and ready.version == version:
                return ready
        text = self._driver.policy.text_of(version)
        if text is None:
            return None
        try:
            program = await trio.to_thread.run_sync(compile_text, text, DEFAULT_POLICY)
        except PolicyError as error:
            told = f"version {short(version)} refused, the last good one stays: {complaint(error)}"
            self._journal.note("policy", told, policy=DEFAULT_POLICY, version=version.hex())
            log.error("policy %s: %s", DEFAULT_POLICY, told, exc_info=error.__cause__)
            return None
        return InForce(version, text, program, self._now_ms())

    async def restore(self) -> None:
        """Begin with the version that was in force before the restart: what was elected since may not compile here. But
        not with one that this site had begun to try: a rollout's version comes back the way it came."""
        version = await trio.to_thread.run_sync(self._last_good.read)
        view = self._driver.view()
        tried = next((each.start for each in view.rollouts if each.start.version == version), None)
        if tried is not None:
            version = tried.base
        text = None if version is None else self._driver.policy.text_of(version)
        if version is None or text is None:
            return
        try:
            program = await trio.to_thread.run_sync(compile_text, text, DEFAULT_POLICY)
        except PolicyError as error:
            log.error(
                "the version last in force does not compile any more: %s", complaint(error), exc_info=error.__cause__
            )
            return
        await self._prepare(program)
        self._put_into_force(InForce(version, text, program, self._now_ms()), None, None)
        if tried is None:
            await self._tell()
        else:
            await self._settle()

    def _put_into_force(self, policy: InForce, base: InForce | None, trial: Trial | None) -> None:
        same = self.in_force is not None and self.in_force.version == policy.version
        self._serve_by(policy, trial, None if trial is None or self._has_reached_all(trial) else base)
        self.in_force, self._base, self.trial = policy, base, trial
        if not same:
            why = "" if trial is None else f", {trial.label}"
            where = {"policy": DEFAULT_POLICY, "version": policy.version.hex()}
            self._journal.note("policy", f"version {short(policy.version)} in force{why}", **where)

    # --- a version on trial

    def _has_reached_all(self, trial: Trial) -> bool:
        return any(each.id == trial.rollout and each.state == "complete" for each in self._driver.view().rollouts)

    def _on_judged(self, trial: Trial) -> None:
        """Called within the end of a request."""
        if trial is not self.trial:
            return
        counted = f"{trial.failures} of {trial.requests} requests failed"
        by = f"route {trial.condemned_by}" if trial.condemned_by else "all routes together"
        verdict = RolloutJudged(trial.rollout, trial.stage, _WORDS[trial.judgement])
        if trial.judgement is Judgement.CONDEMNED:
            self._given_up.add(trial.rollout)
            self._go_back(f"{trial.label} is bad, by {by}: {counted}; the version before it serves again")
        else:
            self._journal.note("rollout", f"{trial.label} has passed here: {counted}")
        if not self._driver.submit_nowait(verdict):
            self._verdicts.append(verdict)
        self.elected()

    def _go_back(self, why: str) -> None:
        """Before anything else is decided."""
        base = self._base
        assert base is not None, "whatever is tried has something to go back to"
        log.warning("%s", why)
        self._journal.note("rollout", why)
        self._put_into_force(base, None, None)

    def counters(self) -> dict[str, int]:
        """Of the trial under way."""
        trial = self.trial
        return {} if trial is None else {"rollout requests": trial.requests, "rollout failures": trial.failures}

    # --- what is said of it

    async def _tell(self) -> None:
        """Say which version is in force, to the lattice and to the next life, unless that is known."""
        if self.in_force is None or self._told == self.in_force.version:
            return
        version = self._told = self.in_force.version
        await self._driver.submit(PolicyApplied(DEFAULT_POLICY, version))
        await self._remember(version)

    async def _remember(self, version: VersionId) -> None:
        """With which version to begin after a restart; tried again until the disk takes it, and told once."""
        try:
            await trio.to_thread.run_sync(self._last_good.write, version)
        except OSError as error:
            if self._unremembered is None:
                text = (
                    f"cannot write {self._last_good.path}: {(error.strerror or str(error)).lower()}; it is tried again "
                    f"every {REMEMBER_AGAIN_S:.0f} s, and until then a restart begins with the version before; make "
                    "room there, or see to its disk"
                )
                self._on_disk(logging.ERROR, text)
            self._unremembered = version
        else:
            if self._unremembered is not None:
                self._on_disk(logging.INFO, f"{self._last_good.path} is written")
            self._unremembered = None
