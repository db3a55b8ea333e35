"""What Hypothesis draws for the lattice: rows, claims, messages, voices, and histories of policy ops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from hypothesis import strategies as st

from lattice.authoring import compose
from lattice.cells import FINGERPRINT_BYTES, CellKind, Shards
from lattice.digest import BLOCK_BYTES, Bloom
from lattice.health import LEASE_MS_MAX, Report, Row, SignedRow, sign_row
from lattice.identity import author_id_of
from lattice.membership import MemberState, MemberUpdate
from lattice.policy_ops import GENESIS, OpId
from lattice.policy_store import ChainHead
from lattice.prng import Prng
from lattice.rollouts import RolloutId, Saying, Word
from lattice.types import CellId, Endpoint, Level, NodeId, VersionId
from lattice.view import Witness
from lattice.wire import (
    AGE_MS_MAX,
    Ack,
    Challenge,
    Compare,
    Delta,
    Digest,
    Graft,
    Heal,
    IHave,
    Leave,
    Message,
    Nack,
    News,
    Ping,
    PingReq,
    Response,
    Rumour,
    WireCell,
)
from tests.lattice.cluster import signer_of

OBSERVERS = tuple(signer_of(f"observer {index}") for index in range(4))
AUTHORS = tuple(signer_of(f"author {index}") for index in range(3))
AUTHOR_IDS = tuple(author_id_of(signer.public_key) for signer in AUTHORS)
REGIONS = ("fra", "iad", "nrt")

levels = st.sampled_from(Level)
ids = st.binary(min_size=16, max_size=16)
nodes = ids.map(NodeId)
cell_ids = ids.map(CellId)
counts = st.integers(min_value=1, max_value=2**63 - 1)
nonces = st.integers(min_value=0, max_value=2**63 - 1)
names = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=16)

endpoints: st.SearchStrategy[Endpoint] = st.tuples(
    st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)), st.integers(min_value=0, max_value=65_535)
)

reports = st.builds(
    Report,
    region=st.sampled_from(REGIONS),
    level=levels,
    latency_bucket=st.integers(min_value=0, max_value=255),
    errors_bucket=st.integers(min_value=0, max_value=255),
    saturation_bucket=st.integers(min_value=0, max_value=255),
    since_ms=st.integers(min_value=0, max_value=2**42),
    evidence_bucket=st.integers(min_value=0, max_value=255),
    overrules=st.booleans(),
)


rollout_ids = st.sampled_from([RolloutId(bytes([number]) * 8) for number in range(3)])
sayings = st.dictionaries(
    rollout_ids, st.tuples(st.integers(0, 3), st.sampled_from([word for word in Word if word])), max_size=3
).map(lambda said: tuple(Saying(rollout, *said[rollout]) for rollout in sorted(said)))


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Any row that may travel."""
    said = draw(st.lists(reports, max_size=3, unique_by=lambda report: report.region))
    return Row(
        public_key=draw(st.sampled_from(OBSERVERS)).public_key,
        incarnation=draw(counts),
        seq=draw(counts),
        issued_ms=draw(nonces),
        lease_ms=draw(st.integers(min_value=1, max_value=LEASE_MS_MAX)),
        site=draw(names),
        endpoint=draw(endpoints),
        isolated=draw(st.booleans()),
        reports=tuple(sorted(said, key=lambda report: report.region)),
        applied=tuple(sorted(draw(st.dictionaries(names, ids.map(VersionId), max_size=2)).items())),
        sayings=draw(sayings),
    )


@cache
def signed_row(observer: int, incarnation: int, seq: int, variant: int) -> SignedRow:
    """One of a small world of rows, in which every version exists in several variants: all four are equivocators."""
    prng = Prng.seeded(f"{observer} {incarnation} {seq} {variant}")
    said = [Report(region, Level(prng.below(len(Level))), since_ms=prng.below(3)) for region in REGIONS]
    row = Row(
        public_key=OBSERVERS[observer].public_key,
        incarnation=incarnation,
        seq=seq,
        issued_ms=variant,
        lease_ms=60_000,
        site=("ams", "bos", "cpt")[prng.below(3)],
        endpoint=("10.0.0.1", observer),
        isolated=prng.below(6) == 0,
        reports=tuple(report for report in said if prng.below(4)),
        applied=(),
    )
    return sign_row(row, OBSERVERS[observer])


def signed_rows(versions_max: int = 3) -> st.SearchStrategy[SignedRow]:
    """Rows of a few observers in few versions, so that stale rows and two rows of one version are common."""
    return st.sampled_from(
        [
            signed_row(observer, incarnation, seq, variant)
            for observer in range(len(OBSERVERS))
            for incarnation in range(1, versions_max + 1)
            for seq in range(1, versions_max + 1)
            for variant in range(3)
        ]
    )


