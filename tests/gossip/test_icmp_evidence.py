"""ICMP evidence: a dead process is evicted within 0.1 s if its kernel refuses. Forged refusals evict nobody."""

from __future__ import annotations

import pytest
from pools import everyone_holds, held, node, pool
from seeds import MORE_SEEDS, seeds

from rumormill.gossip import ProtocolSettings
from rumormill.membership import Liveness
from rumormill.simulations import LinkFault, RumormillFactory, World
from rumormill.simulations.invariant_checker import InvariantChecker
from rumormill.simulations.network import WAN


def checked_pool(count: int, seed: int = 1, **options: object) -> World:
    world = World(seed=seed, **options)  # type: ignore[arg-type]  # latency or factory, as World has them
    InvariantChecker(world)
    world.refuse()
    world.start(count)
    assert world.run_until(world.one_view, within=5.0) is not None, world.history.tail()
    world.run(2.0 + 0.037 * seed)
    return world


def accused(world: World) -> set[str]:
    return {c.member for c in world.history if c.kind in ("suspected", "evicted")}


@pytest.mark.parametrize("count", [2, 3, *(pytest.param(count, marks=MORE_SEEDS) for count in (16, 64))])
def test_a_crash_is_detected_everywhere_once_the_next_heartbeat_is_refused(count: int) -> None:
    took = []
    for seed in range(9):
        world = checked_pool(count, seed)
        world.crash("n1")
        seconds = world.run_until(lambda w=world: everyone_holds(w, "n1", Liveness.DEAD), within=1.0)  # type: ignore[misc]
        assert seconds is not None, world.history.tail()
        assert accused(world) == {"n1"}
        took.append(seconds)
    assert max(took) <= 0.3
    assert sorted(took)[4] <= 0.12


def test_detection_on_a_wan_takes_a_round_trip_for_each_ping() -> None:
    world = checked_pool(8, latency=WAN)
    world.crash("n1")
    seconds = world.run_until(lambda: everyone_holds(world, "n1", Liveness.DEAD), within=2.0)
    assert seconds is not None
    assert 0.4 < seconds < 0.95
    assert accused(world) == {"n1"}


def test_long_round_trips_during_startup_do_not_delay_a_check() -> None:
    """The first round trips of a newcomer are slow because its process is starting. A refusal shows the true one."""
    took = []
    for seed in range(9):
        world = checked_pool(3, seed)
        world.restart("n2")
        world.slow(0.15, "n2")
        assert world.run_until(world.one_view, within=5.0) is not None
        world.run(0.1 * seed)
        world.slow(0.0, "n2")
        world.run(0.5)
        world.crash("n1")
        took.append(world.run_until(lambda w=world: everyone_holds(w, "n1", Liveness.DEAD), within=1.0))  # type: ignore[misc]
    assert all(each is not None and each <= 0.3 for each in took), took


def test_icmp_evidence_can_be_turned_off() -> None:
    factory = RumormillFactory(settings=ProtocolSettings(icmp_evidence=False))
    world = checked_pool(8, factory=factory)
    world.crash("n1")
    seconds = world.run_until(lambda: everyone_holds(world, "n1", Liveness.DEAD), within=2.0)
    assert seconds is not None
    assert seconds > 0.4


def test_where_refusals_are_lost_missed_heartbeats_detect_the_crash() -> None:
    world = checked_pool(8)
    world.cut_one_way({"n1"}, None)  # nothing comes back from the host
    world.crash("n1")
    seconds = world.run_until(lambda: everyone_holds(world, "n1", Liveness.DEAD), within=1.0)
    assert seconds is not None
    assert seconds > 0.4


@pytest.mark.parametrize("seed", seeds(5))
def test_forged_refusals_evict_nobody_and_cost_little(seed: int) -> None:
    world = checked_pool(8, seed)
    world.degrade(LinkFault(forged=True))
    before = {key: node(world, key).counters["sent"] for key in world.running()}
    world.run(20.0)
    assert accused(world) == set(), world.history.tail()
    for key, count in before.items():
        assert node(world, key).counters["refusals"] > 100
        assert (node(world, key).counters["sent"] - count) / 20.0 < 60.0


@MORE_SEEDS
def test_forged_refusals_and_loss_evict_nobody() -> None:
    world = checked_pool(12)
    world.degrade(LinkFault(forged=True, loss=0.2))
    world.run(60.0)
    assert world.history.of("evicted") == [], world.history.tail()


