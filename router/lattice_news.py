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
    VerdictChanged,
)
from lattice.types import Micros, NodeId, short
from router.complaints import Complaints
from router.journal import Journal
from router.site.config_reader import endpoint_text

log = logging.getLogger("edgelattice")


class LatticeNews:
    """Of one node."""

    def __init__(self, journal: Journal, now: Callable[[], Micros], ours: Callable[[], NodeId]) -> None:
        """`ours` is this node."""
        self._journal = journal
        self._now = now
        self._ours = ours
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
                    f"the key of node {short(node)} speaks from {endpoint_text(endpoint)} as well: stop one of the two"
                )
                note("conflict", text)
                log.error("%s", text)
            case KeyRevoked(key, site):
                ours = key == self._ours()
                whose = "this node" if ours else f"{site}'s node" if site else "an author or a node"
                text = f"the CA has revoked the key of {whose} ({short(key)})"
                if ours:
                    text += ": peers do not listen to it any more; it goes on by its own evidence"
                note("revoked", text)
                log.warning("%s", text)
            case Rejected(what, reason, source):
                log.debug("%s from %s refused: %s", what, source and endpoint_text(source), reason)
                self._complaints.rejected(what, reason, source, self._now())
            case _:
                pass
