"""What is remembered of the datagrams we sent: who quotes one must have seen it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rumormill.gossip.security.sent_datagrams import MARK_BYTES, MAX_SENT_REMEMBERED, SentDatagrams

TARGETS = [("10.0.0.1", 7946), ("10.0.0.2", 7946)]
ends = st.sampled_from([bytes(MARK_BYTES), b"\0" * 4 + b"\1" * 4, b"\1" * MARK_BYTES, b"\1" * 4 + b"\0" * 4])
sent = st.tuples(ends, st.sampled_from(TARGETS))


@given(st.lists(st.one_of(st.tuples(st.just("note"), sent), st.tuples(st.just("take"), sent)), max_size=40))
def test_each_datagram_is_told_once_by_its_end_and_its_target(
    steps: list[tuple[str, tuple[bytes, tuple[str, int]]]],
) -> None:
    """Ends that overlap when they lie one behind the other, and ends alike (plaintext has them), change nothing."""
    marks, known = SentDatagrams(), []
    for number, (what, (end, target)) in enumerate(steps):
        member_id = number.to_bytes(8, "big")
        if what == "note":
            marks.note(b"payload" + end, target, member_id)
            known.append((end, target, member_id))
        else:
            fitting = [entry for entry in known if entry[:2] == (end, target)]
            assert marks.take(end, target) == (fitting[0][2] if fitting else None)
            known = [entry for entry in known if entry not in fitting[:1]]


def test_as_many_are_remembered_as_promised_and_no_more_than_twice_that() -> None:
    marks = SentDatagrams()
    count = 3 * MAX_SENT_REMEMBERED
    for number in range(count):
        marks.note(number.to_bytes(MARK_BYTES, "big"), TARGETS[0], bytes(8))
    held = [marks.take(number.to_bytes(MARK_BYTES, "big"), TARGETS[0]) is not None for number in range(count)]
    assert all(held[-MAX_SENT_REMEMBERED:])
    assert sum(held) <= 2 * MAX_SENT_REMEMBERED