@pytest.mark.parametrize("away", [0.0, 0.02, 0.08, 0.15, 0.3, 0.5])
@pytest.mark.parametrize("seed", seeds(3))
def test_a_restart_in_place_evicts_no_other_and_not_the_new_instance(away: float, seed: int) -> None:
    world = checked_pool(8, seed)
    former = node(world, "n3").instance
    world.crash("n3")
    world.run(away)
    world.restart("n3")
    reborn = node(world, "n3").instance
    assert world.run_until(world.one_view, within=1.0) is not None, world.history.tail()
    world.run(5.0)
    assert {c.member for c in world.history.of("evicted")} <= {"n3"}
    for key in world.running():
        (row,) = [m for m in node(world, key).view.members if m.name == "n3"]
        assert (row.instance, row.liveness) == (reborn, Liveness.ALIVE)
    assert reborn != former
    last = max((c.at for c in world.history.of("evicted")), default=0.0)
    assert last < world.now - 4.5, "claims about the former instance ended at once"


def test_a_refusal_for_a_former_instance_says_nothing_about_the_present_one() -> None:
    world = checked_pool(5)
    recorded: list[bytes] = []
    n0, target = world.hosts["n0"], world.hosts["n3"].address
    world.network.on_send = lambda host, to, data: recorded.append(data) if (host, to) == (n0, target) else None
    world.run(3.0)
    world.network.on_send = None
    world.restart("n3")
    world.run(2.0)
    begun = len(world.history)
    unmatched = node(world, "n0").counters["refusals_unmatched"]
    for data in recorded:
        n0.arrive_forged_refusal(data, target)
    world.run(1.0)
    assert len(recorded) > 3
    assert node(world, "n0").counters["refusals_unmatched"] - unmatched == len(recorded)
    assert list(world.history)[begun:] == []


def test_a_firewall_that_refuses_in_a_hosts_name_is_believed_once() -> None:
    """The firewall of n2 refuses n0 and n1, which still hear n2."""
    world = checked_pool(3)
    address = world.hosts["n2"].address

    def reject(host: object, to: object, data: bytes) -> None:
        if to == address:
            world.scheduler.push(world.scheduler.now + 300, host.arrive_refusal, data, address)  # type: ignore[attr-defined]

    world.cut_one_way({"n0", "n1"}, {"n2"})
    world.network.on_send = reject  # type: ignore[assignment]
    world.run(30.0)
    assert len(world.history.of("evicted")) <= 4, world.history.tail()
    assert all(node(world, key).counters["refusals_false"] <= 2 for key in ("n0", "n1"))


def test_a_refusal_that_quotes_no_datagram_of_ours_is_counted_and_dropped() -> None:
    world = checked_pool(3)
    n0 = node(world, "n0")
    now = world.hosts["n0"].local_time()
    sent = n0.counters["sent"]
    for junk in (b"", b"x", bytes(34), bytes(1400)):
        n0.receive_refusal(junk, world.hosts["n1"].address, now)
    n0.receive_refusal(b"", ("192.0.2.1", 1), now)
    n0.datagrams_to_send()
    assert n0.counters["refusals_unmatched"] == 5
    assert n0.counters["sent"] == sent


def test_the_kernel_of_a_frozen_process_does_not_refuse() -> None:
    """A stopped process keeps its socket, so there is no hard evidence against it. 0.38 s of silence evict nobody."""
    world = pool(8)
    world.refuse()
    world.freeze("n3")
    world.run(0.38)
    world.resume("n3")
    world.run(2.0)
    assert world.history.of("evicted") == []
    assert held(world, "n3") == {Liveness.ALIVE}


@pytest.mark.parametrize("seed", seeds(4))
def test_only_monitors_and_subjects_of_the_dead_suspect_it_before_its_death_is_broadcast(seed: int) -> None:
    """If all 64 processes heard of the suspicion, all would ping the kernel, which takes 0.05 s longer on two cores."""
    world = pool(64, seed)
    world.refuse()
    world.crash("n7")
    assert world.run_until(lambda: everyone_holds(world, "n7", Liveness.DEAD), within=0.3) is not None
    suspecting = {conclusion.observer for conclusion in world.history.of("suspected") if conclusion.member == "n7"}
    assert len(suspecting) <= 24  # three subjects, three monitors, and three random members for each vote
