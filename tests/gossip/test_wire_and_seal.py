"""Datagrams are small, opened datagrams are authentic, and no received bytes raise."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import node, pool

from rumormill.gossip import InvalidKey, KeyRing, Node
from rumormill.gossip.security.credentials import MemberKeys
from rumormill.gossip.security.seal import OVERHEAD, UNKNOWN_RECEIVER, DecryptError, Seal
from rumormill.gossip.wire import (
    MAX_DATAGRAM,
    Heartbeat,
    UndecodablePayload,
    assemble,
    decode_untrusted,
    encode_message,
    payload_prefix,
)
from rumormill.simulations import World

ONE, TWO = KeyRing((b"1" * 32,)), KeyRing((b"2" * 32,))
ALICE, BOB, MALLORY = (MemberKeys.generate(random.Random(name).randbytes) for name in ("alice", "bob", "mallory"))


def met(keyring: KeyRing | None, keys: MemberKeys, *others: MemberKeys, label: str = "prod") -> Seal:
    """A member's seal that has the keys of these others."""
    seal = Seal(keyring, label, keys)
    for other in others:
        seal.add_peer(other.public)
    return seal


def pair() -> tuple[Seal, Seal]:
    return met(ONE, ALICE, BOB), met(ONE, BOB, ALICE)


def test_only_the_receiver_opens_a_datagram() -> None:
    alice, bob = pair()
    datagram = alice.seal(BOB.member_id, b"hello")
    assert bob.claimed_ids(datagram) == (ALICE.member_id, BOB.member_id)
    assert bob.open(datagram, ALICE.member_id) == b"hello"
    assert b"hello" not in datagram
    assert len(datagram) == len(b"hello") + OVERHEAD
    with pytest.raises(DecryptError, match="key"):
        met(ONE, MALLORY, ALICE).open(datagram, ALICE.member_id)
    with pytest.raises(DecryptError, match="unknown_key"):
        met(TWO, BOB, ALICE).claimed_ids(datagram)
    with pytest.raises(DecryptError, match="label"):
        met(ONE, BOB, label="test").claimed_ids(datagram)
    with pytest.raises(DecryptError, match="sealed"):
        met(None, BOB).claimed_ids(datagram)
    with pytest.raises(DecryptError, match="plaintext"):
        bob.claimed_ids(met(None, ALICE, BOB).seal(BOB.member_id, b"hello"))


def test_every_holder_of_the_group_key_opens_a_stranger_datagram() -> None:
    datagram = met(ONE, ALICE).seal_for_stranger(UNKNOWN_RECEIVER, b"hello")
    assert Seal.is_from_stranger(datagram)
    assert met(ONE, BOB).open_from_stranger(datagram, ALICE.member_id) == b"hello"
    with pytest.raises(DecryptError, match="unknown_key"):
        met(TWO, BOB).claimed_ids(datagram)


@given(st.integers(0, 10**6), st.integers(1, 255), st.booleans())
def test_one_changed_byte_anywhere_is_noticed(position: int, change: int, stranger: bool) -> None:
    alice, bob = pair()
    seal = alice.seal_for_stranger if stranger else alice.seal
    datagram = bytearray(seal(BOB.member_id, b"hello"))
    datagram[position % len(datagram)] ^= change
    with contextlib.suppress(DecryptError, KeyError):  # KeyError: the change named a sender that bob does not know
        sender = bob.claimed_ids(bytes(datagram))[0]
        opened = bob.open_from_stranger if Seal.is_from_stranger(bytes(datagram)) else bob.open
        pytest.fail(f"opened {opened(bytes(datagram), sender)!r}")


def test_every_key_of_the_ring_opens_and_the_first_seals() -> None:
    both = KeyRing((b"2" * 32, b"1" * 32))
    old, new = met(ONE, ALICE, BOB), met(both, BOB, ALICE)
    assert new.open(old.seal(BOB.member_id, b"x"), ALICE.member_id) == b"x"
    assert met(TWO, ALICE, BOB).open(new.seal(ALICE.member_id, b"x"), BOB.member_id) == b"x"


