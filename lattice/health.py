"""The health plane's cell: one signed row per observer, everything that observer asserts.

There is one writer a row, so joining two versions of it is taking the greater (incarnation, sequence number). A row
says where its observer can be reached, how it sees each region (metrics in logarithmic buckets, see `quantise`), and
which version of each policy is in force there. Rows carry a lease and expire: nothing is ever deleted, so there are no
tombstones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from operator import ge

from lattice import canonical
from lattice.errors import MalformedError, UntrustedError
from lattice.grants import read_grant
from lattice.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Grant, Signer, Verifier, node_id_of
from lattice.quantise import requantise
from lattice.record import Record
from lattice.rollouts import ID_BYTES, STAGES_MAX, RolloutId, Saying, Word
from lattice.types import LEVELS, CellId, Endpoint, Level, NodeId, VersionId

ROW_BYTES_MAX = 28 * 1024
"""The largest that the limits below allow (`tests/lattice/test_health.py` makes it), and less than half of a frame, for
evidence is two rows. A policy may name so many regions by so long names, and no node may be unable to speak of them."""
REGIONS_MAX = 256
POLICIES_MAX = 64
SAYINGS_MAX = 16
NAME_LENGTH_MAX = 64
LEASE_MS_MAX = 4 * 24 * 3_600_000
"""What the rows of 20,000 members need, which are refreshed every 21 hours: see `Config.row_refresh_for`."""
_PURPOSE = b"row"
_WORDS = tuple(Word)
_PLACE = re.compile(r"(-?[0-9]{1,9}),(-?[0-9]{1,9})")
_FORMAT = 3
"""1 had no grant, 2 nothing of rollouts."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What this node's own probes and traffic say of a region, in plain units."""

    region: str
    level: Level
    latency_us: int = 0
    errors_ppm: int = 0
    saturation_ppm: int = 0
    """Used share of the region's capacity; 0 when nobody reports it."""
    since_ms: int = 0
    """When `level` became this one, milliseconds since the Unix epoch."""
    evidence: int = 0
    """How many samples stand behind it."""
    private: bool = False
    """Not for others: what this node means by the region is not what they do, while it tries another policy."""


class Report(Record):
    """An observation as a row carries it: metrics in buckets (`quantise.lower_edge` turns them back)."""

    region: str
    level: Level
    latency_bucket: int = 0
    errors_bucket: int = 0
    saturation_bucket: int = 0
    since_ms: int = 0
    evidence_bucket: int = 0
    overrules: bool = False
    """The observer's own trials contradict the verdict, and it follows them."""


def report_of(observation: Observation, held: Report | None, overrules: bool) -> Report:
    """Quantise an observation, with a dead band around what was `held` (published) before."""
    return Report(
        region=observation.region,
        level=observation.level,
        latency_bucket=requantise(observation.latency_us, held.latency_bucket if held else None),
        errors_bucket=requantise(observation.errors_ppm, held.errors_bucket if held else None),
        saturation_bucket=requantise(observation.saturation_ppm, held.saturation_bucket if held else None),
        since_ms=held.since_ms if held and held.level == observation.level else observation.since_ms,
        evidence_bucket=requantise(min(observation.evidence, 1_000), held.evidence_bucket if held else None),
        overrules=overrules,
    )


@lru_cache(maxsize=1_024)
def place_in(area: str) -> tuple[int, int] | None:
    """See `Row.at_e6`."""
    place = _PLACE.fullmatch(area.partition("@")[2])
    if place is None or abs(int(place[1])) > 90_000_000 or abs(int(place[2])) > 180_000_000:
        return None
    return int(place[1]), int(place[2])


class Row(Record):
    """Everything one observer asserts. Reports and policies are sorted by name."""

    public_key: bytes
    incarnation: int
    seq: int
    issued_ms: int
    lease_ms: int
    site: str
    endpoint: Endpoint
    isolated: bool
    reports: tuple[Report, ...]
    applied: tuple[tuple[str, VersionId], ...]
    area: str = ""
    """The group of near sites that the observer's site belongs to (`roster.area_of`) and, behind an @ where the site
    says it, its place: "3,0@52370000,4900000"."""
    grant: Grant | None = None
    """The CA's word that this node may speak for this site, where there is a CA (`grants`)."""
    sayings: tuple[Saying, ...] = ()
    """What the observer found of rollouts, sorted by their ids."""

    @property
    def group(self) -> str:
        """The area alone."""
        return self.area.partition("@")[0]

    @property
    def at_e6(self) -> tuple[int, int] | None:
        """Latitude and longitude in millionths of a degree; None when the row says none, or nonsense."""
        return place_in(self.area)

    @property
    def observer(self) -> NodeId:
        return node_id_of(self.public_key)

    def payload(self) -> bytes:
        """The canonical bytes that are signed and hashed."""
        return canonical.pack(
            (
                _FORMAT,
                self.public_key,
                self.incarnation,
                self.seq,
                self.issued_ms,
                self.lease_ms,
                self.site,
                self.endpoint,
                self.isolated,
                [_report_fields(report) for report in self.reports],
                self.applied,
                self.area,
                None if self.grant is None else (self.grant.until_s, self.grant.signature),
                [(said.rollout, said.stage, int(said.word)) for said in self.sayings],
            )
        )


def _report_fields(report: Report) -> canonical.Value:
    return (
        report.region,
        int(report.level),
        report.latency_bucket,
        report.errors_bucket,
        report.saturation_bucket,
        report.since_ms,
        report.evidence_bucket,
        report.overrules,
    )


class SignedRow(Record):
    """A row whose signature was checked, with the bytes it travels as."""

    row: Row
    observer: NodeId
    cell: CellId
    data: bytes

    @property
    def order(self) -> tuple[int, int, bytes]:
        """The writer's version, then the hash: a total order even over an equivocator's rows."""
        return (self.row.incarnation, self.row.seq, self.cell)


