"""The world itself: time, hosts and links do to datagrams what they say, and one seed gives one trace."""

from __future__ import annotations

import itertools

import pytest
from toy import PERIOD, Toy

from rumormill.simulations import LAN, Burst, Latency, LinkFault, World
from rumormill.simulations.host import BUFFER_BYTES, BUFFER_OVERHEAD, DRAIN_LIMIT


def toys(seed: int = 1, count: int = 2, *, latency: Latency = LAN) -> World:
    world = World(seed=seed, factory=Toy, latency=latency)
    world.start(count)
    world.run(1.0)
    return world


def toy(world: World, key: str) -> Toy:
    node = world.node(key)
    assert isinstance(node, Toy)
    return node


def heard_counts(world: World, key: str) -> list[int]:
    return [int(data.split()[1]) for _, data, _ in toy(world, key).heard]


def eventful(seed: int) -> World:
    world = toys(seed, 5)
    world.degrade(LinkFault(loss=0.3, jitter=0.05, duplicate=0.2, burst=Burst(1.0, 0.2)))
    world.slow(0.05, "n3")
    world.freeze("n2")
    world.run(1.0)
    world.resume("n2")
    world.restart("n1", new_address=True)
    world.drift_clock(0.001, "n4")
    world.run(2.0)
    return world


def test_one_seed_one_trace() -> None:
    first, second, other = eventful(3), eventful(3), eventful(4)
    assert first.trace.digest() == second.trace.digest() != other.trace.digest()
    assert list(map(str, first.history)) == list(map(str, second.history))


def test_the_trace_is_the_same_on_every_machine() -> None:
    assert eventful(3).trace.digest() == "00b0e54f2a3b01515895e7208e466708"


def test_time_passes_only_by_running() -> None:
    world = toys()
    assert world.now == 1.0
    assert world.run_until(lambda: world.now >= 1.5, within=2.0) == pytest.approx(0.5)
    assert world.run_until(lambda: False, within=0.25) is None
    assert world.now == pytest.approx(1.75)


def test_every_host_has_a_clock_of_its_own() -> None:
    world = toys(count=3)
    clocks = [host.local_time() for host in world.hosts.values()]
    assert len({round(clock) for clock in clocks}) == 3


def test_steps_come_when_the_deadline_says_and_not_for_less_than_a_millisecond() -> None:
    world = toys()
    timers = toy(world, "n1").timers
    assert 5 <= len([t for t in timers if t >= 0]) <= 12
    own = [later - earlier for earlier, later in itertools.pairwise(timers)]
    assert max(own) <= PERIOD + 0.001

    class Impatient(Toy):
        def handle_timer(self, now: float) -> None:
            super().handle_timer(now)
            self.deadline = now - 1

    hasty = World(seed=1, factory=Impatient)
    hasty.start(1)
    hasty.run(0.1)
    assert 90 <= len(toy(hasty, "n0").timers) <= 101


def test_delays_follow_the_latency() -> None:
    world = toys(latency=Latency(0.01, 0.005))
    sent = {}
    arrived: dict[bytes, float] = {}
    world.network.on_send = lambda host, to, data: sent.setdefault(data, world.now)
    world.hosts["n1"].watch = lambda host: arrived.setdefault(toy(world, "n1").heard[-1][1], world.now)
    world.run(100.0)
    delays = [arrived[data] - when for data, when in sent.items() if data in arrived]
    assert len(delays) > 400
    assert min(delays) >= 0.01
    assert sum(delays) / len(delays) == pytest.approx(0.015, rel=0.1)


def test_a_cut_is_one_way_or_both_and_heals() -> None:
    world = toys()
    world.cut_one_way({"n0"}, {"n1"})
    before = len(heard_counts(world, "n0")), len(heard_counts(world, "n1"))
    world.run(2.0)
    after = len(heard_counts(world, "n0")), len(heard_counts(world, "n1"))
    assert after[0] > before[0]
    assert after[1] == before[1]
    both = world.cut({"n0"})
    world.run(0.1)
    before = len(heard_counts(world, "n0")), len(heard_counts(world, "n1"))
    world.run(2.0)
    assert (len(heard_counts(world, "n0")), len(heard_counts(world, "n1"))) == before
    world.heal(both)
    world.run(2.0)
    assert len(heard_counts(world, "n0")) > before[0]
    assert len(heard_counts(world, "n1")) == before[1]
    world.heal()
    world.run(2.0)
    assert len(heard_counts(world, "n1")) > before[1]


