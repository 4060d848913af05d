"""A dead member is evicted within half a second, after three misses and two votes. A live member is never evicted."""

from __future__ import annotations

import pytest
from pools import everyone_holds, held, node, pool, sent
from seeds import MORE_SEEDS, seeds

from rumormill.membership import Liveness
from rumormill.simulations import LinkFault, World


@pytest.mark.parametrize("count", [2, 3, 5, 16, pytest.param(64, marks=MORE_SEEDS)])
@pytest.mark.parametrize("seed", seeds(3))
def test_a_crash_is_detected_everywhere_within_the_bound(count: int, seed: int) -> None:
    world = pool(count, seed)
    world.crash("n1")
    seconds = world.run_until(lambda: everyone_holds(world, "n1", Liveness.DEAD), within=2.0)
    assert seconds is not None, world.history.tail()
    assert 0.4 <= seconds <= 0.8
    assert {c.member for c in world.history if c.kind in ("suspected", "evicted")} == {"n1"}
    world.run(5.0)
    assert everyone_holds(world, "n1", Liveness.DEAD)


@MORE_SEEDS
@pytest.mark.parametrize("seed", range(3))
def test_long_round_trips_during_startup_do_not_delay_later_detection(seed: int) -> None:
    """While the pool starts, it measures round trips longer than a period. Until they are measured again, misses are
    further apart."""
    world = World(seed=seed)
    world.degrade(LinkFault(delay=0.16))
    world.start(32)
    assert world.run_until(world.one_view, within=12.0) is not None
    world.run(3.0)
    world.heal()
    world.run(5.0 + 0.1 * seed)
    world.crash("n1")
    assert world.run_until(lambda: everyone_holds(world, "n1", Liveness.DEAD), within=0.7), world.history.tail()


def test_the_reason_of_an_eviction_names_its_voters() -> None:
    world = pool(5)
    world.crash("n1")
    world.run(1.0)
    evictions = world.history.of("evicted", "n1")
    assert len(evictions) == 4
    assert all(e.text.startswith("n1 evicted: 3 misses seen by n") for e in evictions)


def test_members_that_crash_together_are_all_evicted_promptly() -> None:
    world = pool(40)
    rack = ["n3", "n13", "n23", "n33"]
    world.crash(*rack)
    assert world.run_until(lambda: all(everyone_holds(world, n, Liveness.DEAD) for n in rack), within=1.5) is not None
    assert {c.member for c in world.history.of("evicted")} == set(rack)


def test_a_member_that_dies_with_all_its_monitors_is_found_by_the_round_robin_probe() -> None:
    world = pool(16)
    lost = ["n1", *node(world, "n0").details(0.0)[node(world, "n1").instance].monitors]
    assert len(lost) == 4
    world.crash(*lost)
    assert world.run_until(lambda: all(everyone_holds(world, n, Liveness.DEAD) for n in lost), within=4.0) is not None


@pytest.mark.parametrize(("loss", "count"), [(0.1, 3), (0.1, 16), pytest.param(0.3, 16, marks=MORE_SEEDS)])
def test_loss_evicts_nobody(loss: float, count: int) -> None:
    world = pool(count)
    world.degrade(LinkFault(loss=loss))
    world.run(60.0)
    assert world.history.of("evicted") == [], world.history.tail()
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None


@pytest.mark.parametrize("pause", [0.15, 0.3, 0.38])
def test_a_short_freeze_evicts_nobody(pause: float) -> None:
    world = pool(16)
    world.freeze("n3")
    world.run(pause)
    world.resume("n3")
    world.run(3.0)
    assert world.history.of("evicted") == [], world.history.tail()


def test_a_long_freeze_evicts_one_member_which_is_back_at_once() -> None:
    world = pool(16)
    world.freeze("n3")
    world.run(5.0)
    assert everyone_holds(world, "n3", Liveness.DEAD)
    world.resume("n3")
    assert world.run_until(world.one_view, within=0.3) is not None, world.history.tail()
    assert {c.member for c in world.history.of("evicted")} == {"n3"}, "the frozen member evicted nobody when it woke"


