"""Who asks the control API over mutual TLS, and what each role may.

A certificate of the cluster's CA says who somebody is (`lattice.certificates`). What is signed on its own account (ops,
revocations, purges, a region's word) counts by that signature whoever brings it; the role here decides who may knock.

=========== =========================================================================================================
viewer      looks: every GET
node        looks
region      says how it is: POST /update
controller  looks, and brings what it signed of rollouts: POST /v1/rollouts
operator    everything
=========== =========================================================================================================
"""

from __future__ import annotations

from typing import Final, NamedTuple

from lattice.grants import Role

CALLER: Final = "edgelattice.caller"
"""Where a request's scope says who asks; not there without TLS."""
_READS: Final = frozenset({"GET", "HEAD"})
_HEALTH: Final = "/healthz"


class Caller(NamedTuple):
    """Whoever showed a certificate that holds."""

    role: Role
    name: str

    def why_refused(self, method: str, path: str) -> str | None:
        """Why this caller may not ask that; None if it may."""
        match self.role:
            case Role.OPERATOR:
                return None
            case Role.REGION:
                return None if (method, path) == ("POST", "/update") or path == _HEALTH else "a region may POST /update"
            case Role.CONTROLLER:
                may = method in _READS or (method, path) == ("POST", "/v1/rollouts")
                return None if may else "a controller may look and POST /v1/rollouts"
            case Role.VIEWER | Role.NODE:
                return None if method in _READS else f"a {self.role} may look, and change nothing"
