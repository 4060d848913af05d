"""A ring built in steps equals one built at once, and no step is long."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from rumormill.ring.hash_ring import HashRing
from rumormill.ring.incremental import SORT_BATCH, run_to_completion, sort_points

LIMIT = 2.0**48
packed = st.integers(0, 2**48 - 1).map(float)


@given(st.lists(st.lists(packed)), st.integers(0, 40 * SORT_BATCH))
def test_whatever_the_drawers_the_points_are_in_order_and_each_has_its_slot(members, total):
    points, slots = run_to_completion(sort_points(members, total, LIMIT))
    assert list(points) == sorted(point for member in members for point in member)
    assert list(slots) == [int(point) % 2**16 for point in points]


def test_no_piece_makes_much_of_a_large_ring():
    weights = {f"w{n}": 1 + n % 3 for n in range(200)}
    pieces = HashRing.build_incrementally(weights)
    count = sum(1 for _ in pieces)
    assert count >= 2 * 200 * 2 * 400 // SORT_BATCH - 2, "about so many points are put away, and sorted, at a time"


def test_a_ring_made_in_pieces_is_equal_to_the_one_made_at_once():
    weights = {f"w{n}": 0.5 + n % 4 for n in range(100)}
    at_once, in_pieces = HashRing(weights), run_to_completion(HashRing.build_incrementally(weights))
    assert list(at_once.points()) == list(in_pieces.points())
    assert array("d", at_once.shares().values()) == array("d", in_pieces.shares().values())
    fewer = {name: weight for name, weight in weights.items() if name != "w7"}
    edited = run_to_completion(in_pieces.with_weights_incrementally(fewer))
    assert list(edited.points()) == list(HashRing(fewer).points())
