"""Damaged policies: ten thousand of them, each an end in diagnostics or a policy, and how long the slowest took.

The mutations are those of `tests/router/policy/test_policy_parser.py`, on every golden source and on the whole
language; CI plays 2,000 of them. CPU time of parsing and checking, since others may want the machine; the grammar is
loaded before, as a node loads it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from random import Random

from router.policy import PolicyError, parse
from tests.router.policy.test_policy_parser import SOURCES, WHOLE, mutated


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench mutants", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", default="mutants")
    options = parser.parse_args(argv)
    parse(WHOLE)
    random = Random(options.seed)
    costs: list[int] = []
    refused = escaped = 0
    for number in range(options.count):
        text = mutated(SOURCES[number % len(SOURCES)] if number % 2 else WHOLE, random)
        start = time.process_time_ns()
        try:
            parse(text)
        except PolicyError as error:
            refused += 1
            error.render(text)
        except Exception as error:  # noqa: BLE001  (this is what is counted)
            escaped += 1
            print(f"{type(error).__name__} of {text!r}", file=sys.stderr)
        costs.append(time.process_time_ns() - start)
    costs.sort()
    figures = {
        "mutants": options.count,
        "refused": refused,
        "escaped": escaped,
        "p50_ms": round(costs[len(costs) // 2] / 1e6, 2),
        "p99_ms": round(costs[len(costs) * 99 // 100] / 1e6, 2),
        "slowest_ms": round(costs[-1] / 1e6, 2),
    }
    print(json.dumps(figures) if options.json else "\n".join(f"{name:12} {value}" for name, value in figures.items()))
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
