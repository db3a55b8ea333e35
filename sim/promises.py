"""Every promise that a run is held to, in the order in which it is looked at."""

from __future__ import annotations

from sim.checks import Check
from sim.frugality import FRUGALITY
from sim.laws import LAWS
from sim.liveness import LIVENESS
from sim.rollout_checks import Contained, RolloutsEnd
from sim.safety import SAFETY

ALWAYS: tuple[type[Check], ...] = (*SAFETY, *LAWS, *FRUGALITY, Contained)
AT_LAST: tuple[type[Check], ...] = (*LIVENESS, RolloutsEnd)
ALL_CHECKS: tuple[type[Check], ...] = (*ALWAYS, *AT_LAST)
