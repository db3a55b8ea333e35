"""What a person should hear of, and would hear of with every datagram: each kind once a minute at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lattice.types import SECOND, Endpoint, Micros
from router.journal import Journal
from router.site.config_reader import endpoint_text

TOLD_US: Final = 60 * SECOND
FORGERIES: Final = frozenset(f"bad {what} signature" for what in ("row", "op", "revocation", "purge"))
"""It came sealed, and no honest node passes on what does not hold."""


class Complaints:
    """Of one node, into its journal and to `say`, its log."""

    def __init__(self, journal: Journal, say: Callable[[str], None]) -> None:
        self._journal = journal
        self._say = say
        self._told_at: dict[str, Micros] = {}

    def rejected(self, what: str, reason: str, source: Endpoint | None, now: Micros) -> None:
        """Something from the network was refused; `reason` begins with the word under which it is counted."""
        kind, _, detail = reason.partition(": ")
        if (what, kind) == ("op", "from the future"):
            self._complain(
                "clock",
                "policy dated ahead of this node's clock, and of most others', was refused: an author's clock is wrong",
                now,
            )
        elif kind == "wrong version":
            self._complain(
                "version",
                f"a {what} from {_where(source)} is of protocol version {detail}: nodes of two versions do not hear "
                "each other; run one release of edgelattice at all sites",
                now,
            )
        elif kind == "unknown key":
            self._complain(
                "keys",
                f"a {what} from {_where(source)} is sealed with key {detail}: one of the two has missed a step of a "
                "change of keys, and is not heard by the other until it is done there; see `edgelattice keys list`",
                now,
            )
        elif kind in FORGERIES and source is not None:
            self._complain(
                "forgery",
                f"from {_where(source)} came a {what} that is not signed by whom it names ({detail}): whoever sends it "
                "has the cluster's keys and lies, or its memory is failing; stop that node, or revoke its key "
                "(`edgelattice ca revoke`)",
                now,
            )
        elif kind in ("plain frame", "sealed frame"):
            sealed = "sealed, and this node's are not" if kind == "sealed frame" else "not sealed, and this node's are"
            self._complain(
                "keys",
                f"a {what} from {_where(source)} is {sealed}: insecure = true is for all sites of a cluster, or none",
                now,
            )

    def _complain(self, kind: str, text: str, now: Micros) -> None:
        told_at = self._told_at.get(kind)
        if told_at is None or now >= told_at + TOLD_US:
            self._told_at[kind] = now
            self._journal.note(kind, text)
            self._say(text)


def _where(source: Endpoint | None) -> str:
    return endpoint_text(source) if source is not None else "nowhere"
