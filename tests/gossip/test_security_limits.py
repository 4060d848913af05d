"""What strangers and liars may cost: bounded memory, no answer longer than its question, few checks of signatures."""

from __future__ import annotations

import random
import tracemalloc

import msgspec
import pytest
from attackers import Recorder, forged, record_of, say, with_mallory
from hypothesis import given
from hypothesis import strategies as st
from pools import node, pool
from seeds import MORE_SEEDS

from rumormill.gossip import Node
from rumormill.gossip.dispatch import MAX_WAITING
from rumormill.gossip.lifecycle.join import JOIN_BYTES, JoinProtocol
from rumormill.gossip.security.credentials import MemberKeys
from rumormill.gossip.security.rate_limits import MAX_SOURCES, TokenBucket
from rumormill.gossip.security.seal import HEADER, UNKNOWN_RECEIVER, Seal
from rumormill.gossip.security.sent_datagrams import SentDatagrams
from rumormill.gossip.security.signature_verifier import MAX_CHECKS_PER_TURN, MISBEHAVING_SECONDS, SignatureVerifier
from rumormill.gossip.wire import Join, UnknownSender, assemble, encode_message, payload_prefix
from rumormill.membership import Address
from rumormill.simulations import World
from rumormill.simulations.factories import KEYS


def fakes(count: int, seed: int = 1) -> list[tuple[Seal, Address]]:
    """As many senders as you like, each with keys and an address of its own."""
    rng = random.Random(seed)
    return [
        (
            Seal(KEYS, "lab", MemberKeys.generate(rng.randbytes)),
            (f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", 7946),
        )
        for n in range(count)
    ]


def answers(receiver: Node, data: bytes, source: Address, now: float) -> list[tuple[Address, bytes]]:
    receiver.datagrams_to_send()
    receiver.receive_datagram(data, source, now)
    return [(to, sent) for to, sent in receiver.datagrams_to_send() if to == source]


def join_of(seal: Seal) -> bytes:
    message = encode_message(Join("w", bytes(8), bytes(JOIN_BYTES)))
    return seal.seal_for_stranger(UNKNOWN_RECEIVER, assemble(payload_prefix(0, 0), [message]))


def unknown_to(receiver: Node, seal: Seal, size: int) -> bytes:
    """What has the looks of a member's datagram, from a member nobody knows."""
    header = HEADER.pack(0x10, receiver._state.seal.key_id, seal.label, seal.member_id, receiver.instance[:8], 1)
    return header + bytes(size)


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=MORE_SEEDS)])
def test_thousands_of_senders_that_do_not_exist_leave_nothing_behind(count: int) -> None:
    world = pool(3)
    victim = node(world, "n0")
    attackers = [(join_of(seal), unknown_to(victim, seal, 60), source) for seal, source in fakes(count)]
    before = [sorted(row.name for row in node(world, key).table) for key in world.running()]
    tracemalloc.start()
    for number, (join, other, source) in enumerate(attackers):
        world.inject(join, "n0", source)
        world.inject(other, "n0", source)
        if number % 100 == 0:
            world.run(0.02)
    world.run(1.0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 5_000_000, f"{count} senders, two datagrams each"
    assert len(victim._dispatch._join_limit) <= MAX_SOURCES
    assert len(victim._state.seal.peers) <= 3
    assert [sorted(row.name for row in node(world, key).table) for key in world.running()] == before
    assert world.history.of("suspected") == []


@pytest.mark.parametrize("name", ["w", "n1", "n" * 128])
def test_a_challenge_is_no_longer_than_the_join(name: str) -> None:
    """Also for a name of which two instances are held, at their greatest numbers."""
    world = pool(3)
    world.start_one("rival", name="n1", contacts=[])
    seal, source = fakes(1)[0]
    padding = bytes(max(0, JOIN_BYTES - len(name)))
    message = encode_message(Join(name, bytes(8), padding))
    join = seal.seal_for_stranger(UNKNOWN_RECEIVER, assemble(payload_prefix(0, 0), [message]))
    sent = answers(node(world, "n0"), join, source, world.hosts["n0"].local_time())
    assert len(sent) == 1
    assert sum(len(data) for _, data in sent) <= len(join)


@given(st.integers(0, 1300), st.integers(0, 2**32))
def test_nothing_that_is_not_opened_is_answered_at_greater_length(size: int, seed: int) -> None:
    world = shared()
    victim = node(world, "n0")
    seal, source = fakes(1, seed)[0]
    data = unknown_to(victim, seal, size)
    sent = answers(victim, data, source, world.hosts["n0"].local_time())
    assert sum(len(answer) for _, answer in sent) <= len(data)


_shared: list[World] = []


def shared() -> World:
    if not _shared:
        _shared.append(pool(3))
    return _shared[0]


def test_what_was_recorded_brings_no_more_than_it_weighs() -> None:
    world = World(seed=2)
    recorder = Recorder(world)
    world.start(4)
    world.run(5.0)
    recorder.stop()
    victim = node(world, "n0")
    sent = received = 0
    for data, source in recorder.datagrams:
        received += len(data)
        sent += sum(len(answer) for _, answer in answers(victim, data, source, world.hosts["n0"].local_time()))
    assert sent <= received


# -- Signatures


def bad_rows(world: World, count: int) -> list[bytes]:
    record = record_of(world, "mallory", "n1")
    label = node(world, "n0")._state.seal.label
    return [
        forged(node(world, "mallory"), msgspec.structs.replace(record, incarnation=1000 + n), label)
        for n in range(count)
    ]


@pytest.mark.parametrize("broken", [False, True])
def test_a_flood_of_bad_signatures_costs_next_to_no_checks(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_mallory()
    if broken:
        monkeypatch.setattr(SignatureVerifier, "_note_result", lambda self, good, bearer, now: good)
    victim = node(world, "n0")
    before = victim.counters["checked_signatures"]
    for row in bad_rows(world, 1000):
        say(world, "mallory", row, to=("n0",))
        world.run(0.002)
    assert (victim.counters["checked_signatures"] - before <= 5) is not broken
    assert world.history.of("suspected", "n0") == []


def flood_with_bad_rows(world: World, seconds: float, every: float) -> None:
    rows = bad_rows(world, 100)
    for number in range(round(seconds / every)):
        say(world, "mallory", rows[number % 100], to=("n0",))
        world.run(every)


def test_of_whoever_floods_with_bad_signatures_next_to_nothing_is_opened() -> None:
    world = with_mallory()
    victim = node(world, "n0")
    before = victim.counters["checked_signatures"]
    flood_with_bad_rows(world, 4.0, 0.001)
    assert victim.counters["checked_signatures"] - before <= 5
    assert victim.counters["dropped_distrusted"] >= 4000 - 4 * 60 - 60
    assert world.history.of("suspected", "n0") == []


def test_a_member_with_a_fault_stays_a_member() -> None:
    """A few bad signatures a second, as from a version with a mistake in it, starve its heartbeats of nothing."""
    world = with_mallory()
    flood_with_bad_rows(world, 12.0, 0.05)
    assert node(world, "n0").counters["bad_signatures"] >= 2
    assert node(world, "n0").counters["dropped_distrusted"] == 0
    assert world.history.of("suspected") == []


@pytest.mark.parametrize("broken", [False, True])
def test_nobody_is_taken_for_a_liar_by_its_header(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outsider floods with n1's header while another member lies: what n1 really says is heard."""
    world = with_mallory()
    if broken:
        monkeypatch.setattr(
            SignatureVerifier, "accepts_datagram_from", lambda self, member_id, now: now * 1000 % 10 < 1
        )
    victim, seal = node(world, "n0"), node(world, "n1")._state.seal
    rows, key_id = bad_rows(world, 100), victim._state.seal.key_id
    made_up = HEADER.pack(0x10, key_id, seal.label, seal.member_id, victim.instance[:8], 2**39) + bytes(60)
    for number in range(2000):
        say(world, "mallory", rows[number % 100], to=("n0",))
        world.inject(made_up, "n0", world.hosts["n1"].address)
        world.run(0.001)
    assert (world.history.of("suspected", "n1") == []) is not broken


def test_distrust_lasts_its_time_though_the_clock_falls_back() -> None:
    world = with_mallory()
    victim = node(world, "n0")
    flood_with_bad_rows(world, 0.2, 0.1)
    world.jump_clock(-86400.0, "n0")
    world.run(0.5)  # held to be paused, and back
    bad = victim.counters["bad_signatures"]
    assert bad >= 1
    flood_with_bad_rows(world, 0.2, 0.1)
    assert victim.counters["bad_signatures"] == bad
    world.run(MISBEHAVING_SECONDS)
    flood_with_bad_rows(world, 0.2, 0.1)
    assert victim.counters["bad_signatures"] == bad + 1


def test_noise_is_dropped_unread_and_the_operator_still_hears_of_another_pool() -> None:
    world = pool(3)
    victim = node(world, "n0")
    elsewhere = Seal(KEYS, "another pool", MemberKeys.generate(random.Random(1).randbytes))
    noise = random.Random(2).randbytes
    for number in range(6000):
        alien = elsewhere.seal_for_stranger(victim.instance[:8], bytes(60)) if number % 10 == 0 else noise(90)
        world.inject(alien, "n0")
        world.run(0.0005)
    world.run(0.1)
    assert victim.counters["dropped_noise"] > 5800
    assert [event for event in world.history.of("refused") if "of another pool" in event.text]


def test_at_most_so_many_signatures_are_checked_before_the_timers_are_served() -> None:
    """A socket full of new members' records; each is good."""
    world = with_mallory()
    victim, mallory = node(world, "n0"), node(world, "mallory")
    label = victim._state.seal.label
    row = mallory.table.settled["n0"]
    rng = random.Random(3)
    datagrams = []
    for number in range(MAX_WAITING + 200):
        keys = MemberKeys.generate(rng.randbytes)
        record = msgspec.structs.replace(record_of(world, "mallory", "n1"), name=f"x{number}", keys=keys.public)
        mallory._state.send_encoded(row, [forged(keys, record, label)])
        datagrams += mallory.datagrams_to_send()
    now = world.hosts["n0"].local_time()
    checked = victim.counters["checked_signatures"]
    for _, data in datagrams:
        victim.receive_datagram(data, world.hosts["mallory"].address, now)
    assert victim.counters["checked_signatures"] - checked == MAX_CHECKS_PER_TURN
    assert victim.counters["dropped_signed"] == 200 - MAX_CHECKS_PER_TURN
    victim.handle_timer(now)
    assert victim.counters["checked_signatures"] - checked == 2 * MAX_CHECKS_PER_TURN
    assert victim.deadline <= now, "it goes on as soon as the timers have been served"
    for _ in range(MAX_WAITING // MAX_CHECKS_PER_TURN):
        victim.handle_timer(now)
    assert victim.counters["checked_signatures"] - checked == MAX_WAITING + MAX_CHECKS_PER_TURN
    assert len(victim.table) == 5 + MAX_WAITING + MAX_CHECKS_PER_TURN


# -- Rates


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 2)), max_size=200), st.integers(1, 20), st.integers(1, 60))
def test_no_source_and_not_all_together_pass_more_than_their_rate(
    tries: list[tuple[int, float]], each: int, total: int
) -> None:
    rate, now = TokenBucket(each, total), 0.0
    passed: list[tuple[int, float]] = []
    for source, pause in tries:
        now += pause
        if rate.allows(source, now):
            passed.append((source, now))
    for count, limit in ((len(passed), total), *((sum(s == n for s, _ in passed), each) for n in range(6))):
        assert count <= 2 * limit + limit * now + 1


