"""Who moves, and how often: affinity when one of n regions dies, and damping under square waves, on a virtual clock.

Affinity: users with a cookie on n regions; one dies. Asked of two sites that know the same. Flapping: one of three
regions is up and down in equal turns for a virtual hour; its health block damps (the defaults of `damp`) with a
cooldown of 30 s. A return is a move that nothing forced: the region that the user had was well. All of it is exact:
another run gives the same numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import pairwise

from lattice.types import SECOND, Level, Micros
from router.decision.decide import decide
from router.decision.plan import SitePlace, plan
from router.decision.program import compile_policy
from router.decision.request import Request
from router.health.damping import RegionDamping
from router.policy import parse

SITES = (SitePlace("ams", 52_370_000, 4_900_000), SitePlace("syd", -33_870_000, 151_210_000))
PERIODS_S = (1, 2, 5, 10, 20, 30, 60, 90, 120, 180, 200, 240, 300, 400, 600)
HOUR_S = 3_600
TEN_MINUTES_US = 600 * SECOND


def regions(count: int) -> str:
    return "".join(f"region r{n} {{ at {10 + n} {20 * n - 120} endpoint 192.0.2.{n + 1}:80 }}\n" for n in range(count))


def affinity(count: int, users: int) -> dict[str, float | int]:
    """Shares of users: moved when r0 dies, moved though theirs lives, and placed otherwise by another site."""
    route = f'route all for "*" {{ primary nearest {count} stick by cookie("uid") for 1h }}\n'
    program = compile_policy(parse(f"edition 1\n{regions(count)}{route}"))
    well = dict.fromkeys(program.regions, Level.HEALTHY)
    requests = [Request("192.0.2.9", "h", "/", headers=(("cookie", f"uid=user-{n}"),)) for n in range(users)]
    before, elsewhere = (
        [decide(plan(program, well, site), request, frozenset()).region for request in requests] for site in SITES
    )
    table = plan(program, well | {"r0": Level.DOWN}, SITES[0])
    after = [decide(table, request, frozenset()).region for request in requests]
    pairs = list(zip(before, after, strict=True))
    return {
        "regions": count,
        "users": users,
        "moved_pct": round(100 * sum(was != now for was, now in pairs) / users, 2),
        "ideal_pct": round(100 / count, 2),
        "others_moved": sum(was != now for was, now in pairs if was != "r0"),
        "sites_disagree": sum(one != other for one, other in zip(before, elsewhere, strict=True)),
    }


def flapping(period_s: int) -> dict[str, float | int]:
    """Switches of a square wave over an hour, the most of them in any ten minutes, and a user's soonest second move."""
    health = "health default { damp penalty 1000 cooldown 30s }\n"
    route = 'route all for "*" { primary r0 secondary r1 tertiary r2 }\n'
    program = compile_policy(parse(f"edition 1\n{regions(3)}{health}{route}"))
    damping = RegionDamping()
    damping.configure(program.health)
    half = period_s * SECOND // 2
    well = dict.fromkeys(program.regions, Level.HEALTHY)
    request = Request("192.0.2.9", "h", "/")
    moves: list[int] = []
    returns: set[int] = set()
    where: str | None = None
    now, edge = 0, 0
    while now < HOUR_S * SECOND:
        down = (now // half) % 2 == 1
        damped = damping.levels(well | ({"r0": Level.DOWN} if down else {}), Micros(now))
        region = decide(plan(program, damped.levels, SITES[0]), request, frozenset()).region
        if where is not None and region != where:
            moves.append(now)
            if region == "r0":
                returns.add(now)
        where = region
        edge = (now // half + 1) * half
        now = min(edge, damped.next_change if damped.next_change and damped.next_change > now else edge)
    most = max((sum(at <= other < at + TEN_MINUTES_US for other in moves) for at in moves), default=0)
    gaps = [(after - before, after in returns) for before, after in pairwise(moves)]
    never = HOUR_S * SECOND
    return {
        "period_s": period_s,
        "switches_in_an_hour": len(moves),
        "most_in_ten_minutes": most,
        "soonest_second_move_s": round(min((gap for gap, _ in gaps), default=never) / SECOND, 1),
        "soonest_return_s": round(min((gap for gap, back in gaps if back), default=never) / SECOND, 1),
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench steering", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--users", type=int, default=20_000)
    options = parser.parse_args(argv)
    body = {
        "affinity": [affinity(count, options.users) for count in (2, 3, 5, 8, 12)],
        "flapping": [flapping(period) for period in PERIODS_S],
    }
    if options.json:
        print(json.dumps(body))
        return 0
    for part in ("affinity", "flapping"):
        for row in body[part]:
            print("  ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
