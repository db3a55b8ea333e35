"""Measurements as they are published: matrices in four shapes, and the history of a status page."""

from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path

import pytest

from lattice.types import Level
from router.cli import main
from sim.matrix import read_matrix
from sim.outages import Outage, merged, read_outages
from sim.trace import read_trace
from tests.sim.runs import run, table

SQUARE = "src,Paris,Tokyo,Lima\nParis,,230.5,190\nTokyo,231,,240\nLima,,,\n"
PAIRS = "src,dst,min_ms,avg_ms\nParis,Tokyo,1,230.5\nTokyo,Paris,1,231\nParis,Lima,1,190\nTokyo,Lima,1,240\n"
SHOTS = "date,Paris>Tokyo,Tokyo>Paris,Paris>Lima,Tokyo>Lima\n2023-02-26,9,9,9,9\n2023-03-05,230.5,231,190,240\n"
OUTAGES = """first_post_utc,service,region,severity_1to3,stated_duration_min
2018-05-10T01:00:00Z,ec2,us-east-1,1,60
2018-05-10T01:30:00Z,elb,us-east-1,3,90
2018-05-10T02:00:00Z,ec2,eu-west-1,2,
2018-05-10T09:00:00Z,ec2,us-east-1,0,5
2018-05-11T01:00:00Z,ec2,us-east-1,2,30
"""
AT = 1_525_914_000
"""2018-05-10T01:00:00Z."""


