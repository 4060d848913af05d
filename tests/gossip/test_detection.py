"""Three misses, a failed second path and no lone accuser: the dead are out in half a second, the living never."""

from __future__ import annotations

import pytest
from pools import everyone_holds, held, node, pool, sent

from rumormill.membership import Liveness
from rumormill.simulations import LinkFault, World


@pytest.mark.parametrize("count", [2, 3, 5, 16, 64])
@pytest.mark.parametrize("seed", range(3))
def test_a_crash_is_known_everywhere_within_the_bound(count: int, seed: int) -> None:
    world = pool(count, seed)
    world.crash("n1")
    seconds = world.run_until(lambda: everyone_holds(world, "n1", Liveness.DEAD), within=2.0)
    assert seconds is not None, world.history.tail()
    assert 0.4 <= seconds <= 0.8
    assert {c.member for c in world.history if c.kind in ("suspected", "evicted")} == {"n1"}
    world.run(5.0)
    assert everyone_holds(world, "n1", Liveness.DEAD)


def test_how_slow_a_pool_was_to_answer_while_it_started_delays_no_death_after_it() -> None:
    """Its round trips were longer than a period: misses would be further apart, for as long as that is believed."""
    took = []
    for seed in range(3):
        world = World(seed=seed)
        world.degrade(LinkFault(delay=0.16))
        world.start(32)
        assert world.run_until(world.one_view, within=12.0) is not None
        world.run(3.0)
        world.heal()
        world.run(5.0 + 0.1 * seed)
        world.crash("n1")
        took.append(world.run_until(lambda w=world: everyone_holds(w, "n1", Liveness.DEAD), within=2.0))  # type: ignore[misc]
    assert all(each is not None and each <= 0.7 for each in took), took


def test_the_reason_names_those_who_saw_it() -> None:
    world = pool(5)
    world.crash("n1")
    world.run(1.0)
    evictions = world.history.of("evicted", "n1")
    assert len(evictions) == 4
    assert all(e.text.startswith("n1 evicted: 3 misses seen by n") for e in evictions)


def test_a_rack_goes_at_once() -> None:
    world = pool(40)
    rack = ["n3", "n13", "n23", "n33"]
    world.crash(*rack)
    assert world.run_until(lambda: all(everyone_holds(world, n, Liveness.DEAD) for n in rack), within=1.5) is not None
    assert {c.member for c in world.history.of("evicted")} == set(rack)


def test_a_node_that_dies_with_all_its_monitors_is_found_by_the_slow_probe() -> None:
    world = pool(16)
    lost = ["n1", *node(world, "n0").details(0.0)[node(world, "n1").instance].monitors]
    assert len(lost) == 4
    world.crash(*lost)
    assert world.run_until(lambda: all(everyone_holds(world, n, Liveness.DEAD) for n in lost), within=4.0) is not None


@pytest.mark.parametrize(("loss", "count"), [(0.1, 3), (0.1, 16), (0.3, 16)])
def test_loss_evicts_nobody(loss: float, count: int) -> None:
    world = pool(count)
    world.degrade(LinkFault(loss=loss))
    world.run(60.0)
    assert world.history.of("evicted") == [], world.history.tail()
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None


@pytest.mark.parametrize("pause", [0.15, 0.3, 0.38])
def test_a_short_freeze_is_no_death(pause: float) -> None:
    world = pool(16)
    world.freeze("n3")
    world.run(pause)
    world.thaw("n3")
    world.run(3.0)
    assert world.history.of("evicted") == [], world.history.tail()


def test_a_long_freeze_is_an_eviction_of_one_and_it_is_back_at_once() -> None:
    world = pool(16)
    world.freeze("n3")
    world.run(5.0)
    assert everyone_holds(world, "n3", Liveness.DEAD)
    world.thaw("n3")
    assert world.run_until(world.one_view, within=0.3) is not None, world.history.tail()
    assert {c.member for c in world.history.of("evicted")} == {"n3"}, "the sleeper condemned nobody on waking"


@pytest.mark.parametrize("joining", [0.05, 0.1, 0.15, 2.0])
def test_a_pause_is_noticed_once(joining: float) -> None:
    """Every datagram found in the socket would otherwise drop the answers to those before it."""
    world = World(seed=1)
    world.start(16)
    world.run(joining)
    world.freeze("n3", "n4")
    world.run(1.0)
    world.thaw("n3", "n4")
    world.run(1.0)
    assert [node(world, key).counters["pauses"] for key in ("n3", "n4")] == [1, 1]


def test_starved_members_condemn_nobody() -> None:
    world = pool(16)
    world.slow(0.15, "n1", "n2", "n3", "n4")
    world.run(60.0)
    assert world.history.of("evicted") == [], world.history.tail()


def test_one_broken_link_is_settled_by_asking_others() -> None:
    world = pool(8)
    world.cut_one_way({"n1"}, {"n2"})
    world.run(30.0)
    assert world.history.of("evicted") == []
    assert held(world, "n1") == {Liveness.ALIVE}


def test_a_deaf_member_judges_nobody_and_says_so() -> None:
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


def test_a_member_that_reads_late_gives_the_others_as_long() -> None:
    world = pool(3)
    receive = node(world, "n0").receive_datagram
    node(world, "n0").receive_datagram = (  # type: ignore[method-assign]
        lambda data, source, now: receive(data, source, now, now - 0.1)
    )
    world.run(1.0)
    before = sent(world)
    world.run(10.0)
    assert (sent(world) - before) / 3 / 10.0 <= 18.5, "nobody is missed, so nobody is pinged"


@pytest.mark.parametrize("count", [16, 64])
def test_a_quiet_pool_costs_the_same_at_any_size(count: int) -> None:
    world = pool(count)
    world.run(5.0)
    before = sent(world)
    world.run(10.0)
    assert 15.0 <= (sent(world) - before) / count / 10.0 <= 18.5


def test_a_clock_that_falls_back_or_leaps_costs_nobody_its_place() -> None:
    world = pool(5)
    world.jump_clock(-3600.0, "n1")
    world.run(3.0)
    world.jump_clock(+86400.0, "n2")
    world.run(3.0)
    assert world.history.of("evicted") == [], world.history.tail()
    assert world.one_view()


def test_a_clock_that_falls_back_does_not_hold_up_a_goodbye() -> None:
    world = pool(3)
    world.leave("n1")
    world.run(0.02)
    world.jump_clock(-30.0, "n1")
    assert world.run_until(lambda: "n1" not in world.running(), within=0.3) is not None


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_a_pool_beats_in_two_halves(count: int, seed: int) -> None:
    """Each half at once, and half a period from the other: so refusals come soon, and wakings are few."""
    world = pool(count, seed)
    world.run(15.0)
    period = 0.2
    beats: dict[int, list[float]] = {0: [], 1: []}
    for key in world.running():
        member = node(world, key)
        until_next = member._failure_detector._heartbeats.next_due - world.hosts[key].local_time()
        beats[member.instance[0] & 1].append((world.now + until_next) % period / period)

    def apart(one: float, other: float) -> float:
        return min((one - other) % 1, (other - one) % 1)

    for member_id in beats.values():
        assert all(apart(one, other) < 0.1 for one in member_id for other in member_id), beats
    assert all(apart(one, other) > 0.3 for one in beats[0] for other in beats[1]), beats
