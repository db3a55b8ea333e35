"""What a backend says of its load: read strictly, bounded, and believed only of who has proved its name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.traffic.orca import REPORT_BYTES_MAX, utilization_ppm


@pytest.mark.parametrize(
    ("report", "ppm"),
    [
        (b"TEXT cpu_utilization=0.3", 300_000),
        (b"TEXT cpu_utilization=0.3, mem_utilization=0.8, rps_fractional=10.0, eps=1", 300_000),
        (b"TEXT cpu_utilization=0.3,application_utilization=0.9", 900_000),
        (b"TEXT application_utilization=0, cpu_utilization=0.3", 300_000),
        (b"TEXT cpu_utilization=0", 0),
        (b"TEXT cpu_utilization=1.7", 1_000_000),
        (b'JSON {"cpu_utilization": 0.25, "named_metrics": {"a": 1}}', 250_000),
        (b'JSON {"application_utilization": 0.5, "cpu_utilization": 0.1}', 500_000),
        (b"TEXT mem_utilization=0.5", None),
        (b"TEXT cpu_utilization=-1", None),
        (b"TEXT cpu_utilization=nan", None),
        (b"TEXT cpu_utilization=inf", None),
        (b"TEXT cpu_utilization=1e999", None),
        (b'JSON {"cpu_utilization": true}', None),
        (b'JSON {"cpu_utilization": 0.25', None),
        (b"JSON [0.25]", None),
        (b"JSON " + b"[" * 3_000, None),
        (b"BIN CZqZmZmZmdk/", None),
        (b"cpu_utilization=0.3", None),
        (b"", None),
        (b"TEXT cpu_utilization=0.3," + b"a" * REPORT_BYTES_MAX, None),
    ],
)
def test_reports(report: bytes, ppm: int | None) -> None:
    assert utilization_ppm(report) == ppm


@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda tail: b"TEXT cpu_utilization=" + tail))
def test_whatever_is_said_is_a_share_or_nothing(report: bytes) -> None:
    ppm = utilization_ppm(report)
    assert ppm is None or 0 <= ppm <= 1_000_000
