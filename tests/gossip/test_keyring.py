"""Key rings: what a file may contain, how a change alters a ring, and that no key is shown anywhere."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumormill.discovery.api.key_handlers import KeyBody
from rumormill.gossip.security.keyring import MAX_KEYS, InvalidKey, KeyRing, key_id_of, key_name_of
from rumormill.gossip.wire import KeyRingUpdate

A, B, C = (letter * 32 for letter in (b"a", b"b", b"c"))
keys = st.binary(min_size=32, max_size=32)
rings = st.lists(keys, min_size=1, max_size=MAX_KEYS, unique=True).map(lambda chosen: KeyRing(tuple(chosen)))


@given(rings)
def test_what_is_written_is_read_again_in_its_order(ring: KeyRing) -> None:
    assert KeyRing.from_text(ring.to_text()) == ring
    assert [bytes.fromhex(name)[0] for name in ring.names] == [key_id_of(key) for key in ring.keys]


def test_a_rotation_adds_promotes_and_removes() -> None:
    ring = KeyRing((A,)).with_key(B)
    assert ring.keys == (A, B)
    assert ring.with_key(B) is ring
    ring = ring.with_key(C).with_primary(C)
    assert (ring.primary, ring.keys) == (C, (C, A, B))
    assert ring.without_key(A).keys == (C, B)
    assert ring.without_key(b"d" * 32) == ring
    assert ring.key_named(key_name_of(B)) == B
    assert ring.key_named("00000000") is None


def test_what_would_leave_a_ring_without_its_sealing_key_is_refused() -> None:
    with pytest.raises(InvalidKey, match="make another the primary first"):
        KeyRing((A, B)).without_key(A)
    with pytest.raises(InvalidKey, match="must be in the ring"):
        KeyRing((A,)).with_primary(B)
    with pytest.raises(InvalidKey, match="at most 8"):
        KeyRing(tuple(bytes([n]) * 32 for n in range(MAX_KEYS + 1)))
    with pytest.raises(InvalidKey, match="twice"):
        KeyRing((A, A))


def test_neither_a_ring_nor_an_error_shows_a_key() -> None:
    assert repr(KeyRing((A, B))) == f"KeyRing({key_name_of(A)}, {key_name_of(B)})"
    assert repr(KeyRingUpdate(3, [A, B])) == "KeyRingUpdate(3, 2 key(s))"
    assert repr(KeyBody(base64.b64encode(A).decode())) == "KeyBody()"
    long = base64.b64encode(b"z" * 33).decode()
    for text in (long, f"{base64.b64encode(A).decode()}\n{long}\n", "secret!\n"):
        with pytest.raises(InvalidKey) as refused:
            KeyRing.from_text(text)
        assert long not in str(refused.value)
        assert "secret" not in str(refused.value)
