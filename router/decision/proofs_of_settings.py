"""What is proved of a policy's settings: panic, affinity, retries."""

from __future__ import annotations

from router.decision.layout import SitePlace, lay_out
from router.decision.program import Program
from router.policy.errors import Findings
from router.policy.settings import IDEMPOTENT_METHODS, SAFE_METHODS, Retry, Settings, Stick
from router.policy.syntax import Named, Route, Tier
from router.policy.values import write_duration, write_percent


def check_settings(program: Program, route: Route, findings: Findings) -> None:
    arms: list[tuple[Settings, tuple[Tier, ...]]] = [(route.settings, route.tiers)]
    arms += [(rule.settings.over(route.settings), rule.tiers) for rule in route.rules if rule.refuse is None]
    for retry in {settings.retry: None for settings, _ in arms if settings.retry}:
        _check_retry(retry, findings)
    choosing: dict[Stick, set[str]] = {}
    for settings, tiers in arms:
        if settings.stick:
            choosing.setdefault(settings.stick, set()).update(may_take(program, tiers))
    for stick, regions in choosing.items():
        _check_affinity(stick, {name: program.regions[name].drain_us for name in sorted(regions)}, findings)


def _check_retry(retry: Retry, findings: Findings) -> None:
    unsafe = [method for method in retry.methods if method not in IDEMPOTENT_METHODS]
    if unsafe:
        findings.add(
            "E405",
            retry.span,
            f"{', '.join(unsafe)} may be retried, and so done twice",
            f"idempotent methods: {', '.join(IDEMPOTENT_METHODS)} ({', '.join(SAFE_METHODS)} change nothing)",
            "leave them out: what never reached a region is tried again anyway",
        )


def _check_affinity(stick: Stick, drains: dict[str, int | None], findings: Findings) -> None:
    """Where no region of them says how long it drains there is nothing to hold an affinity against."""
    shortest, region = min(((drain, name) for name, drain in drains.items() if drain is not None), default=(0, ""))
    if not region:
        return
    if shortest < stick.lifetime_us:
        findings.add(
            "E404",
            stick.span,
            f"users stick for {write_duration(stick.lifetime_us)}, but {region} drains for "
            f"{write_duration(shortest)} only",
            "an affinity no longer than the drain of every region it may choose",
            f"write: for {write_duration(shortest)}",
        )
    for name in [name for name, drain in drains.items() if drain is None]:
        findings.add(
            "E411",
            stick.span,
            f"users may stick to {name}, which declares no drain, and {region} does: so nothing is proved of it",
            "`drain` of every region that an affinity may choose, or of none",
            f"give {name} one, like: drain {write_duration(stick.lifetime_us)}",
        )


def check_panic(program: Program, findings: Findings) -> None:
    """A tier that health can never leave: without all of it so few candidates are left that health is not believed.

    That is how failover is configured and yet never happens (Envoy's panic threshold, its issues 2671 and 10770).
    """
    layout = lay_out(program, SitePlace("", 0, 0))
    for index, route in enumerate(program.routes):
        arms = [(route.span, layout.lane_of[index])]
        arms += [
            (rule.span, lanes)
            for rule, lanes in zip(route.rules, layout.rule_lanes[index], strict=True)
            if lanes is not None
        ]
        for span, lanes in arms:
            for lane in sorted(set(lanes.values())):
                numbers, _, settings, _ = layout.lanes[lane]
                if settings.panic is None:
                    continue
                tiers = [layout.candidates[number].tier for number in numbers]
                left, every = len(tiers) - tiers.count(tiers[0]), len(tiers)
                below_ppm = settings.panic.below_ppm
                if left and left * 1_000_000 < below_ppm * every:
                    findings.add(
                        "E407",
                        span,
                        f"health can never leave {tiers[0]}: with all of it DOWN, {left} of {every} candidates are "
                        f"left, fewer than {write_percent(below_ppm)}, and in panic it serves all the same",
                        "a panic threshold that the loss of one tier does not reach",
                        f"write: panic below {100 * left // every}%, or give the later tiers more regions",
                    )
                    break


def may_take(program: Program, tiers: tuple[Tier, ...]) -> set[str]:
    found: set[str] = set()
    for tier in tiers:
        if isinstance(tier.choice, Named):
            found |= {region.name for region in tier.choice.regions}
        else:
            found |= set(program.regions) if tier.choice.group is None else program.groups[tier.choice.group]
    return found
