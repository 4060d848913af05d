"""Members of wire versions 1 and 2 in one pool. Each pair uses the lower of its two versions. Nobody is evicted, and no
datagram of the one is unreadable for the other."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable

import msgspec
import pytest
from pools import everyone_holds, node
from seeds import seeds

from rumormill.gossip import Profile, ProtocolSettings
from rumormill.gossip.identity import Identity
from rumormill.gossip.lifecycle.leave import LEAVE_SECONDS, LONGEST_LEAVE
from rumormill.gossip.security.credentials import MemberKeys
from rumormill.membership import Liveness, Readiness
from rumormill.membership.record import (
    MAX_OWN_RECORD_BYTES,
    MAX_UNREADY_BYTES,
    WIRE_VERSION,
    encode_record,
    validate_record,
)
from rumormill.simulations import LinkFault, World
from rumormill.simulations.factories import RumormillFactory
from rumormill.simulations.invariant_checker import InvariantChecker

FORMER, CURRENT = (RumormillFactory(ProtocolSettings(wire_version=version)) for version in (1, WIRE_VERSION))


def mixed_pool(count: int, former: Iterable[int], seed: int) -> World:
    """Members n0 to n(count-1), of which ``former`` speak version 1."""
    world = World(seed=seed, factory=CURRENT)
    InvariantChecker(world)
    old = set(former)
    for number in range(count):
        world.start_one(f"n{number}", factory=FORMER if number in old else CURRENT)
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
    world.run(2.0)
    return world


def spoken(world: World) -> dict[str, int]:
    """The version that each member of n0's view speaks."""
    return {member.name: member.wire for member in node(world, "n0").view.members if member.liveness.present}


def unreadable(world: World) -> int:
    return sum(node(world, key).counters["dropped_payload"] for key in world.running())


def replace(world: World, key: str, factory: RumormillFactory) -> None:
    """A planned restart with another version."""
    world.leave(key)
    world.run(LONGEST_LEAVE + 0.1)
    world.restart(key, factory=factory)
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()


@pytest.mark.parametrize("seed", seeds(10))
@pytest.mark.parametrize("count", [3, 8, 16])
def test_a_pool_goes_up_a_version_and_back_down_without_an_eviction(count: int, seed: int) -> None:
    world = mixed_pool(count, range(count), seed)
    assert set(spoken(world).values()) == {1}
    keys = list(world.hosts)
    for factory, version in ((CURRENT, WIRE_VERSION), (FORMER, 1)):
        for key in keys[1:] + keys[:1]:
            replace(world, key, factory)
            world.run(0.5)
        world.run(1.0)
        assert set(spoken(world).values()) == {version}
    assert world.history.of("evicted") == []
    assert world.history.of("probation") == []
    assert unreadable(world) == 0


@pytest.mark.parametrize("seed", seeds(10))
def test_a_mixed_pool_detects_a_crash_and_hears_a_leave_of_either_version(seed: int) -> None:
    world = mixed_pool(8, range(4), seed)
    for key in ("n3", "n7"):
        world.leave(key)
        assert world.run_until(lambda k=key: everyone_holds(world, k, Liveness.LEFT), within=1.0) is not None
    for key in ("n2", "n6"):
        world.crash(key)
        assert world.run_until(lambda k=key: everyone_holds(world, k, Liveness.DEAD), within=2.0) is not None
    assert unreadable(world) == 0


def leaving_takes(world: World, key: str) -> float:
    begun = world.now
    leaver = node(world, key)
    world.leave(key)
    assert world.run_until(lambda: leaver.has_left, within=LONGEST_LEAVE + 0.2) is not None
    return world.now - begun


@pytest.mark.parametrize("seed", seeds(30))
def test_a_leave_is_heard_although_half_of_all_packets_are_lost(seed: int) -> None:
    """In a pool of two, a member of version 1 says it twice, and is taken for crashed if both are lost."""
    world = mixed_pool(2, (), seed)
    world.degrade(LinkFault(loss=0.5))
    leaving_takes(world, "n1")
    world.run(2.0)
    assert everyone_holds(world, "n1", Liveness.LEFT), world.history.tail()


def test_without_loss_a_leave_takes_no_longer_than_before() -> None:
    for former in ((), (0, 1, 2), (0,), (2,)):
        assert leaving_takes(mixed_pool(3, former, seed=1), "n2") == pytest.approx(LEAVE_SECONDS, abs=0.05)


def test_where_nobody_answers_a_leave_ends_all_the_same() -> None:
    world = mixed_pool(3, (), seed=1)
    world.cut({"n2"})
    assert leaving_takes(world, "n2") == pytest.approx(LONGEST_LEAVE, abs=0.2)


def identity(tags: dict[str, str], unready: str) -> Identity:
    keys = MemberKeys.generate(random.Random(1).randbytes, None)
    profile = Profile("embed", "http://10.0.0.1:9001", readiness=Readiness.CRITICAL, tags=tags, unready=unready)
    return Identity("n1", ("10.0.0.1", 7946), profile, 1, 1, False, keys)


def test_a_reason_is_cut_to_its_limit_and_left_out_where_a_record_has_no_room_for_it() -> None:
    record = identity({}, "it answers 503:\n" + "ü" * 200).record(0.0, 0.2, WIRE_VERSION)
    assert record.unready.startswith("it answers 503: üü")
    assert MAX_UNREADY_BYTES - 1 <= len(record.unready.encode()) <= MAX_UNREADY_BYTES
    validate_record(record, MAX_OWN_RECORD_BYTES)
    crowded = identity({"k": "v" * 500, "z": ""}, "x" * 120)
    crowded.name, crowded.profile = "n" * 120, dataclasses.replace(crowded.profile, zone="z" * 64, release="r" * 64)
    full = crowded.record(0.0, 0.2, WIRE_VERSION)
    assert (full.unready, full.wire) == ("", WIRE_VERSION)


def test_a_record_of_version_1_is_what_it_was() -> None:
    record = identity({}, "it answers 503").record(0.0, 0.2, 1)
    assert (record.wire, record.unready, record.endpoint) == (1, "", 0)
    assert len(msgspec.msgpack.decode(encode_record(record))) == 15, "up to the certificate"
