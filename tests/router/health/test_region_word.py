"""Whose word a signal is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lattice.grants import Role, sign_grant
from lattice.identity import Ed25519Signer, Ed25519Verifier, node_id_of
from lattice.types import SECOND, Micros, NodeId
from router.control.target import Proof, RefusalError, RegionSignal
from router.health.region_word import SIGNED_AGE_MS_MAX, SIGNS_US, RegionWords, sign_signal
from tests.lattice.cluster import CLUSTER, EPOCH, GRANTED_UNTIL_S, signer_of

CA = signer_of("ca")
SIGNAL = RegionSignal("fra", 20, 1_000, 80, EPOCH // 1_000)


def region(
    name: str, role: Role = Role.REGION, until_s: int = GRANTED_UNTIL_S, ca: Ed25519Signer = CA
) -> Ed25519Signer:
    return signer_of(name, sign_grant(ca, signer_of(name).public_key, role, name, until_s))


def words(revoked: NodeId | None = None, ca: bool = True, unsigned: bool = True) -> RegionWords:
    return RegionWords(
        CA.public_key if ca else None,
        Ed25519Verifier(CLUSTER),
        lambda key: key == revoked,
        unsigned=unsigned,
    )


GOOD = sign_signal(region("fra"), SIGNAL)


def refusal(judge: RegionWords, signal: RegionSignal, proof: Proof | None, now: Micros = EPOCH) -> str:
    with pytest.raises(RefusalError) as refused:
        judge.judge(signal, proof, now)
    return refused.value.error


def test_a_region_s_own_word_is_taken_from_anywhere() -> None:
    words(unsigned=False).judge(SIGNAL, GOOD, EPOCH)
    assert "must be signed" in refusal(words(unsigned=False), SIGNAL, None), "before any region has signed, too"
    words().judge(SIGNAL, None, EPOCH)
    words(ca=False).judge(SIGNAL, None, EPOCH)
    assert "has no CA" in refusal(words(ca=False), SIGNAL, GOOD)


@pytest.mark.parametrize(
    "changed",
    [{"latency_ms": 21}, {"error_rate_ppm": 0}, {"capacity_pct": 0}, {"timestamp_ms": SIGNAL.timestamp_ms + 1}],
)
def test_nobody_alters_it_on_the_way(changed: dict[str, int]) -> None:
    assert "bad signature" in refusal(words(), replace(SIGNAL, **changed), GOOD)  # type: ignore[arg-type]  # its integers


def test_nobody_else_speaks_for_it() -> None:
    for other in (
        region("iad"),
        region("fra", Role.NODE),
        region("fra", Role.OPERATOR),
        region("fra", ca=signer_of("another ca")),
    ):
        assert "bad grant" in refusal(words(), SIGNAL, sign_signal(other, SIGNAL))
    assert "bad grant" in refusal(words(), SIGNAL, replace(GOOD, public_key=signer_of("thief").public_key))
    assert "bad proof" in refusal(words(), SIGNAL, replace(GOOD, public_key=b"short"))
    ended = sign_signal(region("fra", until_s=EPOCH // SECOND - 1), SIGNAL)
    assert "grant expired" in refusal(words(), SIGNAL, ended)
    assert "key revoked" in refusal(words(revoked=node_id_of(GOOD.public_key)), SIGNAL, GOOD)
    elsewhere = Ed25519Signer(bytes(range(32)), "elsewhere")
    grant = sign_grant(CA, elsewhere.public_key, Role.REGION, "fra", GRANTED_UNTIL_S)
    assert "bad signature" in refusal(
        words(), SIGNAL, sign_signal(Ed25519Signer(bytes(range(32)), "elsewhere", grant), SIGNAL)
    )


def test_a_region_that_signs_is_believed_only_when_it_signs() -> None:
    judge = words()
    judge.judge(SIGNAL, None, EPOCH)
    judge.judge(SIGNAL, GOOD, EPOCH)
    assert "signs its word" in refusal(judge, SIGNAL, None, Micros(EPOCH + SIGNS_US - 1))
    judge.judge(replace(SIGNAL, region="iad"), None, EPOCH)
    judge.judge(SIGNAL, None, Micros(EPOCH + SIGNS_US))


def test_a_refused_word_makes_nobody_a_signer() -> None:
    judge = words()
    refusal(judge, SIGNAL, replace(GOOD, signature=bytes(64)))
    judge.judge(SIGNAL, None, EPOCH)


def test_an_old_word_that_was_captured_is_not_taken() -> None:
    last = Micros(EPOCH + SIGNED_AGE_MS_MAX * 1_000)
    words().judge(SIGNAL, GOOD, last)
    assert "5 minutes ago" in refusal(words(), SIGNAL, GOOD, Micros(last + 1_000))
