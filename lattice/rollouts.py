"""A rollout is a lattice: how far a version of a policy has come on its way to all sites, and whether it goes on.

In the Doc it is a set of keys, each written once (decision 3), all in the root ``rollouts``:

* ``ID`` → the start, by an operator: this version, in place of that one (the base), by these stages. It is named by its
  content, which holds its author and date, so a rollout of the same version begun again is another rollout.
* ``ID/STAGE/AUTHOR/SEQ`` → "go on to that stage", by an operator or a controller.
* ``ID/abort/AUTHOR/SEQ`` → "go back", by either.

Join: of the stages the greatest, of the aborts the union, and one abort outweighs every stage. So nodes that hold the
same keys agree, whatever order they came in, and nothing that arrives late brings an aborted version back.

Which sites a stage holds is a pure function of the start and a site's name: those that the start names are in from the
first stage on, all others come in as hash(rollout, site) falls below the stage's share. A site that is in stays in.

Which version a site serves is a pure function too (`serve`): the base is the version that a plain publish made the
policy's head, or the version of a rollout that has reached everybody; a rollout counts if it was begun after its base
came to stand. So the next plain publish ends all rollouts, and nothing has to be written when one has reached the end.

What sites find out rides in their rows (`Word`); what may be concluded from how many of those words is here as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NewType

from lattice import canonical
from lattice.errors import MalformedError, OpError
from lattice.record import Record
from lattice.types import AuthorId, VersionId

RolloutId = NewType("RolloutId", bytes)
"""8 bytes: the hash of the start."""

ID_BYTES: Final = 8
STAGES_MAX: Final = 16
FIRST_MAX: Final = 32
"""Sites that a start may name."""
SITE_LENGTH_MAX: Final = 64
MESSAGE_LENGTH_MAX: Final = 200
STAGES: Final = (1, 5, 25, 100)
"""Percent of the sites, by default."""
ROOT: Final = "rollouts"
_BUCKETS: Final = 10_000
_FORMAT = 1
_VALUE_BYTES_MAX = 8_192
_ENTRY_KEY = re.compile(r"([0-9a-f]{16})/(abort|[1-9][0-9]?)/([0-9a-f]{32})/([1-9][0-9]{0,18})")
_POLICY_LENGTH_MAX = 32


# --- what is written


@dataclass(frozen=True, slots=True)
class Start:
    """One rollout, as its operator began it."""

    policy: str
    version: VersionId
    base: VersionId
    """What it is to replace, and what sites go back to."""
    stages: tuple[int, ...]
    """Percent of all sites, rising; the last is 100."""
    first: tuple[str, ...]
    """Sites that are in from the first stage on, sorted."""
    author: AuthorId
    hlc: int

    def packed(self) -> bytes:
        return canonical.pack(
            (_FORMAT, self.policy, self.version, self.base, self.stages, self.first, self.author, self.hlc)
        )

    @property
    def id(self) -> RolloutId:
        return RolloutId(blake2b(self.packed(), digest_size=ID_BYTES, person=b"edgelattice roll").digest())

    def share(self, stage: int) -> int:
        """Percent of the sites in a stage; those from 0 on."""
        return self.stages[min(stage, len(self.stages) - 1)]

    def includes(self, site: str, stage: int) -> bool:
        """Whether a site serves the version in that stage."""
        return site in self.first or bucket(self.id, site) < self.share(stage) * _BUCKETS // 100

    def first_stage_of(self, site: str) -> int:
        """In which stage a site comes in."""
        return next(stage for stage in range(len(self.stages)) if self.includes(site, stage))


@dataclass(frozen=True, slots=True)
class Entry:
    """A word on a rollout after its start: go on to a stage, or go back."""

    rollout: RolloutId
    stage: int | None
    """None: abort."""
    author: AuthorId
    seq: int
    """Of the op that said it first."""
    hlc: int
    policy: str
    started: int
    """The start's timestamp: with the policy it tells when this word has had its day."""
    message: str = ""

    @property
    def key(self) -> str:
        what = "abort" if self.stage is None else str(self.stage)
        return f"{self.rollout.hex()}/{what}/{self.author.hex()}/{self.seq}"

    def packed(self) -> bytes:
        return canonical.pack((_FORMAT, self.hlc, self.policy, self.started, self.message))


def bucket(rollout: RolloutId, site: str) -> int:
    """Where a site stands in a rollout, 0 to 9,999: it comes in when the stage's share exceeds it."""
    digest = blake2b(site.encode(), digest_size=8, key=rollout, person=b"edgelattice stge").digest()
    return int.from_bytes(digest, "big") % _BUCKETS


def first_sites(start: Start, sites: Iterable[str]) -> tuple[str, ...]:
    """Whom the start must name so that its first stage holds at least one of these sites: the one with the lowest
    bucket, if neither its share nor the start itself has any."""
    known = sorted(set(sites))
    if not known or any(start.includes(site, 0) for site in known):
        return start.first
    return (min(known, key=lambda site: (bucket(start.id, site), site)),)