@pytest.mark.parametrize("joining", [0.05, 0.1, 0.15, 2.0])
def test_a_pause_is_noticed_once(joining: float) -> None:
    """If it were noticed for each datagram in the socket, each would drop the answers to those before it."""
    world = World(seed=1)
    world.start(16)
    world.run(joining)
    world.freeze("n3", "n4")
    world.run(1.0)
    world.resume("n3", "n4")
    world.run(1.0)
    assert [node(world, key).counters["pauses"] for key in ("n3", "n4")] == [1, 1]


def test_members_starved_of_cpu_evict_nobody() -> None:
    world = pool(16)
    world.slow(0.15, "n1", "n2", "n3", "n4")
    world.run(60.0)
    assert world.history.of("evicted") == [], world.history.tail()


def test_indirect_probes_get_around_one_broken_link() -> None:
    world = pool(8)
    world.cut_one_way({"n1"}, {"n2"})
    world.run(30.0)
    assert world.history.of("evicted") == []
    assert held(world, "n1") == {Liveness.ALIVE}


def test_a_deaf_member_evicts_nobody_and_is_not_connected() -> None:
    world = pool(8)
    world.cut_one_way(None, {"n1"})
    world.run(30.0)
    assert world.history.of("evicted") == [], world.history.tail()
    assert not node(world, "n1").is_connected
    world.heal()
    assert world.run_until(world.one_view, within=1.0) is not None
    assert node(world, "n1").is_connected


def test_a_mute_member_is_evicted_and_evicts_nobody() -> None:
    world = pool(8)
    world.cut_one_way({"n1"}, None)
    world.run(30.0)
    assert {c.member for c in world.history.of("evicted")} == {"n1"}
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None


def test_jitter_widens_the_grace_and_evicts_nobody() -> None:
    world = pool(12)
    world.degrade(LinkFault(delay=0.1, jitter=0.03))
    world.run(60.0)
    assert world.history.of("evicted") == []
    late = [c for c in world.history.of("suspected") if c.at > 20]
    assert len(late) < 40, "after a while the grace has adapted"


def test_a_member_that_reads_its_socket_late_extends_the_grace() -> None:
    world = pool(3)
    receive = node(world, "n0").receive_datagram
    node(world, "n0").receive_datagram = (  # type: ignore[method-assign]
        lambda data, source, now: receive(data, source, now, now - 0.1)
    )
    world.run(1.0)
    before = sent(world)
    world.run(10.0)
    assert (sent(world) - before) / 3 / 10.0 <= 18.5, "no miss is counted, so nobody is pinged"


@pytest.mark.parametrize("count", [16, pytest.param(64, marks=MORE_SEEDS)])
def test_an_idle_member_sends_as_much_in_a_pool_of_any_size(count: int) -> None:
    world = pool(count)
    world.run(5.0)
    before = sent(world)
    world.run(10.0)
    assert 15.0 <= (sent(world) - before) / count / 10.0 <= 18.5


def test_a_clock_that_jumps_evicts_nobody() -> None:
    world = pool(5)
    world.jump_clock(-3600.0, "n1")
    world.run(3.0)
    world.jump_clock(+86400.0, "n2")
    world.run(3.0)
    assert world.history.of("evicted") == [], world.history.tail()
    assert world.one_view()


def test_a_clock_that_falls_back_does_not_delay_a_departure() -> None:
    world = pool(3)
    world.leave("n1")
    world.run(0.02)
    world.jump_clock(-30.0, "n1")
    assert world.run_until(lambda: "n1" not in world.running(), within=0.3) is not None


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("seed", seeds(8, quick=2))
def test_a_pool_falls_into_two_phase_groups(count: int, seed: int) -> None:
    """Each group sends at the same time, half a period from the other. So refusals come soon, and wakeups are few."""
    world = pool(count, seed)
    world.run(15.0)
    period = 0.2
    phases: dict[int, list[float]] = {0: [], 1: []}
    for key in world.running():
        member = node(world, key)
        until_next = member._failure_detector._heartbeats.next_due - world.hosts[key].local_time()
        phases[member.instance[0] & 1].append((world.now + until_next) % period / period)

    def distance(one: float, other: float) -> float:
        return min((one - other) % 1, (other - one) % 1)

    for group in phases.values():
        assert all(distance(one, other) < 0.1 for one in group for other in group), phases
    assert all(distance(one, other) > 0.3 for one in phases[0] for other in phases[1]), phases
