"""Whom a directive of `Surrogate-Control` is for (W3C Note "Edge Architecture Specification", 2.2 and 2.3). Pure.

An origin is told that we obey it, and by which name it may address us alone::

    Surrogate-Capability: edgelattice="Surrogate/1.0"
    Surrogate-Control: max-age=60, max-age=600;edgelattice, no-store;another        is 600 s here
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from router.traffic.http1 import Field

DEVICE: Final = b"edgelattice"
"""The same at every site: an origin writes one answer for all of them."""
CAPABILITY: Final[Field] = (b"surrogate-capability", b"Surrogate-Capability", DEVICE + b'="Surrogate/1.0"')

_QUOTED: Final = rb'"(?:[^"\\]|\\.)*+"?'
_MEMBER: Final = re.compile(rb'(?:[^",]|' + _QUOTED + rb")++", re.DOTALL)
_PART: Final = re.compile(rb'(?:[^";]|' + _QUOTED + rb")++", re.DOTALL)


def for_us(values: Iterable[bytes]) -> list[bytes]:
    """The directives that hold here, without their targets: those for us alone go before everybody's, so that the first
    of a name counts. Those for others are left out."""
    ours, everybodys = [], []
    for member in _MEMBER.findall(b",".join(values)):
        directive, *targets = _PART.findall(member) or [b""]
        if not targets:
            everybodys.append(directive)
        elif DEVICE in [target.strip(b" \t").lower() for target in targets]:
            ours.append(directive)
    return ours + everybodys
