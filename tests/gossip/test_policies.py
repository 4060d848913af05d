"""Policies among real nodes in virtual time: speed, after a split, for a newcomer, with signatures, against forgers."""

from __future__ import annotations

import msgspec
import pytest
from pools import node, pool
from seeds import MORE_SEEDS

from rumormill.discovery.schema.policy_bodies import (
    CanaryPolicy,
    Maintenance,
    Rollout,
    Share,
    body_of,
    encode_body,
)
from rumormill.gossip import Node
from rumormill.gossip.dissemination.policy_replication import PolicyKey, PolicyRefused
from rumormill.gossip.wire import MAX_DATAGRAM, PolicyMessage
from rumormill.membership.policy import MAX_COUNTER_JUMP, PolicyRecord, encode_policy
from rumormill.simulations import LinkFault, RumormillFactory, World
from rumormill.simulations.factories import NodeStart
from rumormill.simulations.invariant_checker import InvariantChecker


def write(world: World, key: str, share: int, service: str = "embed") -> PolicyRecord:
    written: list[PolicyRecord] = []
    body = encode_body(CanaryPolicy([Share("v2", share)]))
    world.command(key, lambda member, now: written.append(node(world, key).write_policy(service, body, at=0, now=now)))
    return written[0]


def share_of(record: PolicyRecord) -> int:
    body = body_of(record)
    assert isinstance(body, CanaryPolicy)
    return body.shares[0].share


def shares(world: World) -> dict[str, list[int]]:
    """The shares that each member holds."""
    return {key: [share_of(policy) for policy in node(world, key).view.policies] for key in world.running()}


def all_hold(world: World, *expected: int) -> bool:
    return all(held == list(expected) for held in shares(world).values())


@pytest.mark.parametrize("writer", ["n17", *(pytest.param(name, marks=MORE_SEEDS) for name in ("n0", "n63"))])
def test_a_change_reaches_all_of_64_within_half_a_second(writer: str) -> None:
    world = pool(64)
    write(world, writer, 500)
    took = world.run_until(lambda: all_hold(world, 500), within=0.5)
    assert took is not None
    assert took <= 0.5


def test_even_with_a_third_of_the_datagrams_lost_nobody_is_left_out() -> None:
    world = pool(32)
    world.degrade(LinkFault(loss=0.3))
    write(world, "n3", 500)
    assert world.run_until(lambda: all_hold(world, 500), within=3.0) is not None


def test_two_writers_in_two_halves_of_a_split_end_equal_everywhere() -> None:
    world = World(seed=5)
    checker = InvariantChecker(world)
    world.start(12)
    world.run(5.0)
    world.cut({f"n{number}" for number in range(6)})
    world.run(3.0)
    write(world, "n1", 500)
    write(world, "n9", 2500)
    world.run(2.0)
    assert {held[0] for held in shares(world).values()} == {500, 2500}
    world.heal()
    world.run(10.0)
    checker.check_convergence()
    assert all_hold(world, 2500)  # of one counter the greater name
    write(world, "n1", 100)
    world.run(1.0)
    assert all_hold(world, 100)


def test_a_newcomer_learns_them_all_and_a_restarted_pool_member_too() -> None:
    world = pool(5)
    for number in range(40):
        write(world, "n1", 100 + number, service=f"service {number:02}")
        world.run(0.1)
    world.restart("n2")
    world.start(1)
    world.run(3.0)
    assert all_hold(world, *range(100, 140))
    assert len({node(world, key).table_digest for key in world.running()}) == 1


def test_nothing_is_written_before_the_first_sync() -> None:
    world = pool(3)
    world.cut({"n3"})
    world.start(1)
    world.run(2.0)
    with pytest.raises(PolicyRefused, match="no seed answers"):
        write(world, "n3", 500)
    world.heal()
    assert world.run_until(lambda: node(world, "n3").joined, within=3.0, every=0.0005) is not None
    with pytest.raises(PolicyRefused, match="not learned yet"):
        write(world, "n3", 500)
    world.run(2.0)
    write(world, "n3", 500)


def test_a_pool_of_one_without_seeds_may_write() -> None:
    world = World(seed=1)
    world.start(1)
    world.run(1.0)
    assert write(world, "n0", 500).counter == 1


