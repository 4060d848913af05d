"""A snapshot holds a Node's state and nothing that could run: hostile data is refused with a reason."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_pools import record_of, recorded_pool

from rumormill.gossip.security.rate_limits import TokenBucket
from rumormill.membership.record import Liveness
from rumormill.recording.snapshot import Outside, SnapshotWriter, UnreadableSnapshot, restore_untrusted

NOTHING_OUTSIDE = Outside()

keys = st.one_of(st.integers(), st.text(max_size=8), st.binary(max_size=8), st.sampled_from(list(Liveness)))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.integers(), keys, st.binary(max_size=40)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.lists(inner, max_size=4).map(lambda parts: deque(parts, maxlen=9)),
        st.frozensets(keys, max_size=4),
    ),
    max_leaves=30,
)


def through(value: Any) -> Any:
    return restore_untrusted(as_read(SnapshotWriter(NOTHING_OUTSIDE).write(value)), NOTHING_OUTSIDE)


def as_read(data: Any) -> Any:
    """As msgpack gives it back: lists instead of tuples."""
    return [as_read(part) for part in data] if isinstance(data, (list, tuple)) else data


@settings(max_examples=50)
@given(values)
def test_plain_data_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    restored = through(value)
    assert restored == value
    assert type(restored) is type(value)


def test_shared_objects_stay_shared_and_circles_close() -> None:
    shared: list[Any] = [1]
    circle: dict[str, Any] = {"a": shared, "b": shared}
    circle["me"] = circle
    restored = through(circle)
    assert restored["a"] is restored["b"]
    assert restored["me"] is restored


def test_objects_of_the_protocol_come_back_with_their_attributes() -> None:
    bucket = TokenBucket(100, 2000)
    restored = through([bucket, Counter(a=2)])
    assert type(restored[0]) is TokenBucket
    assert restored[1] == Counter(a=2)


def test_what_a_record_cannot_keep_is_said_by_name() -> None:
    with pytest.raises(TypeError, match=r"a record cannot keep .*_io\.StringIO"):
        SnapshotWriter(NOTHING_OUTSIDE).write([__import__("io").StringIO()])


@pytest.mark.parametrize(
    "data",
    [
        None,
        [[], [], [0]],
        [[["os:system", []]], [["o", 0, []]], [0]],
        [[["subprocess:Popen", ["args"]]], [["o", 0, ["true"]]], [0]],
        [[["rumormill.gossip.state:os", []]], [["o", 0, []]], [0]],
        [[["rumormill.gossip.udp.transport:GossipTransport", ["__class__"]]], [["o", 0, [1]]], [0]],
        [[["rumormill.gossip.state:NodeState", []]], [["m", [1], "__reduce__"], ["o", 0, []]], [0]],
        [[["rumormill.cli.main:main", []]], [["o", 0, []]], [0]],
        [[], [["m", "text", "format"]], [0]],
        [[], [["x", "anything", None]], [0]],
        [[], [["e", 0, "ALIVE"]], [0]],
        [[], [["r", [0]]], [0]],
        [[], [["nonsense"]], [0]],
    ],
)
def test_hostile_data_is_refused(data: Any) -> None:
    with pytest.raises(UnreadableSnapshot):
        restore_untrusted(data, NOTHING_OUTSIDE)


@settings(max_examples=50)
@given(st.data())
def test_a_damaged_snapshot_of_a_real_node_is_refused_or_restores(data: st.DataObject) -> None:
    schemas, entries, place = REAL
    damaged = list(entries)
    damaged[data.draw(st.integers(0, len(entries) - 1))] = data.draw(
        st.one_of(st.none(), st.lists(st.one_of(st.integers(), st.text(max_size=3), st.binary(max_size=3)), max_size=3))
    )
    with contextlib.suppress(UnreadableSnapshot):
        restore_untrusted([schemas, damaged, place], Outside(provide=dict.fromkeys(PROVIDED, lambda _: None)))


PROVIDED = ("node", "policy_schema", "seal", "tokens", "member_keys", "ring", "nothing", "raw")
REAL = record_of(recorded_pool(3, seed=1), "n1").segments[0].state
