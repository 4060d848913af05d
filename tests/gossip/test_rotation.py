"""Keys change while the pool runs, in virtual time: no member is lost, sleepers come back or learn why not."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

import pytest
from pools import everyone_holds, node, pool
from seeds import MORE_SEEDS

from rumormill.gossip import KeyRing
from rumormill.gossip.security.key_audit import KeyAudit
from rumormill.gossip.security.key_rotation import COMPARE_EVERY, MAX_AHEAD, REMOVED_KEY_GRACE
from rumormill.gossip.security.keyring import key_name_of
from rumormill.gossip.wire import KeyRingUpdate, encode_message
from rumormill.membership import Liveness
from rumormill.simulations import World
from rumormill.simulations.factories import KEYS, RumormillFactory
from rumormill.simulations.network import LinkFault


def key(number: int) -> bytes:
    return number.to_bytes(1, "big") * 32


def change(world: World, at: str, ring: KeyRing) -> None:
    host = world.hosts[at]
    node(world, at).change_keys(ring, host.local_time())
    host.poke()


def ring_of(world: World, at: str) -> KeyRing:
    ring = node(world, at).keyring
    assert ring is not None
    return ring


def audit(world: World, at: str) -> KeyAudit:
    """Ask everyone until all hold one ring, for three seconds at most."""

    def look() -> KeyAudit:
        found = node(world, at).audit_keys(world.hosts[at].local_time())
        world.hosts[at].poke()
        return found

    world.run_until(lambda: look().settled, within=3.0)
    return look()


def rotate(world: World, at: str, new: bytes, keep: int = 2) -> None:
    """The operator's steps: install, use, remove the oldest. Each waits until all present members took the last."""
    change(world, at, ring_of(world, at).with_key(new))
    assert audit(world, at).settled
    change(world, at, ring_of(world, at).with_primary(new))
    assert audit(world, at).settled
    for old in ring_of(world, at).keys[keep:]:
        change(world, at, ring_of(world, at).without_key(old))
        assert audit(world, at).settled