def test_a_leap_is_refused_and_counted_but_a_newcomer_believes_the_pool() -> None:
    world = pool(3)
    far = encode_policy(
        PolicyRecord("embed", MAX_COUNTER_JUMP + 1, "n0", 0, encode_body(CanaryPolicy([Share("v2", 1)])))
    )
    state = node(world, "n0")._state
    state.send(node(world, "n1")._state.me, PolicyMessage(msgspec.Raw(far)))
    world.command("n0", lambda member, now: None)
    world.run(0.2)
    assert shares(world)["n1"] == []
    assert node(world, "n1").counters["policy_leap"] == 1


GARBAGE = msgspec.msgpack.encode(["embed", 1, "n0", 0, ["canary", [["v2", 10_001]], None]])
"""A record that merges, with a body that no member can decode."""


@pytest.mark.parametrize("record", [b"\xc0", GARBAGE], ids=["no record", "no body"])
def test_garbage_in_a_policy_is_counted_and_dropped(record: bytes) -> None:
    world = pool(3)
    state = node(world, "n0")._state
    state.send(node(world, "n1")._state.me, PolicyMessage(msgspec.Raw(record)))
    world.command("n0", lambda member, now: None)
    world.run(0.2)
    assert node(world, "n1").counters["invalid_policy"] == 1
    assert shares(world)["n1"] == []


KEY = PolicyKey.signing(bytes(range(32)))
OTHER = PolicyKey.signing(bytes(32))


def factory(key: PolicyKey | None) -> RumormillFactory:
    return RumormillFactory(policy_key=key)


def test_with_a_policy_key_only_what_it_signed_is_believed() -> None:
    world = World(seed=1, factory=factory(KEY))
    world.start(3)
    world.start_one("unsigned", factory=factory(None))
    world.start_one("forger", factory=factory(OTHER))
    world.run(3.0)
    write(world, "unsigned", 1)
    write(world, "forger", 2)
    world.run(3.0)
    honest = ("n0", "n1", "n2")
    assert all(shares(world)[key] == [] for key in honest)
    assert sum(node(world, key).counters["policy_unsigned"] for key in honest) >= 2
    write(world, "n1", 500, service="rank")
    world.run(1.0)
    assert all(shares(world)[key] == [500] for key in honest)


def test_a_sidecar_with_the_public_half_checks_and_does_not_write() -> None:
    checking = PolicyKey.checking(bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"))
    world = World(seed=1, factory=factory(checking))
    world.start(2)
    world.start_one("writer", factory=factory(KEY))
    world.run(3.0)
    with pytest.raises(PolicyRefused, match="private key"):
        write(world, "n0", 500)
    write(world, "writer", 500)
    world.run(1.0)
    assert all_hold(world, 500)


def test_what_a_member_kept_from_an_earlier_instance_survives_the_whole_pool_and_yields_to_news() -> None:
    world = pool(3)
    write(world, "n1", 500)
    world.run(1.0)
    kept = node(world, "n1").policies

    def remembering(start: NodeStart) -> Node:
        return RumormillFactory(policies=tuple(kept))(start)

    later = World(seed=2, factory=remembering)
    later.start(3)
    later.run(3.0)
    assert all_hold(later, 500)
    assert write(later, "n2", 700).counter == 2
    later.run(1.0)
    later.restart("n1")
    later.run(2.0)
    assert all_hold(later, 700)


def test_history_tells_who_wrote_what() -> None:
    world = pool(3)
    write(world, "n1", 500)
    world.run(0.5)
    write(world, "n2", 2500)
    world.run(0.5)
    told = [(record.writer, share_of(record)) for record in node(world, "n0").policy_history()]
    assert told == [("n1", 500), ("n2", 2500)]


def test_the_largest_policy_fits_a_datagram() -> None:
    world = World(seed=1, factory=factory(KEY))
    world.start(2)
    world.run(2.0)
    largest = 0

    def measure(host: object, to: object, data: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(data))

    world.network.on_send = measure
    gates = ["x" * 290] * 3
    rollout = Rollout("v2", [100], 1.0, gates, "", "", 0, 0, "running")
    body = encode_body(CanaryPolicy([Share("v2", 100)], rollout))
    world.command("n0", lambda member, now: node(world, "n0").write_policy("embed", body, at=2**52, now=now))
    world.run(0.5)
    assert [policy.body for policy in node(world, "n1").view.policies] == [body]
    assert 1000 < largest <= MAX_DATAGRAM
    too_long = encode_body(Maintenance(["w" * 100 + str(n) for n in range(12)]))
    with pytest.raises(PolicyRefused, match="bytes"):
        node(world, "n0").write_policy("embed", too_long, 0, world.now)