def parse_start(value: bytes) -> Start:
    """Raises `MalformedError`."""
    fields = canonical.array(canonical.unpack_canonical(value, _VALUE_BYTES_MAX), "rollout", length=8)
    if canonical.integer(fields[0], "rollout format") != _FORMAT:
        raise MalformedError("wrong version", f"rollout format {fields[0]!r}")
    start = Start(
        policy=canonical.text(fields[1], "policy", _POLICY_LENGTH_MAX),
        version=VersionId(canonical.blob(fields[2], "version", length=16)),
        base=VersionId(canonical.blob(fields[3], "base", length=16)),
        stages=tuple(
            canonical.integer(share, "stage", 1, 100)
            for share in canonical.array(fields[4], "stages", length_max=STAGES_MAX)
        ),
        first=tuple(
            canonical.text(site, "site", SITE_LENGTH_MAX)
            for site in canonical.array(fields[5], "first sites", length_max=FIRST_MAX)
        ),
        author=AuthorId(canonical.blob(fields[6], "author", length=16)),
        hlc=canonical.integer(fields[7], "hlc"),
    )
    if (fault := fault_of(start)) is not None:
        raise MalformedError("bad shape", fault)
    return start


def fault_of_stages(stages: Sequence[int]) -> str | None:
    """What is wrong with them, in words; None when nothing is."""
    if not 1 <= len(stages) <= STAGES_MAX:
        return f"{len(stages)} stages: 1 to {STAGES_MAX} can be"
    if list(stages) != sorted(set(stages)) or stages[0] < 1 or stages[-1] != 100:
        return f"stages {','.join(map(str, stages))}: they must rise from at least 1 and end at 100 percent"
    return None


def fault_of(start: Start) -> str | None:
    """What is wrong with a start, in words; None when nothing is."""
    if (fault := fault_of_stages(start.stages)) is not None:
        return fault
    if len(start.first) > FIRST_MAX or list(start.first) != sorted(set(start.first)):
        return f"{len(start.first)} first sites: at most {FIRST_MAX}, sorted, each once"
    if start.version == start.base:
        return "a rollout from a version to itself"
    return None


def parse_entry(key: str, value: bytes) -> Entry:
    """Raises `MalformedError`."""
    parts = _ENTRY_KEY.fullmatch(key)
    if parts is None or (parts[2] != "abort" and int(parts[2]) >= STAGES_MAX):
        raise MalformedError("bad shape", f"rollout key {key!r} is neither ID nor ID/STAGE or abort/AUTHOR/SEQ")
    fields = canonical.array(canonical.unpack_canonical(value, _VALUE_BYTES_MAX), "rollout entry", length=5)
    if canonical.integer(fields[0], "rollout entry format") != _FORMAT:
        raise MalformedError("wrong version", f"rollout entry format {fields[0]!r}")
    return Entry(
        rollout=RolloutId(bytes.fromhex(parts[1])),
        stage=None if parts[2] == "abort" else int(parts[2]),
        author=AuthorId(bytes.fromhex(parts[3])),
        seq=int(parts[4]),
        hlc=canonical.integer(fields[1], "hlc"),
        policy=canonical.text(fields[2], "policy", _POLICY_LENGTH_MAX),
        started=canonical.integer(fields[3], "started"),
        message=canonical.text(fields[4], "message", MESSAGE_LENGTH_MAX),
    )


def is_start(key: str) -> bool:
    return "/" not in key


def check_rollout_write(key: str, value: bytes, author: AuthorId, seq: int, hlc: int, base: int) -> None:
    """What an op by `author` at `seq` may say of rollouts. A checkpoint, in a generation that begins at `base`, may say
    again what its author said before. Raises `OpError` or `MalformedError`."""
    if is_start(key):
        start = parse_start(value)
        if key != start.id.hex():
            raise OpError("bad content", f"rollout key {key[:16]!r} is not the hash of its value")
        if start.author != author:
            raise OpError("bad content", "a rollout in another author's name")
        said, restated = start.hlc, base > 1
    else:
        entry = parse_entry(key, value)
        restated = entry.seq < base
        if entry.author != author or (entry.seq != seq and not restated):
            raise OpError("bad content", f"rollout entry {key!r} does not name its own op")
        said = entry.hlc
    if said > hlc or (said != hlc and not restated):
        raise OpError("bad content", "a rollout's timestamp differs from its op's")


# --- what it amounts to


@dataclass(frozen=True, slots=True)
class Progress:
    """What was said of one rollout since its start. A join semilattice: `Progress()` is its bottom."""

    stage: int = 0
    aborts: frozenset[Entry] = frozenset()

    def join(self, other: Progress) -> Progress:
        return Progress(max(self.stage, other.stage), self.aborts | other.aborts)


