"""Who moves, and how often: affinity when one of n regions dies, and damping under square waves, on a virtual clock.

Affinity: users with a cookie on n regions; one dies. Asked of two sites that know the same. Flapping: one of three
regions is up and down in equal turns for a virtual hour, as the sites agree on it; its health block damps (the defaults
of `damp` and `probation`) with a cooldown of 30 s; users go back by the usual ramp. All of it is exact: another run
gives the same numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import pairwise

from lattice.types import SECOND, Level, Micros
from router.decision.decide import decide
from router.decision.failback import Failback
from router.decision.layout import SitePlace
from router.decision.plan import plan
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


def flapping(
    period_s: int,
    health: str = "damp penalty 1000 cooldown 30s",
    late_us: int = 0,
    users: int = 20,
    seconds: int = HOUR_S,
) -> dict[str, float | int]:
    """A square wave, users asked whenever something changes: how often the most restless one moved, most in any ten
    minutes, and the soonest second move of any. Recoveries are agreed upon so much later than failures."""
    route = 'route all for "*" { primary r0 secondary r1 tertiary r2 stick by cookie("uid") for 1h }\n'
    program = compile_policy(parse(f"edition 1\n{regions(3)}health default {{ {health} }}\n{route}"))
    damping, failback = RegionDamping(), Failback()
    damping.configure(program.health)
    half = period_s * SECOND // 2
    well = dict.fromkeys(program.regions, Level.HEALTHY)
    requests = [Request("192.0.2.9", "h", "/", headers=(("cookie", f"uid=user-{n}"),)) for n in range(users)]
    moves: list[list[int]] = [[] for _ in requests]
    where: list[str | None] = []
    known: object = None
    now = 0
    while now < seconds * SECOND:
        down = now >= half and ((now // half) % 2 == 1 or now % half < late_us)
        damped = damping.levels(well | ({"r0": Level.DOWN} if down else {}), Micros(now))
        back = failback.returning(damped.levels, Micros(now))
        if (damped.levels, back.away_ppm) != known:
            known = damped.levels, back.away_ppm
            table = plan(program, damped.levels, SITES[0], away_ppm=back.away_ppm)
            found = [decide(table, request, frozenset()).region for request in requests]
            for user, (was, region) in enumerate(zip(where or found, found, strict=True)):
                if was != region:
                    moves[user].append(now)
            where = found
        edges = [(now // half + 1) * half, now // half * half + late_us, damped.next_change, back.next_change]
        now = min(edge for edge in edges if edge is not None and edge > now)
    never = HOUR_S * SECOND
    gaps = [after - before for each in moves for before, after in pairwise(each)]
    return {
        "period_s": period_s,
        "moves_in_an_hour": max(len(each) for each in moves),
        "most_in_ten_minutes": max(
            sum(at <= other < at + TEN_MINUTES_US for other in each) for each in moves for at in (each or [0])
        ),
        "soonest_second_move_s": round(min(gaps, default=never) / SECOND, 1),
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