@pytest.mark.parametrize("text", [SQUARE, PAIRS, SHOTS], ids=["square", "pairs", "snapshots"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_matrix_in_every_shape(tmp_path: Path, text: str, packed: bool) -> None:
    path = tmp_path / ("rtt.csv.gz" if packed else "rtt.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    names, rtt_us = read_matrix(path)
    assert names == ["Lima", "Paris", "Tokyo"]
    assert rtt_us == [[0, 190_000, 240_000], [190_000, 0, 230_500], [240_000, 231_000, 0]]


def test_a_square_without_names_and_an_earlier_snapshot(tmp_path: Path) -> None:
    bare = tmp_path / "bare.csv"
    bare.write_text(",1.5\n2,\n")
    assert read_matrix(bare) == (["host-0", "host-1"], [[0, 1_500], [2_000, 0]])
    shots = tmp_path / "shots.csv"
    shots.write_text(SHOTS)
    assert read_matrix(shots, row="2023-02-26")[1][0][1] == 9_000
    with pytest.raises(ValueError, match="there is no row '1999'"):
        read_matrix(shots, row="1999")


def test_a_hole_is_an_error_or_costs_the_places_around_it(tmp_path: Path) -> None:
    path = tmp_path / "rtt.csv"
    path.write_text(SQUARE.replace("240", ""))
    with pytest.raises(ValueError, match="a hole: nothing was measured between Lima and Tokyo"):
        read_matrix(path)
    names, _ = read_matrix(path, drop=True)
    assert len(names) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("src,A,B\nA,,x\nB,1,\n", "rtt.csv:2: 'x' is no number of milliseconds"),
        ("src,A,B\nA,,1,2\n", "rtt.csv:2: 4 columns, the header has 3"),
        ("src,dst\nA,B\n", "rtt.csv:1: no column avg_ms"),
        ("src,dst,avg_ms\nA,B\n", "rtt.csv:2: 2 columns"),
        ("src,dst,avg_ms\nA,B,-3\n", "-3 ms is no round trip"),
        ("src,dst,avg_ms\nA,B,1e400\n", "is no number of milliseconds"),
        ("src\n", "no rows"),
    ],
)
def test_what_is_wrong_with_a_matrix_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "rtt.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"rtt\.csv") as raised:
        read_matrix(path)
    assert said in str(raised.value)


TRACE = "t_s,client_prefix24,status\n0,203.0.113.0,200\n2.5,198.51.100.0,200\n1,192.0.2.0,404\n3600,192.0.2.0,200\n"


@pytest.mark.parametrize("packed", [False, True])
def test_recorded_requests_by_time(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("requests.csv.gz" if packed else "requests.csv")
    path.write_bytes(gzip.compress(TRACE.encode()) if packed else TRACE.encode())
    found = read_trace(path)
    assert [at for at, _ in found] == [0, 1_000_000, 2_500_000, 3_600_000_000]
    assert [client.rpartition(".")[0] for _, client in found] == ["203.0.113", "192.0.2", "198.51.100", "192.0.2"]
    assert found[1][1] == found[3][1], "one network, one client"


def test_recorded_requests_come_when_they_came_and_are_decided(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(TRACE)
    assert run(table(users={"trace": str(path)})).by_second == {0: [1, 1, 0], 1: [1, 1, 0], 2: [1, 1, 0]}
    faster = run(table(users={"trace": str(path), "speed": 1_000}))
    assert {second: counts[0] for second, counts in faster.by_second.items()} == {0: 3, 3: 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "requests.csv:1: no column t_s"),
        ("t_s\n", "requests.csv:1: no column client_prefix24"),
        (TRACE + "4\n", "requests.csv:6: no request: list index out of range"),
        (TRACE + "x,192.0.2.0,200\n", "requests.csv:6: no request: could not convert string to float: 'x'"),
        (TRACE + "4,nobody,200\n", "requests.csv:6: no request: Expected 4 octets in 'nobody'"),
        (TRACE + "-1,192.0.2.0,200\n", "requests.csv:6: no request: -1 s is before the start"),
        (TRACE + "nan,192.0.2.0,200\n", "requests.csv:6: no request: nan s is before the start"),
        ("\udcff", "requests.csv: cannot be read: 'utf-8' codec"),
        (TRACE + "4" * 200_000, "requests.csv: cannot be read: field larger than field limit"),
    ],
)
def test_what_is_wrong_with_recorded_requests_is_said(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "requests.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert main(["sim", "run", "smoke", "--set", f"users.trace={path}"]) == 2
    assert f"--set users.trace: {said}" in capsys.readouterr().err


def test_packed_requests_that_are_damaged_anywhere_are_read_or_refused(tmp_path: Path) -> None:
    path, packed = tmp_path / "requests.csv.gz", gzip.compress(TRACE.encode())
    for place in range(len(packed)):
        path.write_bytes(packed[:place] + bytes([packed[place] ^ 0xFF]) + packed[place + 1 :])
        with suppress(ValueError):
            read_trace(path)


def test_overlapping_outages_of_a_region_are_one_as_bad_as_the_worst(tmp_path: Path) -> None:
    path = tmp_path / "outages.csv"
    path.write_text(OUTAGES)
    assert merged(read_outages(path)) == [
        Outage(AT, AT + 120 * 60, "us-east-1", Level.DOWN),
        Outage(AT + 3_600, AT + 3_600 + 102 * 60, "eu-west-1", Level.FAILING),
        Outage(AT + 86_400, AT + 86_400 + 1_800, "us-east-1", Level.FAILING),
    ]
    path.write_text(OUTAGES.replace("2018-05-11T01", "yesterday"))
    with pytest.raises(ValueError, match=r"outages.csv:6: no outage"):
        read_outages(path)
    path.write_text("when,where\n")
    with pytest.raises(ValueError, match="no column first_post_utc"):
        read_outages(path)


def test_a_history_strikes_the_regions_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "outages.csv"
    path.write_text(OUTAGES)
    act = {"at": "1s", "do": "outages", "file": str(path), "speed": 3_600}
    result = run(table(act, duration="32s", regions={"count": 2, "probe": "100ms"}))
    assert result.verdict == "held"
    names = [name for name, _, _ in result.learned]
    assert [name for name in names if "ashburn" in name] == [
        "ashburn DOWN", "ashburn HEALTHY", "ashburn FAILING", "ashburn HEALTHY",
    ]  # fmt: skip
    assert [name for name in names if "frankfurt" in name] == ["frankfurt FAILING", "frankfurt HEALTHY"]
