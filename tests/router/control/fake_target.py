"""A node for the control API's tests: fixed knowledge, and a record of what it was told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from lattice.authoring import compose
from lattice.errors import LatticeError, UntrustedError
from lattice.health import Observation, Report, report_of
from lattice.identity import Ed25519Signer, Ed25519Verifier, author_id_of, node_id_of
from lattice.key_ring import KeyId
from lattice.policy_store import PolicyStore
from lattice.types import SECOND, AuthorId, Endpoint, Level, Micros, NodeId, VersionId
from lattice.view import LatticeView, MemberView, PolicyView, RegionView, Witness
from router.control.target import (
    KeysState,
    KeyState,
    NodeEvent,
    PeerKeys,
    PolicyHead,
    Proof,
    Published,
    RefusalError,
    RegionSignal,
    RegionSnapshot,
    RegionSteering,
    Standing,
    Traffic,
    head_at,
    standing_at,
)
from router.decision.decide import Attempt, Decision, Request
from router.policy import parse

NOW = Micros(1_700_000_000 * SECOND)
NOW_MS = NOW // 1_000
CLUSTER = "demo"
AUTHOR_KEY = bytes(range(32))
SIGNER = Ed25519Signer(AUTHOR_KEY, CLUSTER)
AUTHOR = author_id_of(SIGNER.public_key)
AMS, FRA = (node_id_of(bytes([number]) * 32) for number in (1, 2))
VERSION = VersionId(b"\x5a" * 16)

POLICY = """\
edition 1

