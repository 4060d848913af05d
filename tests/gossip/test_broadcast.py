"""To whom updates are broadcast: all members hear, in few steps, and none more often than others."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from pools import node, pool

from rumormill.gossip.dissemination.broadcast import broadcast_positions
from rumormill.gossip.dissemination.piggyback import MAX_PIGGYBACKED

SIZES = st.integers(2, 300)
COUNTS = st.integers(2, 9)


@given(SIZES, COUNTS)
def test_everybody_is_told_equally_often(size: int, count: int) -> None:
    told = Counter(place for teller in range(size) for place in broadcast_positions(teller, size, count))
    assert told == dict.fromkeys(range(size), count)


@given(SIZES, COUNTS, st.data())
def test_from_anywhere_all_are_reached_in_logarithmically_many_steps(
    size: int, count: int, data: st.DataObject
) -> None:
    reached = {data.draw(st.integers(0, size - 1))}
    for _ in range(math.ceil(math.log(size) / math.log(count) - 1e-9)):
        reached |= {place for teller in reached for place in broadcast_positions(teller, size, count)}
    assert reached == set(range(size))


def test_where_all_hold_the_same_everybody_is_told_by_as_many_as_it_tells() -> None:
    """Except members that would broadcast to themselves. They broadcast to a random member instead."""
    world = pool(40, seed=1)
    told = Counter(row.name for key in world.hosts for row in node(world, key)._parts.broadcast.broadcast_targets(5))
    assert sum(told.values()) == 40 * 5
    assert min(told.values()) >= 4


def test_nobody_passes_news_on_to_itself_to_a_suspect_or_twice_to_the_same() -> None:
    world = pool(12, seed=2)
    world.crash("n3", "n7")
    world.run(0.52)
    for key in world.running():
        spread, suspects = node(world, key)._parts.broadcast, node(world, key).table.suspects
        names = [row.name for row in spread.broadcast_targets(6)]
        assert len(set(names)) == 6
        assert key not in names
        assert not suspects.keys() & {row.member_id for row in spread.broadcast_targets(6)}


def test_in_the_smallest_pools_everybody_is_told() -> None:
    for size in (1, 2, 3, 5):
        world = pool(size, seed=3)
        for key in world.hosts:
            spread = node(world, key)._parts.broadcast
            assert {row.name for row in spread.broadcast_targets(spread.wide_fanout())} == set(world.hosts) - {key}


def test_the_piggyback_queue_sends_the_least_sent_and_newest_first() -> None:
    spread = node(pool(40, seed=4), "n0")._parts.broadcast
    order = spread._state.table.present_ids
    queue = spread.piggyback
    queue.add(order)
    assert list(queue._sent) == order[-MAX_PIGGYBACKED:]
    first = queue.take(room=2000)
    assert spread.encoder.update(order[-1]) == first[0]
