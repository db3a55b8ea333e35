"""Flap damping: a region that comes and goes is left alone until it has made up its mind (RFC 2439).

It counts changes of the *agreed* level of a region, never of one prober's: RIPE advised against route flap damping
because one event, seen along many paths, was counted many times (RIPE-378). Every turn for the worse and every turn for
the better adds a penalty, which halves every half-life; a further step the same way does not, for a region that is
DEGRADED on its way down or up, as some of its judges see it before others, has one outage. A region whose penalty rises
above `suppress` is held at the worst level it has had since, until the penalty has fallen below `reuse`. The penalty is
capped so that a region that has become quiet returns within `max`.

Apart from that, an improvement counts only once it has lasted: for the health block's `cooldown`, and for as long as
the region has been worse and half as long again, `probation` at most. The longer it was away, the longer it must prove
itself, so what comes and goes in equal turns, each shorter than the probation, is left once and stays left: nobody
moves twice for it. The half is a margin, for nobody sees both edges equally late. Each level has its own account: a
region that was DEGRADED for an hour, and DOWN for two seconds, is DEGRADED again after three.

Neither takes the last region: when everything would be DOWN because of it, levels count as they are.

The decay is in integers, by halves and a table of 256ths, and never increases with time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

from lattice.types import Level, Micros
from router.policy.settings import Damp
from router.policy.syntax import Health

_SCALE = 1 << 10
_ONE = 1 << 32
_STEPS = 256


def _powers() -> tuple[int, ...]:
    """2^(-i/256), scaled by 2^32."""
    root = _ONE >> 1
    for _ in range(8):
        root = isqrt(root * _ONE)
    powers = [_ONE]
    for _ in range(_STEPS):
        powers.append(powers[-1] * root >> 32)
    return tuple(powers)


_POWERS = _powers()


def decayed(penalty: int, elapsed_us: int, half_life_us: int) -> int:
    """What is left of a penalty."""
    halves, rest = divmod(max(0, elapsed_us), half_life_us)
    return penalty * _POWERS[rest * _STEPS // half_life_us] >> min(32 + halves, 4_096)


class Damper:
    """One region. Owns no clock: `now` never decreases."""

    def __init__(self, damp: Damp | None, cooldown_us: int = 0, probation_us: int = 0) -> None:
        self._damp = damp
        self._cooldown_us = cooldown_us
        self._probation_us = probation_us
        self._raw = Level.UNKNOWN
        self._worsened: bool | None = None
        """Which way the last change went; None where that is not known."""
        self._better_since: Micros | None = None
        self._shown = Level.UNKNOWN
        self._worse_since: dict[Level, Micros] = {}
        """Since when what is shown has been worse than each level that it is worse than."""
        self._penalty = 0
        self._as_of = Micros(0)
        self._suppressed = False
        self._held = Level.UNKNOWN

    def observe(self, level: Level, now: Micros) -> None:
        """The agreed level is this now; say so whenever it may have changed."""
        if level is not self._raw:
            worsens = level > self._raw if Level.UNKNOWN not in (level, self._raw) else None
            if worsens not in (None, self._worsened):
                self._count(now)
            self._worsened = worsens
            self._better_since = now if level < self._shown else None
            self._raw = level
        if self._suppressed:
            self._held = max(self._held, level)
        self._settle(now)

    def level(self, now: Micros) -> Level:
        """The level that decisions are made with."""
        self._settle(now)
        return max(self._shown, self._held) if self._suppressed else self._shown

    def penalty(self, now: Micros) -> int:
        return self._scaled(now) // _SCALE

    def suppressed(self, now: Micros) -> bool:
        self._settle(now)
        return self._suppressed

    def returns_at(self, now: Micros) -> Micros | None:
        """When the level changes by itself if nothing more happens; None when it will not."""
        self._settle(now)
        moments = []
        if self._better_since is not None:
            moments.append(self._better_since + self._proof_us(self._better_since))
        if self._suppressed and self._damp is not None:
            low, high = now, now + self._damp.longest_us + self._damp.half_life_us
            while low < high:
                middle = (low + high) // 2
                if self._scaled(Micros(middle)) < self._damp.reuse * _SCALE:
                    high = Micros(middle)
                else:
                    low = Micros(middle + 1)
            moments.append(low)
        return Micros(max(moments)) if moments else None

    def _count(self, now: Micros) -> None:
        if self._damp is None:
            return
        halves, rest = divmod(self._damp.longest_us, self._damp.half_life_us)
        factor = (_ONE * _ONE // _POWERS[rest * _STEPS // self._damp.half_life_us]) << min(halves, 64)
        most = max(self._damp.reuse * _SCALE * factor >> 32, self._damp.suppress * _SCALE + 1)
        self._penalty = min(self._scaled(now) + self._damp.penalty * _SCALE, most)
        self._as_of = now
        if not self._suppressed and self._penalty > self._damp.suppress * _SCALE:
            self._suppressed, self._held = True, max(self._raw, self._shown)

    def _scaled(self, now: Micros) -> int:
        return decayed(self._penalty, now - self._as_of, self._damp.half_life_us) if self._damp else 0

    def _settle(self, now: Micros) -> None:
        if self._suppressed and self._damp and self._scaled(now) < self._damp.reuse * _SCALE:
            self._suppressed = False
        if self._raw >= self._shown or self._shown is Level.UNKNOWN or self._raw is Level.UNKNOWN:
            self._show(self._raw, now)
        elif self._better_since is None:
            self._better_since = now
        if self._better_since is not None and now - self._better_since >= self._proof_us(self._better_since):
            self._show(self._raw, now)

    def _show(self, level: Level, now: Micros) -> None:
        self._shown, self._better_since = level, None
        self._worse_since = {
            better: self._worse_since.get(better, now) for better in Level if Level.UNKNOWN < better < level
        }

    def _proof_us(self, better_since: Micros) -> int:
        """How long an improvement to the present level must last."""
        if not self._probation_us:
            return self._cooldown_us
        away = better_since - self._worse_since.get(self._raw, better_since)
        return max(self._cooldown_us, min(away * 3 // 2, self._probation_us))


def _terms(rules: Health) -> tuple[Damp | None, int, int]:
    return rules.damp, rules.cooldown_us, rules.probation_us


@dataclass(frozen=True, slots=True)
class Damped:
    """The levels to plan with."""

    levels: Mapping[str, Level]
    next_change: Micros | None
    """When to ask again though nothing happened."""


class RegionDamping:
    """The dampers of every region of the policy in force."""

    def __init__(self) -> None:
        self._dampers: dict[str, tuple[Health, Damper]] = {}

    def configure(self, health: Mapping[str, Health]) -> None:
        """Take a policy's health blocks by region. The history of a region whose rules stay survives."""
        before = self._dampers
        self._dampers = {}
        for region, rules in health.items():
            known = before.get(region)
            kept = known is not None and _terms(known[0]) == _terms(rules)
            damper = known[1] if known is not None and kept else Damper(*_terms(rules))
            self._dampers[region] = (rules, damper)

    def __getitem__(self, region: str) -> Damper:
        return self._dampers[region][1]

    def levels(self, agreed: Mapping[str, Level], now: Micros) -> Damped:
        """What the agreed levels amount to now."""
        for region, (_, damper) in self._dampers.items():
            damper.observe(agreed.get(region, Level.UNKNOWN), now)
        shown = {region: damper.level(now) for region, (_, damper) in self._dampers.items()}
        if shown and all(level is Level.DOWN for level in shown.values()):
            shown = {region: agreed.get(region, Level.UNKNOWN) for region in shown}
        changes = [change for _, damper in self._dampers.values() if (change := damper.returns_at(now)) is not None]
        return Damped(shown, min(changes, default=None))
