"""Rings: their steps, their text, and what they never say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.key_ring import KEYS_MAX, KeyId, KeyRing, KeyRingError, key_id, parse_ring, ring_text

secrets = st.binary(min_size=32, max_size=32)
labels = st.from_regex(r"[A-Za-z0-9._-]{1,32}", fullmatch=True)


@st.composite
def rings(draw: st.DrawFn) -> KeyRing:
    keys = draw(
        st.lists(st.tuples(secrets, labels), min_size=1, max_size=4, unique_by=lambda key: KeyRing.of(key[0]).used.id)
    )
    ring = KeyRing.of(*keys[0])
    for secret, label in keys[1:]:
        ring = ring.add(secret, label)
    return ring


@given(rings())
def test_a_ring_reads_back_from_its_text(ring: KeyRing) -> None:
    assert parse_ring(ring_text(ring, "edge")) == ring
    assert parse_ring("\n# a comment\n\n" + ring_text(ring, "edge")) == ring


@given(rings(), secrets, labels)
def test_the_three_steps(ring: KeyRing, secret: bytes, label: str) -> None:
    new = KeyRing.of(secret).used.id
    if any(key.id == new for key in ring.keys):
        with pytest.raises(KeyRingError, match="twice"):
            ring.add(secret, label)
        return
    old, added = ring.used, ring.add(secret, label)
    assert added.used is old
    used = added.use(new)
    assert used.used.secret == secret
    assert used.tag == added.tag != ring.tag, "the tag tells what a node has, not what it uses"
    assert set(used.remove(old.id).keys) == set(added.keys) - {old}
    with pytest.raises(KeyRingError, match="in use: use another first"):
        used.remove(new)


@given(rings(), st.text(max_size=40))
def test_a_damaged_line_is_refused_and_no_digit_of_it_said(ring: KeyRing, junk: str) -> None:
    text = ring_text(ring, "edge")
    secret = ring.keys[0].secret.hex()
    assert secret[:16] not in repr(ring)
    for damaged in (text.replace(secret, secret[:-1]), text.replace(secret, secret[::-1]), text + "use " + junk):
        if secret == secret[::-1]:
            continue
        with pytest.raises(KeyRingError) as refused:
            parse_ring(damaged)
        assert secret[:16] not in str(refused.value)


def test_a_file_of_one_key_is_a_ring_of_it() -> None:
    assert parse_ring(f"# edgelattice cluster key\n{'ab' * 32}\n") == KeyRing.of(b"\xab" * 32)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected one key to `use`, there are 0"),
        ("\0" * 100, "line 1: expected `use`"),
        ("ab" * 31, "line 1: expected `use`"),
        (ring_text(KeyRing.of(b"a" * 32), "x") * 2, "expected one key to `use`, there are 2"),
        (ring_text(KeyRing.of(b"a" * 32), "x").replace("use ", "hold"), "there are 0"),
        (ring_text(KeyRing.of(b"a" * 32), "x").replace(KeyRing.of(b"a" * 32).used.id.hex(), "0000"), "of this id"),
        (ring_text(KeyRing.of(b"a" * 32), "x").replace("first", "a/b"), "line 2: 'a/b' is no label"),
    ],
)
def test_what_is_no_ring(text: str, said: str) -> None:
    with pytest.raises(KeyRingError, match=said):
        parse_ring(text)


def test_keys_are_bounded_and_have_their_length() -> None:
    ring = KeyRing.of(bytes(32))
    for number in range(1, KEYS_MAX):
        ring = ring.add(bytes([number]) * 32, "more")
    with pytest.raises(KeyRingError, match=f"a ring has at most {KEYS_MAX}"):
        ring.add(b"x" * 32, "more")
    with pytest.raises(KeyRingError, match="32 bytes, this one 5"):
        KeyRing.of(b"short")
    with pytest.raises(KeyRingError, match="no key 0000 here; there is"):
        ring.use(KeyId(b"\0\0"))


def test_ids_as_people_write_them() -> None:
    assert key_id("7F3a") == b"\x7f\x3a"
    for text in ("", "7f3", "7f3a0", "xyzw", "７f3a"):
        with pytest.raises(KeyRingError, match="is no key id"):
            key_id(text)
