"""The router's decision, as the simulator uses it: the only module that knows where plan, decide and policy live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lattice.types import Endpoint, Level, Micros, VersionId
from router.decision.decide import Decision, Request, decide
from router.decision.layout import SitePlace
from router.decision.plan import RouteTable, plan
from router.decision.program import Program, compile_policy
from router.health.ejection import EjectionMask
from router.policy import PolicyError, blocks, parse
from sim.topology import Place
from sim.world import Region

HOST = "shop.example.com"
PROBE_UPSTREAM_PORT = 8_443


def endpoint_of_region(number: int) -> Endpoint:
    return (f"192.0.2.{number + 1}" if number < 254 else f"198.18.{number >> 8}.{number & 255}", PROBE_UPSTREAM_PORT)


def policy_text(regions: Sequence[Region], version: int, canary: str = "") -> str:
    """The policy that users go by: the nearest region, then the next two, then any."""
    lines = ["edition 1\n", f"# version {version}{canary}\n"]
    for number, region in enumerate(regions):
        host, port = endpoint_of_region(number)
        lines.append(
            f"region {region.name} {{ at {region.latitude_e6 / 1e6:.6f} {region.longitude_e6 / 1e6:.6f}  "
            f"endpoint {host}:{port} }}\n"
        )
    tiers = ["  primary nearest\n"]
    if len(regions) > 1:
        tiers.append("  secondary nearest 2\n")
    if len(regions) > 3:
        tiers.append("  tertiary any\n")
    lines.append(f'route shop for "{HOST}" path "/**" {{\n{"".join(tiers)}  otherwise deny 503\n}}\n')
    return "".join(lines)


def policy_blocks(text: str) -> list[str]:
    """The text cut as it is replicated."""
    return list(blocks(text))


class Programs:
    """Compiled policies, each version once for all nodes; None for one that does not compile."""

    def __init__(self) -> None:
        self._programs: dict[VersionId, Program | None] = {}

    def of(self, version: VersionId, text: str) -> Program | None:
        if version not in self._programs:
            try:
                self._programs[version] = compile_policy(parse(text))
            except PolicyError:
                self._programs[version] = None
        return self._programs[version]


class NodeRouter:
    """What one node's router knows: the table in force, and which endpoints are out of use here."""

    def __init__(self, name: str, place: Place) -> None:
        self.place = SitePlace(name, place.latitude_e6, place.longitude_e6)
        self.table: RouteTable | None = None
        self.program: Program | None = None
        self.mask = EjectionMask()
        self.stale = True

    def replan(self, levels: Mapping[str, Level]) -> None:
        """Make the table anew; without a program there is none."""
        self.table = plan(self.program, levels, self.place) if self.program is not None else None
        self.stale = False

    def decide(self, client: str, now: Micros) -> Decision | None:
        """Where a request goes; None while there is no policy."""
        if self.table is None:
            return None
        self.mask.expire(now)
        return decide(self.table, Request(client, HOST, "/"), self.mask.ejected)