def test_a_key_ring_is_replaced_without_losing_a_datagram() -> None:
    alice, bob = pair()
    under_way, later = alice.seal(BOB.member_id, b"old"), alice.seal(BOB.member_id, b"late")
    bob.set_keyring(ONE.with_key(TWO.primary))
    alice.set_keyring(TWO)
    assert bob.open(under_way, ALICE.member_id) == b"old"
    assert bob.open(alice.seal(BOB.member_id, b"new"), ALICE.member_id) == b"new"
    bob.set_keyring(TWO)
    with pytest.raises(DecryptError, match="unknown_key"):
        bob.claimed_ids(later)


@pytest.mark.parametrize("text", ["", "# nothing\n", "short", "AAAA\n", "!" * 44])
def test_a_bad_key_file_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(InvalidKey):
        KeyRing.from_text(text)


def test_a_quiet_heartbeat_is_at_most_120_bytes_with_its_ip_header() -> None:
    beat = encode_message(Heartbeat(2**32 - 1, 2**32 - 1, 1))
    payload = assemble(payload_prefix(9, 100), [beat])
    assert len(payload) + OVERHEAD + 8 + 40 <= 120


@given(st.binary(max_size=1500))
def test_no_bytes_raise_out_of_the_decoder(data: bytes) -> None:
    with contextlib.suppress(UndecodablePayload):
        decode_untrusted(data)


def recorded(world: World, seconds: float) -> list[bytes]:
    """Genuine datagrams, as an eavesdropper in front of n0 records them."""
    taken: list[bytes] = []
    receive = node(world, "n0").receive_datagram

    def tap(data: bytes, source: tuple[str, int], now: float) -> None:
        taken.append(data)
        receive(data, source, now)

    node(world, "n0").receive_datagram = tap  # type: ignore[method-assign]
    world.run(seconds)
    node(world, "n0").receive_datagram = receive  # type: ignore[method-assign]
    return taken


def mutated(data: bytes, rng: random.Random) -> bytes:
    match rng.randrange(4):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            return data + rng.randbytes(rng.randrange(1, 64))
        case 2:
            position = rng.randrange(len(data))
            return data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :]
        case _:
            return rng.randbytes(rng.randrange(MAX_DATAGRAM + 200))


def test_ten_thousand_hostile_datagrams_cost_no_member() -> None:
    """The attacker has no key. It sends random bytes, and genuine datagrams cut, lengthened or with flipped bits."""
    world = pool(3, seed=11)
    rng = random.Random(11)
    genuine = recorded(world, 3.0)
    dropped = sum(v for k, v in node(world, "n0").counters.items() if k.startswith("dropped"))
    for batch in range(100):
        for _ in range(100):
            world.inject(mutated(rng.choice(genuine), rng), "n0")
        world.run(0.05)
        assert world.one_view(), f"lost somebody in batch {batch}"
    after = sum(v for k, v in node(world, "n0").counters.items() if k.startswith("dropped"))
    assert after - dropped >= 9_900
    assert {c.kind for c in world.history} <= {"joined", "refused"}, world.history.tail()


def inner(receiver: Node, datagram: bytes) -> bytes:
    """The payload of a datagram that the member received before."""
    keys = receiver._state.identity.keys
    seal = Seal(receiver._state.seal.keyring, receiver.view.cluster, keys)
    sender = seal.claimed_ids(datagram)[0]
    if Seal.is_from_stranger(datagram):
        return seal.open_from_stranger(datagram, sender)
    row = receiver.table.get(sender)
    assert row is not None
    assert row.record is not None
    seal.add_peer(row.record.keys)
    return seal.open(datagram, sender)


def test_hostile_payloads_under_the_right_key_cost_no_member() -> None:
    """A broken peer holds the key and seals invalid payloads, truncated syncs among them."""
    world = pool(3, seed=12)
    rng = random.Random(12)
    victim = node(world, "n0")
    factory = world._factory
    stranger = Seal(factory.keyring, victim.view.cluster, MALLORY)  # type: ignore[attr-defined]
    peer = node(world, "n1")._state.seal
    genuine = [inner(victim, datagram) for datagram in recorded(world, 3.0)]
    for _ in range(100):
        for _ in range(50):
            payload, member_id = mutated(rng.choice(genuine), rng), victim.instance[:8]
            sealed = (
                stranger.seal_for_stranger(member_id, payload) if rng.random() < 0.5 else peer.seal(member_id, payload)
            )
            world.inject(sealed, "n0")
        world.run(0.05)
    world.run(5.0)
    assert world.one_view(), world.history.tail()
    assert victim.counters["dropped_payload"] > 1000
