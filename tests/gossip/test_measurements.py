"""A node measures its own gossip: the figures agree with what the world saw, and with one another."""

from __future__ import annotations

from collections import Counter

import pytest
from pools import everyone_holds, node, pool, sent

from rumormill.membership import Liveness
from rumormill.membership.measurements import DATAGRAM_KINDS, HEARTBEAT_GAP_SECONDS, Histogram
from rumormill.simulations import LinkFault, World


def test_a_histogram_puts_a_value_on_a_bound_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 1, 1], 5.5)


def test_every_datagram_sent_is_counted_once_with_its_bytes() -> None:
    world = pool(8)
    world.crash("n1")
    world.run(5.0)
    for key in world.running():
        measured, (host,) = node(world, key).measurements.sent, world.hosts_named(key)
        assert sum(measured.datagrams) == host.sent
        assert sum(measured.bytes) == host.sent_bytes


def test_at_rest_nearly_all_datagrams_are_heartbeats_a_period_apart() -> None:
    world = pool(8)
    before = {key: list(node(world, key).measurements.sent.datagrams) for key in world.running()}
    world.run(20.0)
    heartbeat = DATAGRAM_KINDS.index("heartbeat")
    for key, counts in before.items():
        measured = node(world, key).measurements
        rise = [now - then for now, then in zip(measured.sent.datagrams, counts, strict=True)]
        assert rise[heartbeat] > 0.7 * sum(rise)
        gaps = measured.heartbeat_gap
        usual = range(HEARTBEAT_GAP_SECONDS.index(0.15), HEARTBEAT_GAP_SECONDS.index(0.25) + 1)
        assert sum(gaps.counts[bucket] for bucket in usual) > 0.9 * sum(gaps.counts)
        assert gaps.total / sum(gaps.counts) == pytest.approx(0.2, rel=0.1)
        assert sum(measured.round_trip.counts) > 0
    assert sent(world) > 0


@pytest.mark.parametrize(("refusals", "cause"), [(False, "evictions_missed"), (True, "evictions_refused")])
def test_a_death_shows_as_misses_votes_and_one_eviction_with_its_cause(*, refusals: bool, cause: str) -> None:
    world = pool(5)
    world.refuse(refusals)
    world.crash("n1")
    assert world.run_until(lambda: everyone_holds(world, "n1", Liveness.DEAD), within=2.0) is not None
    total: Counter[str] = Counter()
    for key in world.running():
        counters = node(world, key).counters
        assert counters[cause] == counters["event_evicted"] == 1
        assert counters["votes_cast"] + counters["votes_received"] >= 2
        total.update(counters)
    assert total["misses"] >= 3 * total["votes_cast"] / 2
    assert total["votes_cast"] >= 2


def test_tables_that_differ_show_as_seconds_of_disagreement() -> None:
    world = World(seed=3)
    world.start(6)
    assert world.run_until(world.one_view, within=3.0) is not None
    world.run(5.0)
    calm = {key: node(world, key).measurements.digest_disagreement for key in world.running()}
    world.run(10.0)
    assert {key: node(world, key).measurements.digest_disagreement for key in world.running()} == calm
    world.degrade(LinkFault(loss=0.6))
    world.start(6)
    world.run(3.0)
    world.heal()
    assert world.run_until(world.one_view, within=10.0) is not None
    assert sum(node(world, key).measurements.digest_disagreement for key in calm) > sum(calm.values())