def test_a_flood_of_pings_from_a_member_is_answered_at_its_rate() -> None:
    world = with_mallory()
    victim, mallory = node(world, "n0"), node(world, "mallory")
    row = mallory.table.settled["n0"]
    now, sent = world.hosts["n0"].local_time(), 0
    for _ in range(2000):
        mallory._parts.probes.ping(row)
        for to, data in mallory.datagrams_to_send():
            if to == row.address:
                sent += len(answers(victim, data, world.hosts["mallory"].address, now))
    assert sent <= 110
    assert victim.counters["dropped_rate"] >= 1800


# -- Words of strangers


@pytest.mark.parametrize("broken", [False, True])
def test_a_who_that_quotes_nothing_sends_nobody_anywhere(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the group key, from a made-up address: the victim must not be turned against whoever lives there."""
    world = pool(3)
    victim = node(world, "n0")
    seal, source = fakes(1)[0]
    if broken:
        monkeypatch.setattr(SentDatagrams, "take", lambda *_: UNKNOWN_RECEIVER)
    payload = assemble(payload_prefix(0, 0), [encode_message(UnknownSender(bytes(8)))])
    sent = 0
    for _ in range(20):
        now = world.hosts["n0"].local_time()
        victim.receive_datagram(seal.seal_for_stranger(victim.instance[:8], payload), source, now)
        victim.handle_timer(now)
        sent += sum(to == source for to, _ in victim.datagrams_to_send())
    assert (sent == 0) is not broken


def yesterdays(self: JoinProtocol, hello: object, sender: bytes, source: Address) -> bool:
    return True


@pytest.mark.parametrize("broken", [False, True])
def test_a_hello_is_good_once(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played again it would have the newcomer flooded with welcomes: they are longer than it is."""
    world = pool(5)
    recorder = Recorder(world)
    world.start_one("late", contacts=[world.hosts["n0"].address])
    world.run(1.0)
    recorder.stop()
    if broken:
        monkeypatch.setattr(JoinProtocol, "_use_cookie", yesterdays)
    address = world.hosts["late"].address
    victim, said = node(world, "n0"), [data for data, source in recorder.datagrams if source == address]
    hellos = [
        data for data in said if Seal.is_from_stranger(data) and data[18:26] == victim.instance[:8] and len(data) > 220
    ]
    assert hellos
    now = world.hosts["n0"].local_time()
    answered = sum(len(data) for _ in range(20) for _, data in answers(victim, hellos[0], address, now))
    assert (answered == 0) is not broken
