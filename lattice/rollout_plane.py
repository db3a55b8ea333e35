"""Rollouts at one node: which version it serves, what it and others found, and going back without a coordinator.

A verdict of the node's own acts here at once and rides in its row; others' verdicts act when enough of them agree
(`rollouts.is_condemned`). Either way the word is kept, on disk too, so that a node that has gone back stays there when
those whose word it followed are gone, until a person publishes or begins another rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from lattice import canonical
from lattice.errors import MalformedError
from lattice.events import RolledBack, ServedChanged
from lattice.health import SAYINGS_MAX
from lattice.health_plane import Self
from lattice.outbox import Outbox
from lattice.policy_store import PolicyStore
from lattice.rollouts import (
    ID_BYTES,
    STAGES_MAX,
    Rollout,
    RolloutId,
    Saying,
    Served,
    Word,
    has_passed,
    is_condemned,
    serve,
    stand,
    words_of,
)
from lattice.types import VersionId
from lattice.view import RolloutView

ROLLOUT_TABLE: Final = "rollout"
_WORDS: Final = tuple(Word)


class RolloutPlane:
    """Of one node."""

    def __init__(
        self,
        out: Outbox,
        us: Self,
        policy: PolicyStore,
        sayings: Callable[[], Mapping[str, Sequence[Saying]]],
        issue_within: Callable[[int], None],
    ) -> None:
        """`sayings` are those of all fresh rows that vote, by site, ours among them."""
        self._out = out
        self._us = us
        self._policy = policy
        self._sayings = sayings
        self._issue_within = issue_within
        self._said: dict[RolloutId, Saying] = {}
        self._told: dict[str, Served] = {}

    # --- reading

    def served(self, policy: str) -> Served | None:
        """Which version of a policy this site serves; None if there is no such policy."""
        head = self._policy.head(policy)
        if head is None:
            return None
        return serve(head.version, head.hlc, self._policy.rollouts(policy), self._us.site, self._dismissed())

    def _dismissed(self) -> set[RolloutId]:
        return {each.rollout for each in self._said.values() if each.word >= Word.ROLLED_BACK}

    def views(
        self,
    ) -> tuple[tuple[tuple[str, Served], ...], tuple[tuple[str, VersionId], ...], tuple[RolloutView, ...]]:
        """What is served of every policy that has rollouts, here and by whoever is in no stage; and every rollout that
        no later head has ended."""
        served: list[tuple[str, Served]] = []
        standings: list[tuple[str, VersionId]] = []
        rollouts: list[RolloutView] = []
        sayings: Mapping[str, Sequence[Saying]] | None = None
        for policy in self._policy.policies():
            found = self._policy.rollouts(policy.policy)
            head, now = self._policy.head(policy.policy), self.served(policy.policy)
            if not found or now is None or head is None:
                continue
            served.append((policy.policy, now))
            standing = stand(head.version, head.hlc, found, self._dismissed())
            standings.append((policy.policy, standing.served.version))
            sayings = self._sayings() if sayings is None else sayings
            rollouts += [self._view(rollout, words_of(rollout, sayings), now, found) for rollout in found]
        return tuple(served), tuple(standings), tuple(rollouts)

    def _view(
        self, rollout: Rollout, words: Mapping[str, Word], served: Served, others: Sequence[Rollout]
    ) -> RolloutView:
        start, abort = rollout.start, rollout.abort
        manifest = self._policy.manifest(start.version)
        return RolloutView(
            id=rollout.id,
            start=start,
            stage=rollout.stage,
            message=manifest.message if manifest else "",
            state=self._state(rollout, words, others),
            abort=abort,
            sites=tuple((site, rollout.holds(site), words[site]) for site in sorted(words)),
            passed=has_passed(rollout, words),
            here=self._word(rollout.id),
            serves=served.version == start.version,
        )

    def _state(self, rollout: Rollout, words: Mapping[str, Word], others: Sequence[Rollout]) -> str:
        if rollout.abort is not None:
            return "aborted"
        if self._word(rollout.id) is Word.ROLLED_BACK or is_condemned(rollout, words):
            return "rolled back"
        head = self._policy.head(rollout.start.policy)
        assert head is not None, "a rollout that counts has a head before it"
        # What this site alone has condemned goes on elsewhere.
        standing = stand(head.version, head.hlc, others, self._dismissed() - {rollout.id})
        if rollout.id in standing.reached:
            return "complete"
        return "under way" if standing.current == rollout else "set aside"

    # --- what is found out

    def _word(self, rollout: RolloutId) -> Word:
        said = self._said.get(rollout)
        return said.word if said is not None else Word.UNDECIDED

    def judged(self, rollout: RolloutId, stage: int, word: Word) -> None:
        """This site's own trial says `PASSED` or `CONDEMNED`. What it found in an earlier stage stands until then."""
        assert word in {Word.PASSED, Word.CONDEMNED}, f"{word.name} is nothing that a trial says"
        held = self._said.get(rollout)
        if held is not None and (held.word >= Word.ROLLED_BACK or (held.stage, held.word) == (stage, word)):
            return
        self._say(Saying(rollout, stage, word))
        self._issue_within(0 if word is Word.CONDEMNED else self._out.prng.jitter(self._out.config.confirm_delay_us))
        self.refresh()

    def heard(self) -> None:
        """What rows say, who may vote, or policy has changed."""
        if not self._policy.has_rollouts and not self._told:
            return
        sayings = self._sayings()
        for policy in self._policy.policies():
            for rollout in self._policy.rollouts(policy.policy):
                gone = self._word(rollout.id) >= Word.ROLLED_BACK
                if not gone and is_condemned(rollout, words_of(rollout, sayings)):
                    self._say(Saying(rollout.id, rollout.stage, Word.ROLLED_BACK))
                    self._issue_within(self._out.prng.jitter(self._out.config.confirm_delay_us))
                    self._out.notify(RolledBack(policy.policy, rollout.id, rollout.start.version))
        self.refresh()

    def refresh(self) -> None:
        """Tell the router which version it is to serve, where rollouts change it."""
        for policy in self._policy.policies():
            served = self.served(policy.policy)
            assert served is not None, "a policy that is there has a head"
            told = self._told.get(policy.policy)
            if served == told or (told is None and served.rollout is None):
                continue
            if served.rollout is None:
                del self._told[policy.policy]  # from now on its head's changes are told anyway
            else:
                self._told[policy.policy] = served
            self._out.stale_view = True
            self._out.notify(ServedChanged(policy.policy, served))

    def _say(self, saying: Saying) -> None:
        self._said[saying.rollout] = saying
        self._out.persist(ROLLOUT_TABLE, saying.rollout, canonical.pack((saying.stage, int(saying.word))))
        self._out.stale_view = True
        self._forget_ended()
        self._us.sayings = tuple(self._said[rollout] for rollout in sorted(self._said))

    def _forget_ended(self) -> None:
        """A row has room for so many; what a later head has ended, nobody asks about any more."""
        if len(self._said) <= SAYINGS_MAX:
            return
        there = [each for policy in self._policy.policies() for each in self._policy.rollouts(policy.policy)]
        kept = [each.id for each in sorted(there, key=lambda each: each.start.hlc) if each.id in self._said]
        for rollout in self._said.keys() - set(kept[-SAYINGS_MAX:]):
            del self._said[rollout]
            self._out.persist(ROLLOUT_TABLE, rollout, None)

    # --- from the disk, and to it

    def restore(self, key: bytes, value: bytes) -> None:
        """What an earlier life found. Raises `MalformedError`; state is unchanged."""
        stage, word = canonical.array(canonical.unpack(value, 16), "rollout record", length=2)
        if len(key) != ID_BYTES:
            raise MalformedError("bad shape", f"a rollout's id of {len(key)} bytes")
        said = Saying(
            RolloutId(key),
            canonical.integer(stage, "stage", 0, STAGES_MAX - 1),
            _WORDS[canonical.integer(word, "word", 1, len(_WORDS) - 1)],
        )
        self._said[said.rollout] = said
        self._us.sayings = tuple(self._said[rollout] for rollout in sorted(self._said))

    def persist_all(self) -> None:
        for rollout, said in sorted(self._said.items()):
            self._out.persist(ROLLOUT_TABLE, rollout, canonical.pack((said.stage, int(said.word))))