def progress_of(entry: Entry) -> Progress:
    """What one word adds."""
    return Progress(0, frozenset((entry,))) if entry.stage is None else Progress(entry.stage)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A start, and how far it has come."""

    start: Start
    progress: Progress = field(default_factory=Progress)

    @property
    def id(self) -> RolloutId:
        return self.start.id

    @property
    def stage(self) -> int:
        """The place of the stage in force; words about a stage that there is not count as the last."""
        return min(self.progress.stage, len(self.start.stages) - 1)

    @property
    def abort(self) -> Entry | None:
        """The first that was said."""
        return min(self.progress.aborts, key=lambda entry: (entry.hlc, entry.key), default=None)

    @property
    def complete(self) -> bool:
        """Whether it has come to its last stage: everybody."""
        return self.stage == len(self.start.stages) - 1

    def holds(self, site: str) -> bool:
        """Whether the stage in force includes the site."""
        return self.start.includes(site, self.stage)


class Served(Record):
    """Which version a site serves, and by what."""

    version: VersionId
    rollout: RolloutId | None = None
    """The rollout whose version it is; None: that of the policy's head."""
    stage: int = 0
    base: VersionId | None = None
    """What is served again when that rollout is given up."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a policy's head and its rollouts amount to."""

    served: Served
    """By everybody who is in no stage."""
    reached: tuple[RolloutId, ...]
    """The rollouts that have come to everybody, one built on the other."""
    current: Rollout | None
    """The one under way on top of it."""


def stand(version: VersionId, hlc: int, rollouts: Collection[Rollout], dismissed: Collection[RolloutId]) -> Standing:
    """Follow the rollouts that count from a head (its version and date) on. `dismissed` count as aborted.

    Of several that began on one base, one that has reached everybody is before those that have not, then the later.
    Each must be later than what it builds on, so this ends.
    """
    served, reached = Served(version), list[RolloutId]()
    while True:
        found = [
            rollout
            for rollout in rollouts
            if rollout.start.base == served.version
            and rollout.start.hlc > hlc
            and not rollout.progress.aborts
            and rollout.id not in dismissed
        ]
        chosen = max(found, key=lambda each: (each.complete, each.start.hlc, each.id), default=None)
        if chosen is None or not chosen.complete:
            return Standing(served, tuple(reached), chosen)
        served = Served(chosen.start.version, chosen.id, chosen.stage, served.version)
        reached.append(chosen.id)
        hlc = chosen.start.hlc


def serve(
    version: VersionId, hlc: int, rollouts: Collection[Rollout], site: str, dismissed: Collection[RolloutId]
) -> Served:
    """Which version a site serves."""
    standing = stand(version, hlc, rollouts, dismissed)
    current = standing.current
    if current is None or not current.holds(site):
        return standing.served
    return Served(current.start.version, current.id, current.stage, standing.served.version)


# --- what sites say of it


class Word(IntEnum):
    """What a site's row says of a rollout."""

    UNDECIDED = 0
    PASSED = 1
    """It has served the version in that stage, and enough went well."""
    ROLLED_BACK = 2
    """It went back, and will not serve the version again, because enough others found it bad."""
    CONDEMNED = 3
    """It found the version bad itself."""


class Saying(Record):
    """One word, as a row carries it."""

    rollout: RolloutId
    stage: int
    """In which it was found."""
    word: Word


def words_of(rollout: Rollout, sites: Mapping[str, Iterable[Saying]]) -> dict[str, Word]:
    """What each site says of the rollout as it is now: the worst of its nodes' words. (That it passed an earlier stage
    says nothing of this one.)"""
    return {
        site: max((_word(rollout, saying) for saying in said), default=Word.UNDECIDED) for site, said in sites.items()
    }


def _word(rollout: Rollout, saying: Saying) -> Word:
    if saying.rollout != rollout.id or (saying.word is Word.PASSED and saying.stage < rollout.stage):
        return Word.UNDECIDED
    return saying.word


def is_condemned(rollout: Rollout, words: Mapping[str, Word]) -> bool:
    """Whether so many sites found the version bad that everybody goes back.

    Of the sites in the stage: more than half of those that have a verdict, and two at least unless the stage holds only
    one. Or more than half of *all* sites say so, and two at least: so it stays when the first witnesses are gone.
    """
    inside = [word for site, word in words.items() if rollout.holds(site)]
    bad = sum(word >= Word.ROLLED_BACK for word in inside)
    decided = sum(word is not Word.UNDECIDED for word in inside)
    if bad >= min(2, len(inside)) and 2 * bad > decided:
        return True
    everywhere = sum(word >= Word.ROLLED_BACK for word in words.values())
    return everywhere >= 2 and 2 * everywhere > len(words)


def has_passed(rollout: Rollout, words: Mapping[str, Word]) -> bool:
    """Whether more than half of the sites in the stage found the version good; no word is none for it."""
    inside = [word for site, word in words.items() if rollout.holds(site)]
    return 2 * sum(word is Word.PASSED for word in inside) > len(inside)