@pytest.mark.parametrize(
    ("trouble", "share"),
    [
        (LinkFault(loss=0.3), 0.7),
        (LinkFault(duplicate=0.5), 1.5),
        (LinkFault(burst=Burst(3.0, 1.0)), 0.75),
        (LinkFault(burst=Burst(1.0, 1.0, loss=0.5), loss=0.2), 0.6),
        (LinkFault(mtu=30), 0.0),
        (LinkFault(mtu=1500, delay=0.01), 1.0),
    ],
    ids=str,
)
def test_trouble_takes_and_gives_what_it_says(trouble: LinkFault, share: float) -> None:
    world = toys()
    world.degrade(trouble, {"n0"}, {"n1"})
    world.run(600.0)
    assert len(heard_counts(world, "n1")) / 3005 == pytest.approx(share, abs=0.07)


def test_bursts_last_as_long_as_they_say() -> None:
    world = toys()
    world.degrade(LinkFault(burst=Burst(9.0, 3.0)), {"n0"}, {"n1"})
    world.run(3000.0)
    counts = heard_counts(world, "n1")
    gaps = [(b - a) * PERIOD for a, b in itertools.pairwise(counts) if b - a > 1]
    assert sum(gaps) / len(gaps) == pytest.approx(3.0, rel=0.2)


def test_jitter_reorders() -> None:
    world = toys()
    world.degrade(LinkFault(jitter=0.5), {"n0"}, {"n1"})
    world.run(20.0)
    counts = heard_counts(world, "n1")
    assert counts != sorted(counts)


def test_a_crashed_process_is_silent_and_its_successor_on_the_address_hears() -> None:
    world = toys()
    world.crash("n1")
    world.run(1.0)
    assert "n1" not in world.running()
    with pytest.raises(LookupError):
        world.node("n1")
    world.restart("n1")
    world.run(1.0)
    assert toy(world, "n1").heard
    assert toy(world, "n1").start.address == world.hosts["n1"].address


def test_a_moved_member_hears_nothing_at_its_old_address() -> None:
    world = toys(count=3)
    old = world.hosts["n0"].address
    world.restart("n0", new_address=True)
    assert world.hosts["n0"].address != old
    world.run(0.9)
    assert toy(world, "n0").heard == []
    world.run(1.0)  # by now the others have resolved the seed's name again
    assert toy(world, "n0").heard


def test_a_frozen_host_drains_its_socket_before_it_looks_at_its_timer() -> None:
    world = toys()
    world.freeze("n1")
    heard, timers = len(toy(world, "n1").heard), len(toy(world, "n1").timers)
    world.run(5.0)
    assert (len(toy(world, "n1").heard), len(toy(world, "n1").timers)) == (heard, timers)
    assert list(world.running()) == ["n0"]
    world.resume("n1")
    world.run(0.0)
    assert len(toy(world, "n1").heard) == heard + 25
    assert len(toy(world, "n1").timers) == timers + 1


def test_a_socket_buffer_is_bounded_and_drained_a_capped_number_at_a_time() -> None:
    world = toys()
    world.freeze("n1")
    before = len(toy(world, "n1").heard)
    fits = BUFFER_BYTES // (300 + BUFFER_OVERHEAD)
    for _ in range(fits + 500):
        world.inject(b"n9 1 " + bytes(295), "n1")
    world.run(0.0)
    assert world.hosts["n1"].overflowed == 500
    world.resume("n1")
    world.run(0.0)
    assert len(toy(world, "n1").heard) - before == DRAIN_LIMIT
    world.run(0.1)
    assert fits <= len(toy(world, "n1").heard) - before <= fits + 1


def test_a_slow_host_takes_each_step_late() -> None:
    world = toys()
    world.slow(0.1, "n1")
    world.run(1.0)
    begin = len(toy(world, "n1").timers)
    world.run(10.0)
    steps = toy(world, "n1").timers[begin:]
    gaps = [later - earlier for earlier, later in itertools.pairwise(steps)]
    assert min(gaps) >= 0.05
    world.slow(0.0, "n1")
    world.run(1.0)
    begin = len(toy(world, "n1").timers)
    world.run(2.0)
    assert len(toy(world, "n1").timers) - begin >= 20


def test_clocks_jump_and_drift() -> None:
    world = toys()
    host = world.hosts["n1"]
    before = host.local_time()
    world.drift_clock(0.01, "n1")
    assert host.local_time() == pytest.approx(before, abs=1e-5)
    sent = len(heard_counts(world, "n0"))
    world.run(100.0)
    assert host.local_time() - before == pytest.approx(101.0, abs=1e-3)
    assert len(heard_counts(world, "n0")) - sent == pytest.approx(505, abs=1)
    world.jump_clock(3600.0, "n1")
    assert host.local_time() - before == pytest.approx(3701.0, abs=1e-3)


def test_a_member_that_leaves_ends_its_process() -> None:
    world = toys()
    world.leave("n1")
    world.run(0.5)
    assert list(world.running()) == ["n0"]


def test_faults_reach_hosts_started_later() -> None:
    world = toys()
    world.cut_one_way(None, {"n2"})
    world.start(1)
    world.run(2.0)
    assert toy(world, "n2").heard == []
    assert len(heard_counts(world, "n0")) > 0
