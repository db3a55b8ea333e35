"""`python -m tests.bench SUBJECT [options]`: one benchmark per module, `main(argv) -> exit status`."""

from __future__ import annotations

import importlib
import sys

SUBJECTS = {
    "crashes": "tests.bench.crashes",
    "decide": "tests.bench.decide",
    "failover": "tests.bench.failover",
    "idle": "tests.bench.idle",
    "figures": "tests.bench.figures",
    "gossip": "tests.bench.gossip",
    "heal": "tests.bench.heal",
    "http-cache": "tests.bench.http_cache",
    "mutants": "tests.bench.mutants",
    "proxy": "tests.bench.proxy",
    "relay": "tests.bench.relay",
    "sim": "tests.bench.sim",
    "steering": "tests.bench.steering",
    "swim": "tests.bench.swim",
    "trials": "tests.bench.trials",
    "tunnels": "tests.bench.tunnels",
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in SUBJECTS:
        print(f"usage: python -m tests.bench {{{','.join(sorted(SUBJECTS))}}} [options]", file=sys.stderr)
        return 2
    return int(importlib.import_module(SUBJECTS[argv[0]]).main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
