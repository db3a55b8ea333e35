"""What the lattice notifies, in words: into the journal, and to the log where somebody should act (edge)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from lattice.events import (
    EquivocationProven,
    IdConflict,
    KeyRevoked,
    MemberChanged,
    Notification,
    RegionChanged,
    Rejected,
    RolledBack,
    VerdictChanged,
)
from lattice.types import SECOND, Micros, NodeId, short
from lattice.view import LatticeView
from router.complaints import Complaints
from router.journal import Journal
from router.site.config_reader import endpoint_text

log = logging.getLogger("edgelattice")

CONFLICT_WARNED_US = 300 * SECOND
"""How long somebody who looks is warned of a conflict; while it goes on it is told once a minute."""
CLOCK_OFF_MS_MAX = 60_000
"""Policy's windows, and certificates, count in minutes."""


class LatticeNews:
    """Of one node."""

    def __init__(self, journal: Journal, now: Callable[[], Micros], view: Callable[[], LatticeView]) -> None:
        self._journal = journal
        self._now = now
        self._view = view
        self._conflicts: dict[NodeId, tuple[str, Micros]] = {}
        self._complaints = Complaints(journal, log.warning)

    def tell(self, notification: Notification) -> None:
        """What no person asks for is not told."""
        note = self._journal.note
        match notification:
            case RegionChanged(region, old, new, reason):
                text = f"{region} {old.name} -> {new.name} ({reason})"
                note("region", text, region=region, old=old.name, new=new.name)
            case VerdictChanged(region, old, new):
                text = f"the lattice's verdict on {region}: {old.name} -> {new.name}"
                note("verdict", text, region=region, old=old.name, new=new.name)
            case MemberChanged(node, site, state):
                note("member", f"{site} ({short(node)}) {state}", site=site, state=state)
            case EquivocationProven(node, site, incarnation, spent):
                follows = "its key never votes again" if spent else "it does not vote until it begins anew"
                text = f"{site} ({short(node)}) said two things in incarnation {incarnation}: {follows}"
                note("equivocation", text, site=site)
                log.error("%s", text)
            case IdConflict(node, endpoint):
                text = (
                    f"the key of {self._whose(node)} ({short(node)}) speaks from {endpoint_text(endpoint)} as well: "
                    "stop one of the two, or revoke the key if it was stolen (`edgelattice ca revoke`)"
                )
                self._conflicts[node] = text, self._now()
                note("conflict", text)
                log.error("%s", text)
            case KeyRevoked(key, site):
                ours = key == self._view().node
                whose = "this node" if ours else f"{site}'s node" if site else "an author or a node"
                text = f"the CA has revoked the key of {whose} ({short(key)})"
                if ours:
                    text += ": peers do not listen to it any more; it goes on by its own evidence"
                note("revoked", text)
                log.warning("%s", text)
            case RolledBack(policy, rollout, version):
                which = f"rollout {short(rollout)} of {policy} {short(version)}"
                text = f"{which} is given up by all: enough sites found it bad"
                note("rollout", text, policy=policy, version=version.hex())
                log.warning("%s", text)
            case Rejected(what, reason, source):
                log.debug("%s from %s refused: %s", what, source and endpoint_text(source), reason)
                self._complaints.rejected(what, reason, source, self._now())
            case _:
                pass

    def warnings(self) -> list[str]:
        """What goes on that somebody should end."""
        since = self._now() - CONFLICT_WARNED_US
        self._conflicts = {node: told for node, told in self._conflicts.items() if told[1] > since}
        return [text for _, (text, _) in sorted(self._conflicts.items())]

    def _whose(self, node: NodeId) -> str:
        view = self._view()
        if node == view.node:
            return "this node"
        return next((f"{member.site}'s node" for member in view.members if member.node == node), "a node")


def clock_warning(off_ms: int) -> str | None:
    """What to say of a clock that is so far ahead of most sites', or behind (negative); None if it is not far."""
    if abs(off_ms) < CLOCK_OFF_MS_MAX:
        return None
    return (
        f"this node's clock is {abs(off_ms) // 1_000} s {'ahead of' if off_ms > 0 else 'behind'} most sites': policy's "
        "time windows, certificates and the dates of what is published here go by it; set it, and start the node anew"
    )
