"""A region's word about itself, signed: whoever may reach the control API can say how a region is, but not in its name.

A region has a key of its own and a certificate for the role ``region``, whose grant (`lattice.grants`) goes along with
each signal. So a signal may come from anywhere, through anybody. A region that signs is believed only when it signs:
for `SIGNS_US` after a signed word, unsigned ones about it are refused. A site takes none at all that are unsigned if
its file says so (`control.unsigned_signals`), or if other machines reach the API and there is a CA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lattice import canonical
from lattice.errors import UntrustedError
from lattice.grants import Grants
from lattice.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signer, Verifier, node_id_of
from lattice.types import SECOND, Micros, NodeId
from router.control.target import Proof, RefusalError, RegionSignal

SIGNS_US: Final = 3_600 * SECOND
SIGNED_AGE_MS_MAX: Final = 300_000
"""An older word is not taken: it may have been captured. As far as clocks may differ elsewhere."""
_PURPOSE = b"signal"
_FORMAT = 1


def sign_signal(signer: Signer, signal: RegionSignal) -> Proof:
    """The proof that goes along with a signal; the signer must have a grant."""
    assert signer.grant is not None, "a region shows what the CA says of it"
    return Proof(signer.public_key, signer.grant, signer.sign(_PURPOSE, _statement(signal)))


def _statement(signal: RegionSignal) -> bytes:
    return canonical.pack(
        (
            _FORMAT,
            signal.region,
            signal.latency_ms,
            signal.error_rate_ppm,
            signal.capacity_pct,
            signal.timestamp_ms,
        )
    )


class RegionWords:
    """Which signals a node takes."""

    def __init__(
        self,
        ca_key: bytes | None,
        verifier: Verifier,
        is_revoked: Callable[[NodeId], bool],
        *,
        unsigned: bool,
    ) -> None:
        """`unsigned`: what nobody signed is taken, of regions that have not signed lately."""
        self._grants = Grants(ca_key, verifier)
        self._verifier = verifier
        self._is_revoked = is_revoked
        self._unsigned = unsigned
        self._signs: dict[str, Micros] = {}

    def judge(self, signal: RegionSignal, proof: Proof | None, now: Micros) -> None:
        """Raise `RefusalError` unless the signal may be taken. For regions that there are: each is remembered."""
        if proof is None:
            self._judge_unsigned(signal.region, now)
            return
        if not self._grants.enforced:
            raise RefusalError(422, "a signed signal, and this cluster has no CA", "send it without proof")
        try:
            self._judge_proof(signal, proof, now)
        except UntrustedError as error:
            raise RefusalError(
                403, f"not the word of region {signal.region!r}: {error}", "sign with the region's own key"
            ) from None
        if now // 1_000 - signal.timestamp_ms > SIGNED_AGE_MS_MAX:
            raise RefusalError(409, "a signed signal of more than 5 minutes ago", "check the sender's clock")
        self._signs[signal.region] = Micros(now + SIGNS_US)

    def _judge_unsigned(self, region: str, now: Micros) -> None:
        if now < self._signs.get(region, 0):
            raise RefusalError(403, f"region {region!r} signs its word, and this is not signed", "`edgelattice signal`")
        if not self._unsigned:
            raise RefusalError(403, "at this site signals must be signed", "`edgelattice signal` signs and sends")

    def _judge_proof(self, signal: RegionSignal, proof: Proof, now: Micros) -> None:
        if len(proof.public_key) != PUBLIC_KEY_BYTES or len(proof.signature) != SIGNATURE_BYTES:
            raise UntrustedError("bad proof", "a key has 32 bytes and a signature 64")
        if self._is_revoked(node_id_of(proof.public_key)):
            raise UntrustedError("key revoked")
        self._grants.check_region(proof.public_key, signal.region, proof.grant, now)
        if not self._verifier.verify(proof.public_key, _PURPOSE, _statement(signal), proof.signature):
            raise UntrustedError("bad signature")
