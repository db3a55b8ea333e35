"""Rollouts in the control API's answers, and what serves beside them. Pure."""

from __future__ import annotations

from lattice.policy_ops import hlc_ms
from lattice.types import VersionId
from lattice.view import LatticeView, PolicyView, RolloutView
from router.control.body import AbortBody, PolicyBody, RolloutBody, RolloutSiteBody


def policy_body(
    policy: PolicyView, view: LatticeView, applied_ms: int | None, in_force: tuple[VersionId, str] | None
) -> PolicyBody:
    """A policy as everybody serves it who is in no stage: by its head, or by a rollout that has reached everybody."""
    version = view.standing(policy.policy)
    by = next((each for each in view.rollouts if each.start.version == version and each.state == "complete"), None)
    return PolicyBody(
        policy=policy.policy,
        version=(version or policy.version).hex(),
        author=(policy.author if by is None else by.start.author).hex(),
        message=policy.message if by is None else by.message,
        published_ms=policy.published_ms if by is None else hlc_ms(by.start.hlc),
        applied_ms=applied_ms,
        rivals=[rival.hex() for rival in policy.rivals],
        in_force="" if in_force is None else in_force[0].hex(),
        trial="" if in_force is None else in_force[1],
    )


def rollouts_body(view: LatticeView) -> list[RolloutBody]:
    return [_rollout(rollout, view) for rollout in view.rollouts]


def _rollout(rollout: RolloutView, view: LatticeView) -> RolloutBody:
    start, abort = rollout.start, rollout.abort
    in_force = {member.site: dict(member.applied).get(start.policy) for member in view.members}
    return RolloutBody(
        id=rollout.id.hex(),
        policy=start.policy,
        version=start.version.hex(),
        base=start.base.hex(),
        stages=list(start.stages),
        stage=rollout.stage,
        first=list(start.first),
        author=start.author.hex(),
        message=rollout.message,
        started_ms=hlc_ms(start.hlc),
        start=start.packed().hex(),
        state=rollout.state,
        abort=None if abort is None else AbortBody(abort.author.hex(), abort.message, hlc_ms(abort.hlc)),
        passed=rollout.passed,
        sites=[
            RolloutSiteBody(site, inside, word.name.lower().replace("_", " "), (in_force.get(site) or b"").hex())
            for site, inside, word in rollout.sites
        ],
    )
