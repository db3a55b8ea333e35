"""A decision as bytes, one way only: what every form of a policy must give, and what nodes and runtimes compare.

JSON (RFC 8259) in ASCII without spaces. Every field is there, in the order below; attempts are `[region, tier, level,
host, port]`; settings are as in the JSON form of the policy, so that what has its default value is left out. Equal
decisions have equal bytes and different ones have not.
"""

from __future__ import annotations

import json

from router.decision.decide import Decision
from router.policy.json_form import plain


def plain_decision(decision: Decision) -> dict[str, object]:
    """The decision as JSON has it."""
    return {
        "route": decision.route,
        "zone": decision.zone,
        "rule": decision.rule,
        "proposed": decision.proposed,
        "region": decision.region,
        "tier": decision.tier,
        "reason": decision.reason,
        "status": decision.status,
        "attempts": [[one.region, one.tier, one.level.name, *one.endpoint] for one in decision.attempts],
        "settings": plain(decision.settings),
    }


def decision_bytes(decision: Decision) -> bytes:
    """The canonical encoding of a decision."""
    return json.dumps(plain_decision(decision), separators=(",", ":")).encode("ascii")
