"""The rollouts of one policy Doc, kept beside it write by write, as the heads are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lattice.rollouts import Entry, Progress, Rollout, RolloutId, Start, is_start, parse_entry, parse_start, progress_of
from lattice.types import AuthorId
from lattice.yrs_gate import Write


@dataclass(slots=True)
class _Page:
    """What was said of one rollout; its start may be yet to come."""

    start: Start | None = None
    progress: Progress = field(default_factory=Progress)


class RolloutBook:
    """Starts, and what was said of each. Writes were checked by the apply pipeline."""

    def __init__(self) -> None:
        self._pages: dict[RolloutId, _Page] = {}

    def take(self, write: Write) -> None:
        if is_start(write.key):
            start = parse_start(write.value)
            self._page(start.id).start = start
        else:
            entry = parse_entry(write.key, write.value)
            page = self._page(entry.rollout)
            page.progress = page.progress.join(progress_of(entry))

    def _page(self, rollout: RolloutId) -> _Page:
        page = self._pages.get(rollout)
        if page is None:
            page = self._pages[rollout] = _Page()
        return page

    def of(self, policy: str, after: int, is_whole: Callable[[Start], bool]) -> tuple[Rollout, ...]:
        """Those of a policy that began after that timestamp and whose version is here, the earliest first."""
        found = [
            Rollout(page.start, page.progress)
            for page in self._pages.values()
            if page.start is not None
            and page.start.policy == policy
            and page.start.hlc > after
            and is_whole(page.start)
        ]
        return tuple(sorted(found, key=lambda each: (each.start.hlc, each.id)))

    def __bool__(self) -> bool:
        return bool(self._pages)


def still_counts(write: Write, author: AuthorId, ended: Callable[[str, int], bool]) -> bool:
    """Whether a checkpoint of that author must state a write of its own again; `ended(policy, timestamp)`: whether
    rollouts begun then are over."""
    if is_start(write.key):
        start = parse_start(write.value)
        return start.author == author and not ended(start.policy, start.hlc)
    entry: Entry = parse_entry(write.key, write.value)
    return entry.author == author and not ended(entry.policy, entry.started)
