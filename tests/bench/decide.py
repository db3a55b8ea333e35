"""What a decision costs: 16 regions, 20 rules, 400,000 prefixes; single calls, each timed by itself.

The clock's own cost (measured in the same run) is taken off single calls. Numbers are of this machine and this moment.
The table is warm (`warm`), as a node's is some seconds after a change; its clients are cold. Each request is made
right before it is decided, as a node makes it: what was just read from a socket is in the processor's cache.
*Seen* is a client whose last request was the same (`SeenClients`, as a node has it); *flip* runs from the ejection of
the chosen endpoint to the end of the next decision, of a seen client and of a cold one. What takes milliseconds is
measured in CPU time, since others may want the machine. With --rivals, one rule is put to cel-python, cedarpy and
regopy too (`policy_rivals`).
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random

from lattice.types import Endpoint, Level
from router.decision.decide import Decision, decide, warm
from router.decision.layout import SitePlace
from router.decision.plan import RouteTable, plan
from router.decision.program import compile_policy
from router.decision.proofs import prove
from router.decision.request import Request
from router.decision.seen import SeenClients
from router.decision.wasm.abi import request_bytes, view_bytes
from router.decision.wasm.host import WasmPolicy
from router.decision.wasm.module import policy_module
from router.geolocation import GeoDatabase
from router.policy import format_policy, parse
from router.policy.syntax import Cidr, Policy, Zone
from router.policy.values import read_cidr
from tests.bench import policy_rivals
from tests.bench.yardstick import interpreter, yardstick_ns
from tests.router.mmdb_writer import database

REGIONS, RULES, PREFIXES, ZONES = 16, 20, 400_000, 250
HERE = SitePlace("here", 50_000_000, 8_000_000)
MAPPING_STEP = 1 << 10


def policy_text(regions: int, rules: int) -> str:
    """A policy of ordinary rules: paths, methods, headers, countries."""
    lines = ["edition 1"]
    for number in range(regions):
        latitude, longitude = -60 + number * 120 // regions, -170 + number * 340 // regions
        lines.append(f"region r{number} {{ at {latitude} {longitude} endpoint 192.0.2.{number + 1}:80 }}")
    lines.append("group some { " + ", ".join(f"r{number}" for number in range(regions // 2)) + " }")
    lines.append("zone eu { at 50 9 country DE, FR continent EU }")
    lines.append('route shop for "shop.example.com" {')
    for number in range(rules):
        condition = (
            f'path in "/v{number}/**" and method in GET, POST',
            f'header("x-tenant") in "t{number}", "u{number}"',
            f'country in DE, FR and path in "/eu{number}/**"',
            f'path in "/a/*/c{number}" or query("q") in "{number}"',
        )[number % 4]
        lines.append(f"  rule r{number} {{ when {condition} primary nearest of some secondary any }}")
    lines.append("  primary nearest\n  secondary nearest 2\n  tertiary any\n}")
    lines.append('never elsewhere { when country in DE and path in "/eu2/x" serves r99 }'.replace("r99", "r0"))
    return "\n".join(lines[:-1]) + "\n"


def with_prefixes(policy: Policy, count: int) -> Policy:
    """Many blocks of addresses over many zones, each with a place of its own."""
    random = Random(1)
    blocks: list[list[Cidr]] = [[] for _ in range(ZONES)]
    for number in range(count):
        address = (1 << 24) + number * MAPPING_STEP * 8
        text = f"{address >> 24 & 255}.{address >> 16 & 255}.{address >> 8 & 255}.0/24"
        blocks[number % ZONES].append(Cidr(read_cidr(text)))
    zones = tuple(
        Zone(f"z{number}", tuple(cidrs), random.randint(-60, 60) * 1_000_000, random.randint(-170, 170) * 1_000_000)
        for number, cidrs in enumerate(blocks)
    )
    return Policy(1, policy.regions, (*policy.zones, *zones), policy.health, policy.routes, policy.groups)


def spread(costs: list[int], clock_ns: int) -> tuple[int, int]:
    costs.sort()
    return costs[len(costs) // 2] - clock_ns, costs[len(costs) * 99 // 100] - clock_ns


def timed(calls: list[Callable[[], object]]) -> list[int]:
    costs = []
    clock = time.perf_counter_ns
    for call in calls:
        start = clock()
        call()
        costs.append(clock() - start)
    return costs


def decide_costs(
    table: RouteTable,
    requests: list[Request],
    ejected: set[Endpoint],
    how: Callable[[RouteTable, Request, set[Endpoint]], Decision] = decide,
) -> list[int]:
    costs = []
    clock = time.perf_counter_ns
    for request in requests:
        request = Request(*request)
        start = clock()
        how(table, request, ejected)
        costs.append(clock() - start)
    return costs


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench decide", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prefixes", type=int, default=PREFIXES)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--rivals", action="store_true", help="also cel-python, cedarpy and regopy, on one rule")
    options = parser.parse_args(argv)
    clock_ns = sorted(timed([int] * 10_000))[5_000]
    text = policy_text(REGIONS, RULES)
    base = parse(text)
    levels = {region.name: Level.HEALTHY for region in base.regions}
    program = compile_policy(with_prefixes(base, options.prefixes))
    table = plan(program, levels, HERE)
    random = Random(2)
    requests = [
        Request(
            client=f"{random.randint(1, 200)}.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(256)}",
            host="shop.example.com",
            path=random.choice(("/v3/cart", "/item/1", "/eu6/x", "/a/b/c7", "/v4/x?q=1")),
            headers=(("x-tenant", f"t{random.randrange(40)}"),),  # all that the policy asks for: `Program.needs`
            country=random.choice(("DE", "US", "")),
        )
        for _ in range(options.samples)
    ]
    gc.collect()
    gc.freeze()
    warmed = sum(1 for _ in warm(table))
    decide_costs(table, requests[:2_000], set())
    yardsticks = [yardstick_ns()]
    p50, p99 = spread(decide_costs(table, requests, set()), clock_ns)
    seen = SeenClients()
    again = [Request(*requests[0]) for _ in range(20_000)]
    seen.decide(table, requests[0], set())
    seen_p50, seen_p99 = spread(decide_costs(table, again, set(), seen.decide), clock_ns)
    start = time.process_time()
    for request in requests:
        decide(table, request, frozenset())
    per_s = int(len(requests) / (time.process_time() - start))

    wasm = WasmPolicy(policy_module(program))
    wasm.plan(view_bytes(program, levels, HERE))
    asked = [request_bytes(request) for request in requests[:5_000]]
    wasm_ns, _ = spread(timed([partial(wasm.decide, each) for each in asked]), clock_ns)

    flips = {}
    for name, how in (("seen", seen.decide), ("cold", decide)):
        costs = []
        for request in requests[:5_000]:
            ejected: set[Endpoint] = set()
            endpoint = how(table, request, ejected).attempts[0].endpoint
            start_ns = time.perf_counter_ns()
            ejected.add(endpoint)
            after = how(table, request, ejected)
            costs.append(time.perf_counter_ns() - start_ns)
            assert after.attempts[0].endpoint != endpoint
        flips[name] = spread(costs, clock_ns)

    small = compile_policy(with_prefixes(parse(policy_text(12, 0)), ZONES * 4))
    plans = []
    for number in range(50):
        changed = levels | {f"r{number % 12}": Level.DOWN if number % 2 else Level.DEGRADED}
        start = time.process_time()
        plan(small, changed, HERE)
        plans.append(time.process_time() - start)
    plans.sort()
    yardsticks.append(yardstick_ns())

    start = time.process_time()
    wrong = prove(compile_policy(parse(policy_text(REGIONS, 50))))
    check_s = time.process_time() - start
    assert not wrong, wrong[0].message
    long_text = (
        "edition 1\n"
        + "".join(f"region r{n} {{\n  at 10 {n % 170}\n  endpoint 10.0.{n >> 8}.{n & 255}:80\n}}\n" for n in range(250))
        + "".join(
            f'route q{n} for "h{n}.example.com" {{\n  rule a {{ when path in "/x/**" primary nearest }}\n'
            "  primary nearest\n  secondary any\n}\n"
            for n in range(800)
        )
    )
    start = time.process_time()
    format_policy(long_text)  # which parses it first
    lines_s = (time.process_time() - start) * 5_000 / long_text.count("\n")

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "geo.mmdb"
        path.write_bytes(database({f"10.{n}.0.0/16": {"country": "DE", "asn": n} for n in range(256)}))
        geo = GeoDatabase(path)
        addresses = [f"10.{random.randrange(256)}.{random.randrange(256)}.1" for _ in range(20_000)]
        geo_ns, _ = spread(timed([lambda address=address: geo.place(address) for address in addresses]), clock_ns)  # type: ignore[misc]  # bound per call

    figures = {
        "decide_p50_ns": p50,
        "decide_p99_ns": p99,
        "decide_seen_p50_ns": seen_p50,
        "decide_seen_p99_ns": seen_p99,
        "decisions_per_s": per_s,
        "plan_ms": round(plans[len(plans) // 2] * 1_000, 3),
        "flip_to_next_decision_us": round(flips["seen"][0] / 1_000, 2),
        "flip_to_next_decision_p99_us": round(flips["seen"][1] / 1_000, 2),
        "flip_to_next_cold_decision_us": round(flips["cold"][0] / 1_000, 2),
        "geo_lookup_ns": geo_ns,
        "wasm_call_us": round(wasm_ns / 1_000, 2),
        "check_s": round(check_s, 3),
        "parse_and_format_5000_lines_s": round(lines_s, 3),
        "samples": options.samples,
        "prefixes": options.prefixes,
        "lanes_warmed": warmed,
        "yardstick_ns": max(yardsticks),
        "interpreter": interpreter(),
    }
    if options.rivals:
        figures |= policy_rivals.measure()
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:32} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
