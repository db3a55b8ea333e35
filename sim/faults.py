"""Every act that a timeline or a swarm may hold: what it is called, what it does, how its settings are read.

An act begins at its time. One with `for` ends after that; one without lasts until the run heals, which ends everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from lattice.prng import Prng
from sim import canaries, changes, host_faults, keys, liars, outages, wire_faults
from sim.quantities import Section
from sim.stage import Stage


class Act(Protocol):
    """Something that happens to a cluster."""

    def begin(self, stage: Stage, prng: Prng, until: int) -> str:
        """Do it; how far it reached, in a few words. Raises `ScenarioError` if it names what is not there."""
        ...

    def end(self, stage: Stage) -> None:
        """Undo it, as far as that can be."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of act."""

    purpose: str
    read: Callable[[Section], Act]
    is_fault: bool = True
    swarm: bool = False
    """Whether a swarm may draw it."""


KINDS: Final[Mapping[str, Kind]] = {
    "health": Kind("the truth about a region changes", changes.read_health, is_fault=False),
    "outages": Kind("real outages from a file strike the regions", outages.read_replay, is_fault=False),
    "publish": Kind("a new policy version is published at one node", changes.read_publish, is_fault=False),
    "rollout": Kind("a version of the policy comes to the sites by stages", canaries.read_rollout, is_fault=False),
    "poison-op": Kind("an op that no handler can take, signed by the operator", changes.read_poison_op, is_fault=False),
    "resubmit": Kind("the first publish is submitted once more", changes.read_resubmit, is_fault=False),
    "join": Kind("nodes that were not there start", host_faults.read_join, is_fault=False),
    "leave": Kind("nodes say goodbye and stop", host_faults.read_leave, is_fault=False),
    "halves": Kind("two halves do not hear each other", wire_faults.read_halves, swarm=True),
    "isolate": Kind("some nodes hear nobody and nobody hears them", wire_faults.read_isolate, swarm=True),
    "region-cut": Kind("a group of sites is cut off", wire_faults.read_region_cut),
    "one-way": Kind("some nodes are heard and do not hear, or hear and are not heard", wire_faults.read_one_way,
                    swarm=True),
    "bridge": Kind("two halves that only one node reaches", wire_faults.read_bridge, swarm=True),
    "flap": Kind("a cut that comes and goes", wire_faults.read_flap, swarm=True),
    "clog": Kind("packets of some nodes take much longer", wire_faults.read_clog, swarm=True),
    "narrow": Kind("links of some nodes carry little, and drop the rest", wire_faults.read_narrow, swarm=True),
    "hold": Kind("packets of some nodes wait, and arrive all at once", wire_faults.read_hold, swarm=True),
    "loss": Kind("a share of packets is lost", wire_faults.read_loss, swarm=True),
    "slow-links": Kind("every path takes several times as long", wire_faults.read_slow_links),
    "crash": Kind("processes die; with `for`, they start again", host_faults.read_crash, swarm=True),
    "crash-loop": Kind("processes die again and again", host_faults.read_crash_loop, swarm=True),
    "rolling-restart": Kind("one node after the other is restarted", host_faults.read_rolling_restart),
    "pause": Kind("processes are stopped, and go on", host_faults.read_pause, swarm=True),
    "slow": Kind("machines that take long over every input", host_faults.read_slow, swarm=True),
    "clock": Kind("clocks that are off, or run fast or slow", host_faults.read_clock, swarm=True),
    "lie-health": Kind("nodes report a region as they do not see it", liars.read_health),
    "lie-equivocation": Kind("nodes sign two rows under one version", liars.read_equivocation),
    "lie-forged": Kind("nodes send rows in others' names, with bad signatures", liars.read_forged),
    "lie-invented": Kind("nodes make up sites, each of which calls every region down", liars.read_invented),
    "lie-replayed": Kind("nodes send again what they once received", liars.read_replayed),
    "lie-garbage": Kind("nodes send bytes that are no message", liars.read_garbage),
    "lie-overfull": Kind("nodes send filters that claim everything", liars.read_overfull),
    "key-rotation": Kind("keys are added, used and removed, node by node", keys.read_rotation, is_fault=False),
    "version-mix": Kind("nodes of the next version among those of this one", keys.read_versions),
}  # fmt: skip
