"""Values that are made by the million: what goes in and out of an engine, and what is on the wire.

A frozen dataclass sets each field through `object.__setattr__`, which looks up the whole class for every one, and one
that is not frozen is still made by a function of Python. A record is made by msgspec's C, in a quarter of the time, has
slots, equality, a hash and the patterns of `match`, and is frozen. Anything else stays a frozen dataclass, which checks
itself in `__post_init__` and has factories for its defaults.
"""

from __future__ import annotations

from typing import dataclass_transform

from msgspec import Struct


@dataclass_transform(frozen_default=True)
class Record(Struct, frozen=True, gc=False):
    """A value whose fields nobody assigns to. Nothing that it holds leads back to it, so no collector looks at it."""