row_maps = st.lists(signed_rows(), max_size=4).map(lambda drawn: {row.observer: row for row in drawn})
"""What one node may know: at most one row an observer."""

claims = st.builds(
    MemberUpdate,
    node=st.sampled_from([NodeId(bytes([index]) * 16) for index in range(3)]),
    state=st.sampled_from(MemberState),
    incarnation=st.integers(min_value=1, max_value=4),
    by=st.sampled_from([NodeId(bytes([index]) * 16) for index in range(2)]),
)

witnesses = st.builds(
    Witness,
    node=st.integers(min_value=0, max_value=7).map(lambda number: NodeId(bytes([number]) * 16)),
    site=st.sampled_from(("ams", "bos", "cpt", "del")),
    level=levels,
    since_ms=st.integers(min_value=0, max_value=3),
)

# --- messages

updates = st.lists(
    st.builds(MemberUpdate, node=nodes, state=st.sampled_from(MemberState), incarnation=counts, by=nodes, seq=nonces),
    max_size=3,
).map(tuple)
some_ids = st.lists(cell_ids, min_size=1, max_size=3).map(tuple)
wire_cell = st.builds(
    WireCell,
    kind=st.sampled_from(CellKind),
    data=st.binary(max_size=64) | st.integers(250, 260).map(bytes),
    age_ms=st.integers(0, 300) | st.integers(0, AGE_MS_MAX),
)
wire_cells = st.lists(wire_cell, max_size=3).map(tuple)
divisions = st.sampled_from((16, 32, 64, 128, 256))
shards = divisions.flatmap(
    lambda of: st.builds(
        Shards, st.just(of), st.sets(st.integers(0, of - 1), min_size=1).map(lambda drawn: tuple(sorted(drawn)))
    )
)
fingerprints = divisions.flatmap(
    lambda of: st.binary(min_size=of * FINGERPRINT_BYTES, max_size=of * FINGERPRINT_BYTES).map(
        lambda drawn: tuple(drawn[at : at + FINGERPRINT_BYTES] for at in range(0, len(drawn), FINGERPRINT_BYTES))
    )
)
sparse_blooms = st.integers(min_value=1, max_value=3).flatmap(
    lambda blocks: st.binary(min_size=8, max_size=8).map(
        lambda start: Bloom(start + bytes(blocks * BLOCK_BYTES - len(start)))
    )
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, nonces, ids, updates, wire_cells),
    st.builds(Ack, nonces, nodes, ids, endpoints, updates, wire_cells),
    st.builds(PingReq, nonces, nodes, endpoints),
    st.builds(Nack, nonces, nodes),
    st.builds(News, updates),
    st.builds(Rumour, wire_cells),
    st.builds(Heal, wire_cells),
    st.builds(IHave, some_ids),
    st.builds(Graft, some_ids),
    st.builds(Compare, nonces, fingerprints),
    st.builds(Digest, shards, nonces, sparse_blooms, nonces),
    st.builds(Delta, ids, wire_cells),
    st.builds(Leave, counts),
    st.builds(Challenge, nonces),
    st.builds(Response, nonces),
)

# --- policy

statements = st.sampled_from(["route a {}\n", "route b {}\n", "region fra {}\n", "health h {}\n", "# é\nroute c {}\n"])


@st.composite
def histories(draw: st.DrawFn, forks: bool = True) -> list[bytes]:
    """Ops of one to three authors, each publishing a few times, some seeing others' heads, some forking their chain."""
    ops: list[bytes] = []
    heads: dict[str, list[str]] = {}
    for signer, author in list(zip(AUTHORS, AUTHOR_IDS, strict=True))[: draw(st.integers(min_value=1, max_value=3))]:
        chain = ChainHead(0, GENESIS, 0)
        for _ in range(draw(st.integers(min_value=1, max_value=3))):
            policy = draw(st.sampled_from(("default", "other")))
            twins: Sequence[str] = ("", "twin") if forks and draw(st.integers(min_value=0, max_value=5)) == 0 else ("",)
            start = chain
            for twin in twins:
                publication = compose(
                    signer,
                    start,
                    policy,
                    draw(st.lists(statements, min_size=1, max_size=3)),
                    message=twin,
                    now_ms=draw(st.integers(min_value=1, max_value=4)),
                    supersedes=draw(st.sets(st.sampled_from(heads[policy]), max_size=4)) if policy in heads else (),
                )
                ops += [op.data for op in publication.ops]
                last = publication.ops[-1]
                heads.setdefault(policy, []).append(f"{policy}/{author.hex()}/{last.op.seq}")
                chain = ChainHead(last.op.seq, OpId(last.id), last.op.hlc)
    return ops
