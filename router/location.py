"""Where clients are, from a database that may change on disk (edge).

The node owns one `Locations`. It fills in country, continent, ASN and location of requests when the policy in force
reads them, and looks at the file every second; what happened to it goes to the journal, and what is wrong with it to
`status`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import trio

from lattice.types import SECOND
from router.decision.request import Request
from router.geolocation import NOWHERE, GeoDatabase
from router.journal import Journal

log = logging.getLogger("edgelattice")

LOOK_INTERVAL_US: Final = SECOND
LAST_GOOD_FILE: Final = "location.mmdb"


class Locations:
    def __init__(self, path: Path, state_dir: Path, journal: Journal, *, keep: bool = True) -> None:
        """`keep` says whether this process writes the copy of the last good file in `state_dir`."""
        self._journal = journal
        self._database = GeoDatabase(path, state_dir / LAST_GOOD_FILE, keep=keep)
        self._told = ""
        self._tell()

    @property
    def problem(self) -> str:
        """What is wrong with the file; "" when it is in use as it is."""
        return self._database.problem

    def located(self, request: Request) -> Request:
        """With the client's place, unless whoever asks has said it."""
        if request.country or request.continent or request.asn or request.location:
            return request
        place = self._database.place(request.client)
        if place == NOWHERE:
            return request
        return request._replace(
            country=place.country, continent=place.continent, asn=place.asn, location=place.location
        )

    async def keep(self) -> None:
        """Follow the file for as long as the node runs."""
        while True:
            await trio.sleep(LOOK_INTERVAL_US / SECOND)
            if await trio.to_thread.run_sync(self._database.reload):
                self._journal.note("geo", "the location database was read anew")
            self._tell()

    def _tell(self) -> None:
        """A new problem, once."""
        problem = self._database.problem
        if problem and problem != self._told:
            text = f"location database: {problem}; what was read before stays in use"
            self._journal.note("geo", text)
            log.error("%s", text)
        self._told = problem
