"""One bounded, coverage-guided run of one target: ``python -m tests.fuzz.atheris_run NAME SECONDS CORPUS``.

It begins with the inputs in the directory CORPUS, and puts those there that reach something new: so a run goes on where
the last one was. In a process of its own: atheris ends the process it runs in, and a decoder that crashed would too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lattice", "router"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, seconds, corpus = sys.argv[1:]
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
    # -timeout and -rss_limit_mb: one input may neither hang the decoder nor bloat it.
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=5", "-rss_limit_mb=1024", "-verbosity=0"]
    options.append("-print_final_stats=1")
    atheris.Setup([sys.argv[0], *options, corpus], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
