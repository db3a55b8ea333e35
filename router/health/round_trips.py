"""How far regions are from this site, by the connections that probes make. Pure.

What a connect takes is a round trip and whatever queued on the way or here, so the least of the last few is the best
estimate of the way alone (as BBR takes it: Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016). What the
plan is told stays as it is until the estimate has clearly left its bucket (`lattice.quantise`), so that *nearest* does
not change with the noise. A region that cannot be reached is as far as it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Final

from lattice.quantise import lower_edge, requantise

SAMPLES: Final = 16
"""Of a region; with usual probe intervals the last 4 to 16 s."""
SAMPLES_MIN: Final = 4
"""Before these, nothing is said: a first connect pays for caches on the way."""


class RoundTrips:
    def __init__(self) -> None:
        self._samples: dict[str, deque[int]] = {}
        self._buckets: dict[str, int] = {}

    def retain(self, regions: Collection[str]) -> None:
        """Forget all but these."""
        for region in [name for name in self._samples if name not in regions]:
            del self._samples[region]
            self._buckets.pop(region, None)

    def measured(self, region: str, rtt_us: int) -> None:
        samples = self._samples.setdefault(region, deque(maxlen=SAMPLES))
        samples.append(rtt_us)
        if len(samples) >= SAMPLES_MIN:
            self._buckets[region] = requantise(min(samples), self._buckets.get(region))

    def rtt_us(self) -> Mapping[str, int]:
        """By region, sorted; regions without enough samples are not there."""
        return {region: lower_edge(self._buckets[region]) for region in sorted(self._buckets)}