region ams {
  at 52.37 4.90
  endpoint 127.1.0.1:9001
}
region fra {
  at 50.11 8.68
  endpoint 127.1.0.2:9001
}
route everything for "*" path "/**" {
  primary   nearest
  secondary any
}
"""


SEEN = report_of(Observation("fra", Level.FAILING, 21_000, 250_000, 0, NOW_MS - 1_900, 40), None, overrules=False)


def member(node: NodeId, site: str, port: int, *reports: Report) -> MemberView:
    return MemberView(node, site, ("127.0.0.1", port), "alive", 1, (("default", VERSION),), None, reports)


def fake_view() -> LatticeView:
    return LatticeView(
        node=AMS,
        site="ams",
        now=NOW,
        isolated=False,
        members=(member(AMS, "ams", 7946), member(FRA, "fra", 7947, SEEN)),
        regions=(
            RegionView("ams", Level.HEALTHY, Level.HEALTHY, Level.HEALTHY, "verdict", Micros(NOW - 90 * SECOND), ()),
            RegionView(
                region="fra",
                effective=Level.DOWN,
                verdict=Level.DOWN,
                own=Level.DOWN,
                reason="verdict",
                since=Micros(NOW - 2 * SECOND),
                witnesses=(
                    Witness(AMS, "ams", Level.DOWN, NOW_MS - 2_000),
                    Witness(FRA, "fra", Level.FAILING, NOW_MS - 1_900),
                ),
            ),
        ),
        policies=(PolicyView("default", VERSION, (POLICY,), AUTHOR, "a first [bold]one[/]", NOW_MS - 61_000, ()),),
        root=b"\xab" * 16,
        cells=4,
    )


class FakeTarget:
    """A `ControlTarget`. Ops go through a real policy store, so that what `publish` signs is really judged."""

    def __init__(self, author_key: bytes | None = None) -> None:
        self.store = PolicyStore([AUTHOR], Ed25519Verifier(CLUSTER))
        self.signals: list[RegionSignal] = []
        self.proofs: list[Proof] = []
        self.requests: list[Request] = []
        self.published: list[tuple[str, str, str]] = []
        self.fails = False
        self._author_key = author_key

    def view(self) -> LatticeView:
        if self.fails:
            raise RuntimeError("a mistake in the node")
        return fake_view()

    def decide(self, request: Request) -> Decision:
        self.requests.append(request)
        attempts = (Attempt("ams", "secondary", Level.HEALTHY, ("127.1.0.1", 9001)),)
        return Decision("everything", "", "fra", "ams", "secondary", "secondary: fra DOWN", 200, attempts)

    def traffic(self) -> Traffic:
        return Traffic(requests=7, by_region=(("ams", 5), ("fra", 2)), errors=0, retries=1)

    def located(self, request: Request) -> Request:
        return request

    def steering(self) -> Sequence[RegionSteering]:
        return [
            RegionSteering(
                "fra",
                Level.DOWN,
                "3 failures in a row, refused",
                2 * SECOND,
                1_830,
                2_500,
                False,
                NOW_MS + 60_000,
                0,
                11_000,
            )
        ]

    async def submit_revocations(self, revocations: tuple[bytes, ...]) -> None:
        if revocations != (b"the CA's word",):
            raise UntrustedError("bad revocation signature")

    async def submit_purges(self, purges: tuple[bytes, ...]) -> None:
        if purges != (b"an author's word",):
            raise UntrustedError("bad purge signature")

    def ejected(self) -> AbstractSet[Endpoint]:
        return frozenset({("127.1.0.2", 9001), ("::1", 9001)})

    def events(self) -> Sequence[NodeEvent]:
        return [
            NodeEvent(NOW_MS - 2_000, "region", "fra is DOWN", (("region", "fra"), ("old", "HEALTHY"), ("new", "DOWN")))
        ]

    def counters(self) -> Mapping[str, int]:
        return {"probes": 3, "datagrams_received": 11}

    def applied_ms(self, policy: str) -> int | None:
        return NOW_MS - 60_950 if policy == "default" else None

    def in_force(self, policy: str) -> tuple[VersionId, str] | None:
        return (VERSION, "") if policy == "default" else None

    def version_text(self, version: VersionId) -> str | None:
        return POLICY if version == VERSION else None

    def policy_text(self, policy: str) -> str | None:
        return POLICY if policy == "default" else None

    def policy_head(self, policy: str, author: AuthorId) -> PolicyHead:
        return head_at(self.store, CLUSTER, policy, author)

    def standing(self, policy: str) -> Sequence[Standing]:
        return standing_at(self.store, policy)

    def policy_ops(self) -> Sequence[bytes]:
        return self.store.ops()

    def warnings(self) -> Sequence[str]:
        return ["the node's certificate expires on 2027-01-01 00:00 UTC"]

    def keys(self) -> KeysState:
        new, old = KeyId(b"\x7f\x3a"), KeyId(b"\x01\xc4")
        keys = (KeyState(new, "2026-11", True), KeyState(old, "first", False))
        return KeysState(keys, b"\1\2", (PeerKeys(FRA, old, ((old, 12),), uses_ours=False, has_ours=True),))

    def snapshot(self) -> Sequence[RegionSnapshot]:
        return [
            RegionSnapshot("ams", 12, 1_500, 40, NOW_MS, Level.HEALTHY),
            RegionSnapshot("fra", None, None, None, None, Level.UNKNOWN),
        ]

    def update_signal(self, signal: RegionSignal, proof: Proof | None) -> None:
        if signal.region not in {"ams", "fra"}:
            raise RefusalError(422, f"no policy names a region {signal.region!r}", "known: ams, fra")
        self.signals.append(signal)
        self.proofs += [proof] if proof else []

    async def publish_text(self, policy: str, text: str, message: str) -> Published:
        if self._author_key is None:
            raise RefusalError(403, "this node holds no author key", "sign it where the key is")
        parse(text)
        self.published.append((policy, text, message))
        return Published(policy, VERSION, 1)

    async def submit_ops(self, policy: str, ops: tuple[bytes, ...]) -> Published:
        accepted = sum(len(self.store.admit(op)) for op in ops)
        heads = self.store.heads(policy)
        if not heads:
            raise LatticeError("no such policy", policy)
        return Published(policy, heads[-1].version, accepted)


def ops_of(text: str, policy: str = "default") -> list[bytes]:
    """Signed ops that publish a policy of one statement."""
    chain = PolicyStore([AUTHOR], Ed25519Verifier(CLUSTER)).chain(AUTHOR)
    return [op.data for op in compose(SIGNER, chain, policy, [text], message="", now_ms=NOW_MS).ops]
