"""What of a site file that is read anew comes into force while a node runs, and what waits for its next start.

A node takes on how users and endpoints are spoken to, where users come, and by how many processes they are served. Who
it is, where its peers and operators find it, and how its engine keeps time, its peers hold it to: these stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Final

from router.site.site_config import SiteConfig

_UNITS: Final = ("_us", "_e6")
_KEPT_FRESH: Final = {"cluster.keys"}
"""The node looks at these files by itself."""


def reloaded(config: SiteConfig, fresh: SiteConfig) -> SiteConfig:
    """`config`, with what of the fresh file comes into force at once."""
    timing = replace(config.timing, drain_us=fresh.timing.drain_us, failback_us=fresh.timing.failback_us)
    return replace(
        config, http=fresh.http, tls=fresh.tls, upstream=fresh.upstream, tcp=fresh.tcp, cache=fresh.cache, timing=timing
    )


def left_for_a_start(config: SiteConfig, fresh: SiteConfig) -> Iterator[str]:
    """The keys of which the fresh file says something else, and that only a start brings into force, like
    "gossip.listen". `config` is what is in force."""
    for part in (each.name for each in fields(config) if is_dataclass(getattr(config, each.name))):
        ours, theirs = getattr(config, part), getattr(fresh, part)
        for field in fields(ours):
            if getattr(ours, field.name) != getattr(theirs, field.name):
                name = field.name
                for unit in _UNITS:
                    name = name.removesuffix(unit)
                if f"{part}.{name}" not in _KEPT_FRESH:
                    yield f"{part}.{name}"
