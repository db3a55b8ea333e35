"""How this site asks an endpoint whether it is well: at which addresses, by which socket and TLS (edge).

When to ask is `health.health_check`'s, and one question `health.probe_once`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from router.credentials import Credentials
from router.decision.program import Program
from router.health.health_check import ProbeTarget
from router.health.probe_once import ProbeResult, probe_once
from router.policy.probe import ProbeKind
from router.site.site_config import UpstreamPart
from router.traffic.upstream_address import AddressRule
from router.traffic.upstream_tls import UpstreamTlsError


class Prober:
    """Asks as `upstream` of the site file says."""

    def __init__(self, upstream: UpstreamPart, credentials: Credentials) -> None:
        self._credentials = credentials
        self.configure(upstream)

    def configure(self, upstream: UpstreamPart) -> None:
        """From the next question on."""
        self._unix = dict(upstream.unix)
        self._addresses = AddressRule(upstream.allow)

    async def ask(self, target: ProbeTarget) -> ProbeResult:
        unix = self._unix.get(target.endpoint)
        why = self._addresses.why_refused(target.endpoint[0]) if unix is None else None
        if why is not None:
            await trio.lowlevel.checkpoint()
            return ProbeResult(False, 0, connect_failed=True, detail=f"{why} address: refused by this site")
        if target.tls is None:
            return await probe_once(target.endpoint, target.probe, target.timeout_us, unix=unix)
        protocol = "h2" if target.probe.kind is ProbeKind.GRPC else "http/1.1"
        try:
            context = self._credentials.upstream_tls.context(protocol)
        except UpstreamTlsError as error:
            return ProbeResult(False, 0, connect_failed=True, detail=str(error), ours=True)
        return await probe_once(
            target.endpoint, target.probe, target.timeout_us, tls=target.tls, context=context, unix=unix
        )


def targets_of(program: Program) -> Iterator[ProbeTarget]:
    """All that a policy has probed."""
    for name, region in program.regions.items():
        health = program.health[name]
        for endpoint in region.endpoints:
            yield ProbeTarget(
                region=name,
                endpoint=(endpoint.host, endpoint.port),
                every_us=health.probe_interval_us,
                timeout_us=health.probe_timeout_us,
                fail_after=health.fail_after,
                probe=health.probe,
                tls=endpoint.tls,
            )
