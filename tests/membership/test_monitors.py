"""Every member has K monitors. Each member computes them from its own table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from test_merge import row

from rumormill.membership import Liveness, MemberTable, monitors_of, subjects_of


def table_of(count: int, suspects: frozenset[int] = frozenset()) -> MemberTable:
    table = MemberTable()
    for number in range(count):
        each = row(f"w{number}", number)
        table.apply(each.with_liveness(Liveness.SUSPECT) if number in suspects else each)
    return table


@given(st.integers(1, 30), st.integers(1, 4))
def test_monitors_and_subjects_are_two_sides_of_one_relation(count: int, k: int) -> None:
    table = table_of(count)
    watched_by = {member_id: monitors_of(member_id, table, k) for member_id in table.present_ids}
    for member_id in table.present_ids:
        assert len(watched_by[member_id]) == min(k, count - 1)
        assert member_id not in watched_by[member_id]
        assert sorted(subjects_of(member_id, table, k)) == sorted(
            h for h in table.present_ids if member_id in watched_by[h]
        )


ESTABLISHED = st.tuples(st.sampled_from(["", "", "a", "b", "c"]), st.booleans())
"""The host of a member whose votes count, and whether it also monitors members further back."""


@given(st.lists(ESTABLISHED, min_size=1, max_size=30), st.integers(1, 4))
def test_where_votes_of_newcomers_do_not_count_established_members_of_two_hosts_monitor_as_well(
    established: list[tuple[str, bool]], k: int
) -> None:
    table = table_of(len(established))
    by_id = dict(zip(table.present_ids, established, strict=True))

    def host_of(member_id: bytes, near: bool) -> str:
        host, monitors_more = by_id[member_id]
        return host if near or monitors_more else ""

    watched_by = {member_id: monitors_of(member_id, table, k, host_of) for member_id in table.present_ids}
    for place, member_id in enumerate(table.present_ids):
        monitors = watched_by[member_id]
        assert monitors[:k] == monitors_of(member_id, table, k)
        assert len(monitors) <= k + 2
        others = table.present_ids[place + 1 :] + table.present_ids[:place]
        there = {host_of(other, number < k) for number, other in enumerate(others)} - {""}
        chosen = {host_of(other, number < k) for number, other in enumerate(monitors)} - {""}
        assert len(chosen) >= min(2, len(there))
        nearest_first = [other for other in reversed(others) if member_id in watched_by[other]]
        assert subjects_of(member_id, table, k, host_of) == nearest_first[: 8 * k]


@given(st.integers(2, 30), st.data())
def test_suspects_keep_their_monitors_and_do_not_monitor(count: int, data: st.DataObject) -> None:
    suspects = data.draw(st.frozensets(st.integers(0, count - 1), max_size=count - 1))
    table = table_of(count, suspects)
    for member_id in table.present_ids:
        monitors = monitors_of(member_id, table, 3)
        unsuspected = [h for h in table.present_ids if h != member_id and h not in table.suspects]
        assert len(monitors) == min(3, count - 1)
        assert len([h for h in monitors if h not in table.suspects]) == min(3, len(unsuspected))
        assert len(subjects_of(member_id, table, 3)) <= 24
