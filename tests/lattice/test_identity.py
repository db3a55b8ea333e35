"""Ids, signatures, and what they are bound to."""

from __future__ import annotations

import pytest

from lattice.identity import Ed25519Signer, Ed25519Verifier, author_id_of, node_id_of, private_key_from, public_key_of

SEED = private_key_from(b"entropy" * 8)
SIGNER = Ed25519Signer(SEED, "test")


def test_a_signature_holds_for_its_cluster_purpose_payload_and_key_alone() -> None:
    signature = SIGNER.sign(b"row", b"payload")
    verifier = Ed25519Verifier("test")
    for _ in range(2):  # the second time from memory
        assert verifier.verify(SIGNER.public_key, b"row", b"payload", signature)
    other = Ed25519Signer(private_key_from(b"others" * 8), "test")
    assert not verifier.verify(SIGNER.public_key, b"op", b"payload", signature)
    assert not verifier.verify(SIGNER.public_key, b"row", b"payload!", signature)
    assert not verifier.verify(other.public_key, b"row", b"payload", signature)
    assert not Ed25519Verifier("prod").verify(SIGNER.public_key, b"row", b"payload", signature)
    for index in range(len(signature)):
        damaged = bytearray(signature)
        damaged[index] ^= 1
        assert not verifier.verify(SIGNER.public_key, b"row", b"payload", bytes(damaged))


def test_nonsense_is_no_signature() -> None:
    verifier = Ed25519Verifier("test")
    for key, signature in ((b"", b""), (bytes(32), bytes(64)), (b"\xff" * 32, b"\xff" * 64), (b"x" * 31, b"y" * 63)):
        assert not verifier.verify(key, b"row", b"payload", signature)


def test_no_word_is_bound_to_a_key_of_small_order() -> None:
    """Under such a key a signature that is nobody's holds for every few messages, by OpenSSL's arithmetic."""
    order_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
    negated = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
    keys = [bytes(32), b"\1" + bytes(31), bytes.fromhex(order_8), bytes.fromhex(negated)]
    keys += [bytes([low]) + b"\xff" * 30 + b"\x7f" for low in (0xEC, 0xED, 0xEE)]
    verifier = Ed25519Verifier("test")
    for key in keys + [key[:31] + bytes([key[31] | 0x80]) for key in keys]:
        for number in range(32):
            assert not verifier.verify(key, b"row", bytes([number]), key + bytes(32))
            assert not verifier.verify(key, b"row", bytes([number]), b"\1" + bytes(63))


def test_what_did_not_hold_is_not_remembered_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattice.identity.VERIFIED_CACHE_MAX", 4)
    verifier = Ed25519Verifier("test")
    for number in range(10):
        payload = bytes([number])
        assert verifier.verify(SIGNER.public_key, b"row", payload, SIGNER.sign(b"row", payload))
        assert not verifier.verify(SIGNER.public_key, b"row", payload, bytes(64))
    assert len(verifier._held) == 4


def test_ids_are_hashes_of_keys() -> None:
    assert public_key_of(SEED) == SIGNER.public_key
    assert len(node_id_of(SIGNER.public_key)) == 16
    assert bytes(node_id_of(SIGNER.public_key)) == bytes(author_id_of(SIGNER.public_key))
    assert node_id_of(SIGNER.public_key) != node_id_of(bytes(32))
    assert node_id_of(bytes(32)).hex() == "acff368db3579f997d3393adc707ac5b"


def test_keys_have_their_length() -> None:
    assert private_key_from(b"entropy" * 8) == SEED
    with pytest.raises(ValueError, match="32"):
        Ed25519Signer(b"short", "test")
    with pytest.raises(AssertionError):
        private_key_from(b"short")
