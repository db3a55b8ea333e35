"""The policy in force at this node: the last elected version that compiled, and the memory of it (edge).

The lattice elects a version; this node compiles it, and only then is it in force and said to be. A version that does
not compile here (another edition, a limit) changes nothing: the last good one stays, and the refusal is there to see.
Which version is in force is written down, for a restart begins with it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from lattice.driver import Driver
from lattice.events import PolicyApplied
from lattice.types import VersionId, short
from router.compiling import compile_text, complaint
from router.control.api import DEFAULT_POLICY
from router.decision.program import Program
from router.journal import Journal
from router.policy import PolicyError
from router.site.state_dir import LastGood

log = logging.getLogger("edgelattice")

REMEMBER_AGAIN_S = 5.0
"""As the database's writer tries again."""


@dataclass(frozen=True, slots=True)
class InForce:
    """A compiled policy, and since when it serves here."""

    version: VersionId
    text: str
    program: Program
    applied_ms: int


class PolicyKeeper:
    """Use on the trio thread that runs the driver."""

    def __init__(
        self,
        driver: Driver,
        last_good: LastGood,
        serve_by: Callable[[InForce], Awaitable[None]],
        journal: Journal,
        on_disk: Callable[[int, str], None],
        now_ms: Callable[[], int],
    ) -> None:
        """`serve_by` brings a policy into force; `on_disk` is told what became of the disk, and how grave it is."""
        self._driver = driver
        self._last_good = last_good
        self._serve_by = serve_by
        self._journal = journal
        self._on_disk = on_disk
        self._now_ms = now_ms
        self._elected = trio.Event()
        self._unremembered: VersionId | None = None
        """The version in force, while the disk does not take it."""
        self.in_force: InForce | None = None

    def elected(self) -> None:
        """The lattice may have elected another version."""
        self._elected.set()

    async def keep(self) -> None:
        """Put every elected version into force, once it compiles."""
        while True:
            with trio.move_on_after(math.inf if self._unremembered is None else REMEMBER_AGAIN_S):
                await self._elected.wait()
            if self._unremembered is not None:
                await self._remember(self._unremembered)
            self._elected = trio.Event()
            policies = self._driver.view().policies
            elected = next((policy for policy in policies if policy.policy == DEFAULT_POLICY), None)
            if elected is None or (self.in_force and elected.version == self.in_force.version):
                continue
            try:
                program = await trio.to_thread.run_sync(compile_text, "".join(elected.blocks), elected.policy)
            except PolicyError as error:
                text = f"version {short(elected.version)} refused, the last good one stays: {complaint(error)}"
                self._journal.note("policy", text, policy=elected.policy, version=elected.version.hex())
                log.error("policy %s: %s", elected.policy, text)
                continue
            await self._put_into_force(InForce(elected.version, "".join(elected.blocks), program, self._now_ms()))

    async def restore(self) -> None:
        """Begin with the version that was in force before the restart: what was elected since may not compile here."""
        version = await trio.to_thread.run_sync(self._last_good.read)
        text = None if version is None else self._driver.policy.text_of(version)
        if version is None or text is None:
            return
        try:
            program = await trio.to_thread.run_sync(compile_text, text, DEFAULT_POLICY)
        except PolicyError as error:
            log.error("the version last in force does not compile any more: %s", complaint(error))
            return
        await self._put_into_force(InForce(version, text, program, self._now_ms()))

    async def _put_into_force(self, policy: InForce) -> None:
        await self._serve_by(policy)
        self.in_force = policy
        where = {"policy": DEFAULT_POLICY, "version": policy.version.hex()}
        self._journal.note("policy", f"version {short(policy.version)} in force", **where)
        await self._driver.submit(PolicyApplied(DEFAULT_POLICY, policy.version))
        await self._remember(policy.version)

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