def _cell_id(payload: bytes) -> CellId:
    return CellId(blake2b(payload, digest_size=16, person=b"edgelattice row").digest())


def row_id_of(data: bytes) -> CellId:
    """The cell id of a row as it travels; nothing is checked."""
    return _cell_id(data[:-SIGNATURE_BYTES])


def sign_row(row: Row, signer: Signer) -> SignedRow:
    """Sign as the row's observer; the signer's key must be the row's."""
    assert signer.public_key == row.public_key, "a row is signed by its own observer"
    payload = row.payload()
    data = payload + signer.sign(_PURPOSE, payload)
    assert len(data) <= ROW_BYTES_MAX, f"a row of {len(data)} bytes: {len(row.reports)} reports are too many"
    return SignedRow(row, row.observer, _cell_id(payload), data)


def open_row(data: bytes, verifier: Verifier, cell: CellId | None = None) -> SignedRow:
    """Parse and verify a row from the network; `cell` is its id, where that is known.

    Raises `MalformedError` (bytes) or `UntrustedError` (signature); state is unchanged.
    """
    if len(data) <= SIGNATURE_BYTES:
        raise MalformedError("truncated", f"a row of {len(data)} bytes")
    payload, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    row = _parse(payload)
    if not verifier.verify(row.public_key, _PURPOSE, payload, signature):
        raise UntrustedError("bad row signature", f"site {row.site}")
    return SignedRow(row, row.observer, cell or _cell_id(payload), data)


def _parse(payload: bytes) -> Row:
    fields = canonical.array(canonical.unpack_canonical(payload, ROW_BYTES_MAX), "row", length=14)
    if canonical.integer(fields[0], "row format") != _FORMAT:
        raise MalformedError("wrong version", f"row format {fields[0]!r}, this node reads {_FORMAT}")
    host, port = canonical.array(fields[7], "endpoint", length=2)
    public_key, site, endpoint, area = _speaker(fields[1], fields[6], host, port, fields[11])
    reports = tuple(
        [
            _report_from(*(item if type(item) is tuple and len(item) == 8 else _no_report(item)))
            for item in canonical.array(fields[9], "reports", length_max=REGIONS_MAX)
        ]
    )
    _check_names("reports", [report.region for report in reports])
    return Row(
        public_key,
        canonical.integer(fields[2], "incarnation", 1),
        canonical.integer(fields[3], "seq", 1),
        canonical.integer(fields[4], "issued_ms"),
        canonical.integer(fields[5], "lease_ms", 1, LEASE_MS_MAX),
        site,
        endpoint,
        canonical.boolean(fields[8], "isolated"),
        reports,
        () if fields[10] == () else _parse_applied(fields[10]),
        area,
        read_grant(fields[12], site),
        () if fields[13] == () else _parse_sayings(fields[13]),
    )


@lru_cache(maxsize=8_192, typed=True)  # a row's are those of the last one
def _speaker(
    public_key: object, site: object, host: object, port: object, area: object
) -> tuple[bytes, str, Endpoint, str]:
    return (
        canonical.blob(public_key, "public key", length=PUBLIC_KEY_BYTES),
        canonical.text(site, "site", NAME_LENGTH_MAX),
        canonical.endpoint((host, port), "endpoint"),
        canonical.text(area, "area", NAME_LENGTH_MAX),
    )


def _parse_sayings(items: object) -> tuple[Saying, ...]:
    sayings = tuple([_parse_saying(item) for item in canonical.array(items, "sayings", length_max=SAYINGS_MAX)])
    _check_names("sayings", [said.rollout.hex() for said in sayings])
    return sayings


def _parse_saying(item: object) -> Saying:
    rollout, stage, word = canonical.array(item, "saying", length=3)
    return Saying(
        RolloutId(canonical.blob(rollout, "rollout", length=ID_BYTES)),
        canonical.integer(stage, "stage", 0, STAGES_MAX - 1),
        _WORDS[canonical.integer(word, "word", 1, len(_WORDS) - 1)],
    )


def _check_names(what: str, names: list[str]) -> None:
    if any(map(ge, names, names[1:])):
        raise MalformedError("bad shape", f"{what} are not sorted by name, or name one twice")


def _no_report(item: object) -> tuple[object, ...]:
    return canonical.array(item, "report", length=8)


@lru_cache(maxsize=8_192, typed=True)  # typed: True is no 1. Of a changed row most reports are those of the last one
def _report_from(
    region: object,
    level: object,
    latency: object,
    errors: object,
    saturation: object,
    since_ms: object,
    evidence: object,
    overrules: object,
) -> Report:
    return Report(
        canonical.text(region, "region", NAME_LENGTH_MAX),
        LEVELS[canonical.integer(level, "level", 0, len(LEVELS) - 1)],
        canonical.integer(latency, "latency", 0, 255),
        canonical.integer(errors, "errors", 0, 255),
        canonical.integer(saturation, "saturation", 0, 255),
        canonical.integer(since_ms, "since_ms"),
        canonical.integer(evidence, "evidence", 0, 255),
        canonical.boolean(overrules, "overrules"),
    )


@lru_cache(maxsize=256)  # most nodes apply the same, for long
def _parse_applied(items: object) -> tuple[tuple[str, VersionId], ...]:
    applied = []
    for item in canonical.array(items, "applied", length_max=POLICIES_MAX):
        policy, version = canonical.array(item, "applied policy", length=2)
        name = canonical.text(policy, "policy", NAME_LENGTH_MAX)
        applied.append((name, VersionId(canonical.blob(version, "version", length=16))))
    _check_names("applied", [policy for policy, _ in applied])
    return tuple(applied)