def refused(world: World, at: str) -> int:
    counters = node(world, at).counters
    return counters["dropped_unknown_key"] + counters["dropped_key"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_three_rounds_in_a_pool_of_eight_one_asleep_during_each_lose_nobody_and_no_datagram(seed: int) -> None:
    world = pool(8, seed=seed)
    names = list(world.running())
    for turn in range(1, 4):
        sleeper = names[turn]
        world.freeze(sleeper)
        assert world.run_until(lambda s=sleeper: everyone_holds(world, s, Liveness.DEAD), within=3.0)
        rotate(world, names[0], key(turn))
        world.run(REMOVED_KEY_GRACE + 1)
        world.resume(sleeper)
        assert world.run_until(world.one_view, within=3.0), world.history.tail()
        world.run(2.0)
        assert {ring_of(world, name) for name in names} == {ring_of(world, names[0])}
    assert not world.history.of("refused"), world.history.tail()
    awake = [name for name in names if name not in names[1:4]]
    assert {name: refused(world, name) for name in awake} == dict.fromkeys(awake, 0)
    evicted = {event.member for event in world.history if event.kind == "evicted"}
    assert evicted <= {world.name_of(sleeper) for sleeper in names[1:4]}


def test_rounds_over_a_network_that_loses_delays_and_reorders_refuse_no_datagram_either() -> None:
    world = pool(8, seed=20)
    world.degrade(LinkFault(loss=0.1, jitter=0.05, duplicate=0.05))
    for turn in range(1, 6):
        rotate(world, f"n{turn}", key(turn))
    world.run(2.0)
    assert {ring_of(world, name).keys for name in world.running()} == {(key(5), key(4))}
    assert {name: refused(world, name) for name in world.running()} == dict.fromkeys(world.running(), 0)


def test_without_the_audits_datagrams_are_refused() -> None:
    """The two tests above would have noticed this."""
    world = pool(8, seed=20)
    world.degrade(LinkFault(loss=0.3, jitter=0.1))
    for turn in range(1, 9):
        change(world, "n0", KeyRing((key(turn), *ring_of(world, "n0").keys[:1])))
        world.run(1.0)
    assert sum(refused(world, name) for name in world.running()) > 0


def test_a_change_at_one_member_is_everyones_at_once() -> None:
    world = pool(16, seed=4)
    change(world, "n3", KEYS.with_key(key(1)))
    assert world.run_until(lambda: all(len(ring_of(world, n).keys) == 2 for n in world.running()), within=1.0)
    found = audit(world, "n9")
    assert (found.version, found.members, found.unanswered, found.behind) == (1, 16, (), ())
    assert found.holders == {KEYS.names[0]: 16, key_name_of(key(1)): 16}
    assert found.primary == KEYS.names[0]


def test_two_changes_at_once_end_with_one_ring() -> None:
    world = pool(8, seed=5)
    change(world, "n1", KEYS.with_key(key(1)))
    change(world, "n6", KEYS.with_key(key(2)))
    world.run(0.5)
    assert len({ring_of(world, name) for name in world.running()}) == 1
    assert audit(world, "n0").settled


def test_a_removed_key_is_not_brought_back_by_who_missed_its_removal() -> None:
    """The sleeper's primary was never the removed key, so no header shows that it is behind."""
    world = pool(5, seed=6)
    rotate(world, "n0", key(1))
    world.freeze("n4")
    change(world, "n0", ring_of(world, "n0").without_key(KEYS.primary))
    world.run(3.0)
    world.resume("n4")
    world.run(COMPARE_EVERY * 3)
    assert {ring_of(world, name).keys for name in world.running()} == {(key(1),)}
    assert node(world, "n4").key_version == node(world, "n0").key_version


def test_who_starts_with_an_old_file_gets_in_by_a_key_still_accepted_and_is_brought_up_to_date() -> None:
    world = pool(4, seed=7)
    rotate(world, "n0", key(1))
    world.start_one("late")
    assert world.run_until(world.one_view, within=3.0), world.history.tail()
    world.run(1.0)
    assert ring_of(world, "late").keys == (key(1), KEYS.primary)
    assert sum(refused(world, name) for name in world.running() if name != "late") == 0


def test_who_holds_no_key_still_accepted_is_told_and_so_is_the_pool() -> None:
    world = pool(4, seed=8)
    rotate(world, "n0", key(1), keep=1)
    world.run(REMOVED_KEY_GRACE + 1)
    world.start_one("late")
    world.run(5.0)
    assert not node(world, "late").joined
    assert "does not accept the key this member seals with" in node(world, "late").seal_trouble
    assert key_name_of(key(1))[:2] in node(world, "late").seal_trouble
    told = [event.text for event in world.history if event.kind == "refused"]
    assert any("seals with the key" in text and "was removed here" in text for text in told)
    assert len(told) <= 8
    for name in ("n0", "n1", "n2", "n3"):
        assert world.liveness_of(name, "late") is None


def test_a_plaintext_member_does_not_get_into_a_sealed_pool_and_both_are_told() -> None:
    world = pool(3, seed=9)
    world.start_one("open", factory=RumormillFactory(keyring=None))
    world.run(5.0)
    assert not node(world, "open").joined
    assert "is sealed, and this member gossips in plaintext" in node(world, "open").seal_trouble
    assert all(world.liveness_of(name, "open") is None for name in ("n0", "n1", "n2"))
    told = [event.text for event in world.history if event.kind == "refused"]
    assert any("gossips in plaintext, and this member is sealed" in text for text in told)


def test_a_notice_is_never_longer_than_the_question_and_never_answered() -> None:
    world = pool(3, seed=10)
    sent: list[tuple[tuple[str, int], bytes]] = []
    victim = node(world, "n0")
    stranger = ("198.51.100.7", 666)
    question = bytes([0x10, 0xEE]) + victim._state.seal.label + b"stranger" + victim.instance[:8] + bytes(8) + bytes(16)
    for _ in range(40):
        for _ in range(25):
            victim.receive_datagram(question, stranger, world.hosts["n0"].local_time())
        sent += [(to, data) for to, data in victim.datagrams_to_send() if to == stranger]
        world.run(0.05)
    assert 0 < len(sent) <= 20
    assert all(len(data) <= 34 < len(question) for _, data in sent)
    node(world, "n1").receive_datagram(sent[0][1], stranger, world.hosts["n1"].local_time())
    assert not [to for to, _ in node(world, "n1").datagrams_to_send() if to == stranger]


def test_a_version_far_ahead_is_refused_and_plaintext_takes_no_keys() -> None:
    world = pool(3, seed=11)
    victim = node(world, "n0")
    tell_keys(world, "n0", KeyRingUpdate(MAX_AHEAD + 1, [KEYS.primary]))
    world.run(0.1)
    assert victim.counters["keys_refused"] == 1
    assert ring_of(world, "n0") == KEYS
    plain = World(seed=12, factory=RumormillFactory(keyring=None))
    plain.start(2)
    assert plain.run_until(plain.one_view, within=3.0)
    change(plain, "n0", KEYS)
    assert node(plain, "n0").keyring is None
    assert node(plain, "n0").audit_keys(plain.hosts["n0"].local_time()).members == 0


def tell_keys(world: World, victim: str, ring: KeyRingUpdate) -> None:
    """A member says this to another, under its own good seal."""
    liar = node(world, "n1")._state
    row = liar.table.get(node(world, victim).instance[:8])
    assert row is not None
    liar.send_encoded(row, [encode_message(ring)])
    world.hosts["n1"].poke()


@pytest.mark.parametrize(
    "ring", [KeyRingUpdate(0, [key(9)]), KeyRingUpdate(0, [KEYS.primary, key(9)]), KeyRingUpdate(5, [key(9)])]
)
def test_a_ring_of_version_0_or_without_any_key_of_ours_is_refused(ring: KeyRingUpdate) -> None:
    """Found by the flood: taken in, it cut its receiver off from the pool."""
    world = pool(4, seed=15)
    tell_keys(world, "n0", ring)
    world.run(1.0)
    assert node(world, "n0").counters["keys_refused"] == 1
    assert ring_of(world, "n0") == KEYS
    assert world.one_view()


def test_one_member_given_a_ring_that_others_lack_is_not_silenced_but_teaches_them() -> None:
    """Whoever is in can change the keys, and cannot use that to cut a single member off."""
    world = pool(6, seed=16)
    tell_keys(world, "n0", KeyRingUpdate(3, [key(9), KEYS.primary]))
    world.run(3.0)
    assert world.one_view()
    assert not world.history.of("evicted"), world.history.tail()
    assert {ring_of(world, name).keys for name in world.running()} == {(key(9), KEYS.primary)}


def test_an_audit_names_who_does_not_answer() -> None:
    world = pool(4, seed=13)
    world.freeze("n2")
    found = audit(world, "n0")
    assert found.unanswered in ((world.name_of("n2"),), ())
    assert found.members in (3, 4)


def test_what_is_under_way_when_its_key_goes_still_opens() -> None:
    world = pool(3, seed=14)
    rotate(world, "n0", key(1))
    late = node(world, "n1")._state
    old = late.seal.keyring
    assert old is not None
    late.seal.set_keyring(old.with_primary(KEYS.primary))
    row = late.table.get(node(world, "n0").instance[:8])
    assert row is not None
    datagram = late.sealed_for(row, KeyRingUpdate(0, [key(1)]))
    late.seal.set_keyring(old)
    change(world, "n0", KeyRing((key(1),)))
    world.run(0.5)
    before = refused(world, "n0")
    world.inject(datagram, "n0", source=world.hosts["n1"].address)
    world.run(REMOVED_KEY_GRACE)
    assert refused(world, "n0") == before
    world.inject(datagram, "n0", source=world.hosts["n1"].address)
    world.run(0.1)
    assert refused(world, "n0") == before + 1


def told_of_seals(world: World, at: str) -> list[str]:
    return [event.text for event in world.history.of("refused") if event.observer == at]


@pytest.mark.parametrize("asleep", [("n4",), ("n4", "n5"), ("n3", "n4", "n5")])
def test_who_wakes_with_a_removed_key_is_told_and_the_others_name_it(asleep: tuple[str, ...]) -> None:
    """Of three and three as well: it is not the many that are right but those with the later ring."""
    world = pool(6, seed=12)
    change(world, "n0", KEYS.with_key(key(9)))  # a version of their own: these rings are not as the files had them
    world.run(1.0)
    world.freeze(*asleep)
    world.run(5.0)
    awake = [name for name in world.running() if name not in asleep]
    rotate(world, "n0", key(1), keep=1)
    world.run(REMOVED_KEY_GRACE + 1)
    world.resume(*asleep)
    for _ in range(10):
        world.run(1.0)
        assert {node(world, name).seal_trouble for name in awake} == {""}
    for name in asleep:
        assert "does not accept the key this member seals with" in node(world, name).seal_trouble
        assert any(
            "Put a key that the pool still accepts into --key-file" in text for text in told_of_seals(world, name)
        )
    lines = [text for name in awake for text in told_of_seals(world, name)]
    for name in asleep:
        home = world.hosts[name].address[0]
        assert any(f"{name} at {home}:" in text and "was removed here" in text for text in lines), lines
    for text in lines:
        assert [text.startswith(f"{name} at {world.hosts[name].address[0]}:") for name in asleep].count(True) == 1, text
    assert not any("this member seals with" in text for text in lines)


def test_keys_that_were_changed_by_hand_make_no_healthy_member_wrong_either() -> None:
    """All but the sleepers start again with another file: nobody knows a version, or what was removed."""
    world = World(seed=13, seeds=6)
    world.start(6)
    assert world.run_until(world.one_view, within=3.0) is not None
    world.freeze("n4", "n5")
    for name in ("n0", "n1", "n2", "n3"):
        world._factories[name] = RumormillFactory(keyring=KeyRing((key(1),)))
    world.restart("n0", "n1", "n2", "n3")
    world.run(8.0)
    world.resume("n4", "n5")
    world.run(4.0)
    for _ in range(10):
        world.run(1.0)
        assert {node(world, name).seal_trouble for name in ("n0", "n1", "n2", "n3")} == {""}
    for name in ("n4", "n5"):
        assert "does not accept the key this member seals with" in node(world, name).seal_trouble


# -- What is removed leaves memory


def reachable_bytes(*roots: object) -> set[bytes]:
    """Every bytes object that can be reached from some objects, without going through modules of other packages."""
    found: set[bytes] = set()
    seen = {id(sys.modules)}
    todo = list(roots)
    while todo:
        item = todo.pop()
        if id(item) in seen or (isinstance(item, ModuleType) and not item.__name__.startswith("rumormill.")):
            continue
        seen.add(id(item))
        if isinstance(item, bytes):
            found.add(item)
        todo.extend(gc.get_referents(item))
    return found


def gossip_modules() -> list[ModuleType]:
    return [module for name, module in sys.modules.items() if name.startswith("rumormill.gossip")]


@MORE_SEEDS
def test_a_removed_key_leaves_memory() -> None:
    """Neither a node nor a cache of this process holds it, or anything derived from it, once its grace is over."""
    gc.collect()  # worlds of earlier tests hold the same keys until then
    world = pool(3, seed=4)
    old, new = key(8), key(9)
    rotate(world, "n0", old, keep=1)
    world.run(2.0)
    seals = [node(world, name)._state.seal for name in world.hosts]
    derived = {secret for seal in seals for peer in seal.peers.values() for secret in (peer.key_in, peer.key_out)}
    nodes = [(node(world, name)._state, node(world, name)._parts.key_rotation) for name in world.hosts]
    held = reachable_bytes(*gossip_modules(), nodes)
    assert old in held
    assert derived <= held
    rotate(world, "n0", new, keep=1)
    world.run(REMOVED_KEY_GRACE + 1)
    held = reachable_bytes(*gossip_modules(), nodes)
    assert new in held
    assert old not in held
    assert not derived & held
