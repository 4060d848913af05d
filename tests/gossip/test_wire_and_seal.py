"""Bytes: what is sent is small, what is opened is authentic, and nothing that arrives can raise."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import node, pool

from rumormill.gossip import InvalidKey, KeyRing
from rumormill.gossip.seal import NOBODY, OVERHEAD, Seal, Unopened
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
ALICE, BOB = b"alice...", b"bob....."


def test_what_is_sealed_opens_for_holders_of_the_key_and_nobody_else() -> None:
    alice, bob = Seal(ONE, "prod", ALICE), Seal(ONE, "prod", BOB)
    datagram = alice.seal(BOB, b"hello")
    assert bob.parties(datagram) == (ALICE, BOB)
    assert bob.open(datagram, ALICE) == b"hello"
    assert b"hello" not in datagram
    assert len(datagram) == len(b"hello") + OVERHEAD
    with pytest.raises(Unopened, match="unknown_key"):
        Seal(TWO, "prod", BOB).open(datagram, ALICE)
    with pytest.raises(Unopened, match="label"):
        Seal(ONE, "test", BOB).parties(datagram)
    with pytest.raises(Unopened, match="sealed"):
        Seal(None, "prod", BOB).parties(datagram)
    with pytest.raises(Unopened, match="plaintext"):
        bob.parties(Seal(None, "prod", ALICE).seal(BOB, b"hello"))


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_noticed(position: int, change: int) -> None:
    alice, bob = Seal(ONE, "prod", ALICE), Seal(ONE, "prod", BOB)
    datagram = bytearray(alice.seal(BOB, b"hello"))
    datagram[position % len(datagram)] ^= change
    with pytest.raises(Unopened):
        bob.open(bytes(datagram), bob.parties(bytes(datagram))[0])


def test_no_nonce_twice() -> None:
    alice = Seal(ONE, "prod", ALICE)
    headers = [alice.seal(receiver, b"x")[26:34] for receiver in (BOB, NOBODY) * 500]
    assert len(set(headers)) == 1000


def test_every_key_of_the_ring_opens_and_the_first_seals() -> None:
    both = KeyRing((b"2" * 32, b"1" * 32))
    old, new = Seal(ONE, "prod", ALICE), Seal(both, "prod", BOB)
    assert new.open(old.seal(BOB, b"x"), ALICE) == b"x"
    assert Seal(TWO, "prod", ALICE).open(new.seal(ALICE, b"x"), BOB) == b"x"


@pytest.mark.parametrize("text", ["", "# nothing\n", "short", "AAAA\n", "!" * 44])
def test_a_key_file_that_will_not_do_says_why(text: str) -> None:
    with pytest.raises(InvalidKey):
        KeyRing.from_text(text)


def test_a_key_ring_is_replaced_without_losing_a_datagram() -> None:
    alice, bob = Seal(ONE, "prod", ALICE), Seal(ONE, "prod", BOB)
    under_way = alice.seal(BOB, b"old")
    bob.use(ONE.with_key(TWO.primary))
    alice.use(TWO)
    assert bob.open(under_way, ALICE) == b"old"
    assert bob.open(alice.seal(BOB, b"new"), ALICE) == b"new"
    bob.use(TWO)
    with pytest.raises(Unopened, match="unknown_key"):
        bob.open(under_way, ALICE)


def test_a_quiet_heartbeat_is_at_most_120_bytes_with_its_ip_header() -> None:
    beat = encode_message(Heartbeat(2**32 - 1, 2**32 - 1, 1))
    payload = assemble(payload_prefix(9, 100), [beat])
    assert len(payload) + OVERHEAD + 8 + 40 <= 120


@given(st.binary(max_size=1500))
def test_no_bytes_raise_out_of_the_decoder(data: bytes) -> None:
    with contextlib.suppress(UndecodablePayload):
        decode_untrusted(data)


def recorded(world: World, seconds: float) -> list[bytes]:
    """Genuine datagrams, as an eavesdropper on n0's wire would have them."""
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
    """From outside, without the key: random bytes, and genuine datagrams cut, lengthened and flipped."""
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


def test_hostile_payloads_under_the_right_key_cost_no_member() -> None:
    """A broken peer, not a liar: it holds the key and sends rubbish inside good seals, truncated syncs among it."""
    world = pool(3, seed=12)
    rng = random.Random(12)
    victim = node(world, "n0")
    midwife = world._midwife
    seal = Seal(midwife.keyring, victim.view.cluster, b"stranger")  # type: ignore[attr-defined]
    peer = Seal(midwife.keyring, victim.view.cluster, node(world, "n1").instance[:8])  # type: ignore[attr-defined]
    genuine = [victim._state.seal.open(d, victim._state.seal.parties(d)[0]) for d in recorded(world, 3.0)]
    for _ in range(100):
        for _ in range(50):
            sealer = seal if rng.random() < 0.5 else peer
            world.inject(sealer.seal(victim.instance[:8], mutated(rng.choice(genuine), rng)), "n0")
        world.run(0.05)
    world.run(5.0)
    assert world.one_view(), world.history.tail()
    assert victim.counters["dropped_payload"] > 1000
