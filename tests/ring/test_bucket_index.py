"""The index names the same owners as the points, filled or not. The ring builds it once it is asked often."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumormill.ring import EmptyRing, HashRing
from rumormill.ring.bucket_index import FIRST_SLOT, SPLIT, empty_index, fill
from rumormill.ring.hash_ring import key_position

KEYS = [f"user-{i}" for i in range(30_000)]


def by_the_points(ring: HashRing, keys: list[str]) -> list[str]:
    """Owners by the definition alone."""
    points = list(ring.points())
    positions = [position for position, _ in points]
    return [points[bisect_left(positions, key_position(key)) % len(points)][1] for key in keys]


@pytest.mark.parametrize("size", [1, 2, 30, 300])
@pytest.mark.parametrize("points", [1, 7, 100])
def test_owners_by_index_are_those_of_the_points(size: int, points: int) -> None:
    ring = HashRing({f"w{i}": 1.0 for i in range(size)}, points=points)
    expected = by_the_points(ring, KEYS)
    assert [ring.owners(key, 1)[0] for key in KEYS[:5000]] == expected[:5000]
    assert ring.owners_many(KEYS[:3]) == expected[:3]
    ring.build_index()
    for _ in range(2):
        assert ring.owners_many(KEYS) == expected
        assert [ring.owner(key) for key in KEYS] == expected
        assert ring.owners_many(iter(KEYS)) == expected
    larger = ring.with_member("another", 0.5)
    assert larger.owners_many(KEYS) == by_the_points(larger, KEYS)


def test_a_ring_asked_often_has_an_index_and_gives_the_same_before_and_after() -> None:
    ring = HashRing({f"w{i}": 1.0 for i in range(5)}, points=64)
    expected = by_the_points(ring, KEYS)
    asked_one_by_one = [ring.owner(key) for key in KEYS[:500]]
    assert asked_one_by_one == expected[:500]
    assert ring._index is not None
    fresh = HashRing(ring.weights, points=64)
    assert fresh._index is None
    assert fresh.owners_many(KEYS[:10]) == expected[:10]
    assert fresh._index is None
    assert fresh.owners_many(KEYS) == expected
    assert fresh._index is not None


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40, unique=True),
    st.lists(st.integers(-2, 2), min_size=1, max_size=80),
    st.integers(1, 3),
)
def test_positions_at_and_beside_points_and_the_ends_of_buckets(positions, offsets, members) -> None:
    ring = HashRing({f"w{i}": 1.0 for i in range(members)}, points=len(positions))
    points = [position for position, _ in ring.points()]
    index, shift = empty_index(len(points), members)
    edges = [*points, *(position >> shift << shift for position in positions), 0, 2**32 - 1]
    for at, offset in zip(edges * len(offsets), offsets, strict=False):
        position = min(max(at + offset, 0), 2**32 - 1)
        owner = ring._point_slots[bisect_left(points, position)]
        if not index[position >> shift]:
            fill(index, shift, ring._points, owner, position)
        has_point = any(point >> shift == position >> shift for point in points)
        assert index[position >> shift] == (SPLIT if has_point else owner)
    for bucket, slot in enumerate(index[:: max(len(index) // 500, 1)]):
        here = bucket * max(len(index) // 500, 1) << shift
        assert slot in (0, SPLIT) or slot == ring._point_slots[bisect_left(points, here)] >= FIRST_SLOT


def test_an_empty_ring_has_nothing_to_look_up() -> None:
    ring = HashRing({"a": 1.0}).without_member("a")
    ring.build_index()
    with pytest.raises(EmptyRing):
        ring.owner("k")
