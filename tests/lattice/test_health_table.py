"""Leases, to the microsecond."""

from __future__ import annotations

import pytest

from lattice.health_table import HealthTable, Placement
from lattice.types import Micros
from tests.lattice.strategies import signed_row

NOW = Micros(10**12)
ROW = signed_row(0, 1, 1, 0)
LEASE_US = ROW.row.lease_ms * 1_000


@pytest.mark.parametrize(
    ("age_us", "taken"), [(0, True), (LEASE_US - 1, True), (LEASE_US, False), (LEASE_US + 1, False)]
)
def test_a_row_stands_until_the_moment_that_its_lease_ends_and_not_after(age_us: int, taken: bool) -> None:
    offer = HealthTable().offer(ROW, age_us, NOW)
    assert offer.taken == taken
    assert (offer.placement is Placement.EXPIRED) != taken
    if taken:
        assert offer.expires == NOW + LEASE_US - age_us
