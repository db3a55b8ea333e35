"""Rows and their bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from msgspec.structs import replace

from lattice import canonical, wire
from lattice.cells import CellKind
from lattice.config import Config
from lattice.equivocation import open_proof, prove
from lattice.errors import LatticeError, MalformedError, UntrustedError
from lattice.events import HealthObserved, LocalUpdate
from lattice.health import (
    LEASE_MS_MAX,
    NAME_LENGTH_MAX,
    POLICIES_MAX,
    REGIONS_MAX,
    ROW_BYTES_MAX,
    SAYINGS_MAX,
    Observation,
    Report,
    Row,
    open_row,
    report_of,
    sign_row,
)
from lattice.identity import Ed25519Signer, Ed25519Verifier, Grant
from lattice.rollouts import ID_BYTES, STAGES_MAX, RolloutId, Saying, Word
from lattice.seal import OVERHEAD_BYTES
from lattice.types import SECOND, Level, VersionId
from tests.lattice.cluster import CLUSTER, Cluster, signer_of
from tests.lattice.strategies import OBSERVERS, rows, signed_row

VERIFIER = Ed25519Verifier(CLUSTER)
GOOD = signed_row(0, 1, 1, 0)
SIGNER = OBSERVERS[0]


@given(rows())
def test_what_is_signed_opens_as_it_was(row: Row) -> None:
    signer = next(signer for signer in OBSERVERS if signer.public_key == row.public_key)
    signed = sign_row(row, signer)
    opened = open_row(signed.data, VERIFIER)
    assert opened == signed
    assert opened.row == row
    assert opened.order == (row.incarnation, row.seq, signed.cell)


def test_any_altered_bit_is_noticed() -> None:
    for index in range(len(GOOD.data)):
        damaged = bytearray(GOOD.data)
        damaged[index] ^= 1 << index % 8
        with pytest.raises(LatticeError):
            open_row(bytes(damaged), VERIFIER)
    for length in range(len(GOOD.data)):
        with pytest.raises(LatticeError):
            open_row(GOOD.data[:length], VERIFIER)


def forged(**changed: object) -> bytes:
    """A row with some fields replaced, whatever they are, well signed."""
    names = [
        "format", "public_key", "incarnation", "seq", "issued_ms", "lease_ms", "site", "endpoint", "isolated",
        "reports", "applied", "area", "grant", "sayings",
    ]  # fmt: skip
    fields = dict(zip(names, canonical.array(canonical.unpack(GOOD.row.payload(), ROW_BYTES_MAX), "row"), strict=True))
    payload = canonical.pack(list((fields | changed).values()))  # type: ignore[arg-type]
    return payload + SIGNER.sign(b"row", payload)


REPORT = ("fra", 1, 0, 0, 0, 0, 0, False)
BAD: dict[str, dict[str, object]] = {
    "another format": {"format": 4},
    "a short key": {"public_key": bytes(31)},
    "incarnation 0": {"incarnation": 0},
    "seq 0": {"seq": 0},
    "no lease": {"lease_ms": 0},
    "an endless lease": {"lease_ms": 2**40},
    "a site with control characters": {"site": "ams\x1b[2J"},
    "a long site": {"site": "a" * 65},
    "a name for an address": {"endpoint": ("example.org", 1)},
    "port 65,536": {"endpoint": ("10.0.0.1", 65_536)},
    "isolated by number": {"isolated": 1},
    "level 5": {"reports": [("fra", 5, *REPORT[2:])]},
    "a bucket of 256": {"reports": [("fra", 1, 256, *REPORT[3:])]},
    "a region twice": {"reports": [REPORT, REPORT]},
    "regions out of order": {"reports": [("nrt", *REPORT[1:]), REPORT]},
    "too many regions": {"reports": [(f"r{n:03}", *REPORT[1:]) for n in range(REGIONS_MAX + 1)]},
    "a policy twice": {"applied": [("default", bytes(16))] * 2},
    "a short version": {"applied": [("default", bytes(15))]},
    "a grant of one field": {"grant": (5,)},
    "a grant without an end": {"grant": (None, bytes(64))},
    "a short signature": {"grant": (5, bytes(63))},
    "a rollout's short id": {"sayings": [(bytes(7), 0, 1)]},
    "a stage there cannot be": {"sayings": [(bytes(8), 16, 1)]},
    "a word for having nothing to say": {"sayings": [(bytes(8), 0, 0)]},
    "a word nobody knows": {"sayings": [(bytes(8), 0, 4)]},
    "two words on one rollout": {"sayings": [(bytes(8), 0, 1), (bytes(8), 0, 3)]},
    "too many words": {"sayings": [(bytes([n]) * 8, 0, 1) for n in range(SAYINGS_MAX + 1)]},
}


@pytest.mark.parametrize("changed", BAD.values(), ids=BAD)
def test_a_malformed_row_is_refused_however_well_signed(changed: dict[str, object]) -> None:
    assert open_row(forged(), VERIFIER) == GOOD
    with pytest.raises(MalformedError):
        open_row(forged(**changed), VERIFIER)


def test_a_row_of_another_cluster_is_not_trusted() -> None:
    elsewhere = Ed25519Signer(b"\x01" * 32, "elsewhere")
    row = replace(GOOD.row, public_key=elsewhere.public_key)
    with pytest.raises(UntrustedError):
        open_row(sign_row(row, elsewhere).data, VERIFIER)
    with pytest.raises(AssertionError):
        sign_row(GOOD.row, signer_of("somebody else"))


def test_a_report_keeps_what_was_published_while_nothing_decides_otherwise() -> None:
    first = report_of(Observation("fra", Level.HEALTHY, 20_000, 100, 0, since_ms=5, evidence=10), None, overrules=False)
    again = report_of(
        Observation("fra", Level.HEALTHY, 21_000, 105, 0, since_ms=7, evidence=11), first, overrules=False
    )
    assert again == first
    worse = report_of(Observation("fra", Level.DOWN, 90_000, 100, 0, since_ms=9, evidence=11), first, overrules=True)
    assert (worse.level, worse.since_ms, worse.overrules) == (Level.DOWN, 9, True)
    assert worse.latency_bucket > first.latency_bucket
    assert isinstance(worse, Report)


def the_largest() -> Row:
    """Everything as many, as long and as large as a row may say it."""
    most = canonical.INTEGER_MAX
    return Row(
        public_key=SIGNER.public_key,
        incarnation=most,
        seq=most,
        issued_ms=most,
        lease_ms=LEASE_MS_MAX,
        site="s" * NAME_LENGTH_MAX,
        endpoint=("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", 65_535),
        isolated=False,
        reports=tuple(
            Report(f"{number:064}", Level.DOWN, 255, 255, 255, most, 255, overrules=True)
            for number in range(REGIONS_MAX)
        ),
        applied=tuple((f"{number:064}", VersionId(bytes(16))) for number in range(POLICIES_MAX)),
        area="a" * NAME_LENGTH_MAX,
        grant=Grant("s" * NAME_LENGTH_MAX, most, bytes(64)),
        sayings=tuple(
            Saying(RolloutId(bytes([number]) * ID_BYTES), STAGES_MAX - 1, Word.CONDEMNED)
            for number in range(SAYINGS_MAX)
        ),
    )


def test_whatever_a_policy_names_fits_a_row_and_two_rows_a_frame() -> None:
    """A policy of 256 regions with names of 63 letters holds; its nodes could not sign what they saw, and stopped."""
    row = the_largest()
    one, two = sign_row(row, SIGNER), sign_row(replace(row, isolated=True), SIGNER)
    assert open_row(one.data, VERIFIER).row == row
    assert ROW_BYTES_MAX - 1_024 < len(one.data) - 64 <= ROW_BYTES_MAX, "the limit says what the limits below it say"
    proof = prove(one, two).data
    assert open_proof(proof, VERIFIER).observer == one.observer
    rumour = wire.Rumour((wire.WireCell(CellKind.EVIDENCE, proof),))
    assert len(wire.encode(rumour)) + OVERHEAD_BYTES <= Config().frame_bytes_max
    assert wire.decode(wire.encode(rumour), Config().frame_bytes_max) == rumour


def test_nodes_that_see_as_many_regions_by_as_long_names_as_may_be_hear_each_other() -> None:
    cluster = Cluster(3)
    cluster.introduce_all()
    cluster.run(2 * SECOND)
    seen = tuple(Observation(f"{number:064}", Level.HEALTHY, 20_000, evidence=9) for number in range(REGIONS_MAX))
    for index in range(3):
        cluster.give(index, LocalUpdate(HealthObserved(seen)))
    cluster.run(10 * SECOND)
    assert cluster.equal()
    assert cluster.verdicts(seen[-1].region) == [Level.HEALTHY] * 3
