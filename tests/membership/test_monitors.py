"""Everyone is watched by K others, and each member computes from its own table who they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from test_merge import row

from rumormill.membership import Liveness, MemberTable, monitors_of, subjects_of


def table_of(count: int, suspects: frozenset[int] = frozenset()) -> MemberTable:
    table = MemberTable()
    for number in range(count):
        each = row(f"w{number}", number)
        table.apply(each.held(Liveness.SUSPECT) if number in suspects else each)
    return table


@given(st.integers(1, 30), st.integers(1, 4))
def test_monitors_and_subjects_are_two_sides_of_one_relation(count: int, k: int) -> None:
    table = table_of(count)
    watched_by = {half: monitors_of(half, table, k) for half in table.order}
    for half in table.order:
        assert len(watched_by[half]) == min(k, count - 1)
        assert half not in watched_by[half]
        assert sorted(subjects_of(half, table, k)) == sorted(h for h in table.order if half in watched_by[h])


@given(st.integers(2, 30), st.data())
def test_suspects_keep_their_monitors_and_do_not_monitor(count: int, data: st.DataObject) -> None:
    suspects = data.draw(st.frozensets(st.integers(0, count - 1), max_size=count - 1))
    table = table_of(count, suspects)
    for half in table.order:
        monitors = monitors_of(half, table, 3)
        unsuspected = [h for h in table.order if h != half and h not in table.suspects]
        assert len(monitors) == min(3, count - 1)
        assert len([h for h in monitors if h not in table.suspects]) == min(3, len(unsuspected))
        assert len(subjects_of(half, table, 3)) <= 12
