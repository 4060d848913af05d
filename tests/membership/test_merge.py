"""The merge rule is the maximum of a total order. A table depends on the claims applied, not on their order."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from rumormill.membership import (
    Liveness,
    MemberState,
    MemberTable,
    Readiness,
    Record,
    encode_record,
    member_state_of_record_untrusted,
    merge,
    precedence,
    tombstone,
)


def record(name: str, key: int, generation: int = 1, incarnation: int = 1, **fields: object) -> Record:
    plain: dict[str, object] = {
        "pending": False,
        "host": "10.0.0.1",
        "port": 7946,
        "service": "embed",
        "url": "http://10.0.0.1:9000",
        "readiness": Readiness.PASSING,
    }
    return Record(name=name, generation=generation, incarnation=incarnation, keys=bytes([key]) * 64, **(plain | fields))  # type: ignore[arg-type]


def row(name: str, key: int, **fields: object) -> MemberState:
    return member_state_of_record_untrusted(encode_record(record(name, key, **fields)))  # type: ignore[arg-type]


def rows_of(name: str, *, pending: st.SearchStrategy[bool]) -> st.SearchStrategy[MemberState]:
    """Lives of one name: a few instances, each with several records and livenesses. An instance stays in one slot."""

    def build(key: int, generation: int, incarnation: int, liveness: Liveness, wait: bool, weight: int) -> MemberState:
        account = row(
            name, key, generation=generation, incarnation=incarnation, pending=wait and key > 2, weight=weight
        )
        return account.with_liveness(liveness)

    return st.builds(
        build,
        st.integers(1, 4),
        st.integers(1, 2),
        st.integers(1, 3),
        st.sampled_from(Liveness),
        pending,
        st.sampled_from([1000, 2000]),
    )


one_name = rows_of("w1", pending=st.just(False))


@given(one_name, one_name)
def test_merge_is_commutative(a: MemberState, b: MemberState) -> None:
    assert precedence(merge(a, b)) == precedence(merge(b, a))


@given(one_name, one_name, one_name)
def test_merge_is_associative(a: MemberState, b: MemberState, c: MemberState) -> None:
    assert precedence(merge(merge(a, b), c)) == precedence(merge(a, merge(b, c)))


@given(one_name)
def test_merge_is_idempotent(a: MemberState) -> None:
    assert merge(a, a) is a
    assert merge(None, a) is a


@given(st.lists(one_name, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_table_is_the_same_in_any_order_of_claims(rows: list[MemberState], rng: random.Random) -> None:
    one, other = MemberTable(), MemberTable()
    for claim in rows:
        one.apply(claim)
    shuffled = rows * 2
    rng.shuffle(shuffled)
    for claim in shuffled:
        other.apply(claim)
    assert [precedence(r) for r in one] == [precedence(r) for r in other]
    assert (one.digest, one.buckets(), one.present_ids) == (other.digest, other.buckets(), other.present_ids)


@given(st.lists(st.sampled_from("abc").flatmap(lambda n: rows_of(n, pending=st.booleans())), max_size=30))
def test_indexes_and_checksums_agree_with_the_rows(rows: list[MemberState]) -> None:
    """After any claims, digest, order, suspects and tombstones are those of the rows held."""
    table = MemberTable()
    versions = [table.version]
    names = {"a": 0, "b": 10, "c": 20}
    for claim in rows:
        key = claim.record.keys[0] + names[claim.name] if claim.record else 0
        own = row(
            claim.name,
            key,
            generation=claim.generation,
            incarnation=claim.incarnation,
            pending=claim.pending,
            weight=claim.record.weight if claim.record else 1000,
        )
        changed = table.apply(own.with_liveness(claim.liveness))
        versions.append(table.version)
        assert (versions[-1] > versions[-2]) == (changed is not None)
        check_books(table)


def check_books(table: MemberTable) -> None:
    held = list(table)
    digest = 0
    for each in held:
        if each.present:
            digest ^= each.checksum
    assert table.digest == digest
    assert table.present_ids == sorted(r.member_id for r in held if r.present)
    assert list(table.suspects) == [h for h in table.suspects if table.get(h) and table.get(h).liveness == 1]  # type: ignore[union-attr]
    assert set(table.suspects) == {r.member_id for r in held if r.liveness is Liveness.SUSPECT}
    assert set(table.tombstones) == {r.member_id for r in held if not r.present}
    assert all(table.get(r.member_id) is r for r in held)


def test_liveness_gets_only_worse_until_the_subject_refutes() -> None:
    table = MemberTable()
    alive = row("w1", 1)
    assert table.apply(alive)
    assert table.apply(alive.with_liveness(Liveness.SUSPECT))
    assert table.apply(alive) is None
    assert table.apply(alive.with_liveness(Liveness.DEAD))
    assert table.apply(alive.with_liveness(Liveness.SUSPECT)) is None
    refuted = row("w1", 1, incarnation=2)
    change = table.apply(refuted)
    assert change is not None
    assert change.same_instance
    assert table.get(refuted.member_id) is refuted


def test_the_digest_covers_death_but_not_suspicion() -> None:
    table = MemberTable()
    alive = row("w1", 1)
    table.apply(alive)
    digest, version = table.digest, table.version
    table.apply(alive.with_liveness(Liveness.SUSPECT))
    assert table.digest == digest
    assert table.version > version
    table.apply(alive.with_liveness(Liveness.DEAD))
    assert table.digest == 0


def test_a_newcomer_waits_beside_the_incumbent_and_then_takes_its_place() -> None:
    table = MemberTable()
    incumbent, newcomer = row("w1", 1), row("w1", 2, generation=2, pending=True)
    table.apply(incumbent)
    table.apply(newcomer)
    assert [r.member_id for r in table.states_of("w1")] == [incumbent.member_id, newcomer.member_id]
    settled = row("w1", 2, generation=2, incarnation=2)
    table.apply(settled)
    assert table.states_of("w1") == [settled]
    assert table.apply(newcomer) is None, "its pending account is old news"
    check_books(table)


def test_an_instance_is_in_one_slot_at_a_time() -> None:
    """A settled member that becomes pending again leaves the settled slot completely."""
    table = MemberTable()
    settled, waiting = row("w1", 3), row("w1", 3, generation=2, incarnation=2, pending=True)
    table.apply(settled)
    table.apply(waiting)
    assert table.states_of("w1") == [waiting]
    assert table.apply(settled) is None
    check_books(table)


def test_a_full_table_refuses_newcomers_and_still_updates_the_rows_it_holds() -> None:
    table = MemberTable(max_members=2)
    table.apply(row("w1", 1))
    table.apply(row("w2", 2))
    assert table.apply(row("w3", 3)) is None
    assert table.refused == 1
    assert table.apply(row("w1", 1, incarnation=2))


def test_one_instance_under_two_names_is_refused() -> None:
    table = MemberTable()
    table.apply(row("w1", 1))
    assert table.apply(row("w2", 1)) is None
    check_books(table)


def test_a_tombstone_needs_no_record() -> None:
    table = MemberTable()
    alive = row("w1", 1)
    table.apply(alive)
    assert table.apply(tombstone("w1", 1, alive.instance, 1, Liveness.LEFT))
    assert table.get(alive.member_id).liveness is Liveness.LEFT  # type: ignore[union-attr]
    assert table.forget(alive.member_id)
    assert len(table) == 0


def test_invented_tombstones_keep_no_newcomer_out() -> None:
    table = MemberTable(max_members=40)
    for number in range(100):
        table.apply(tombstone(f"z{number}", 1, number.to_bytes(16, "little"), 1, Liveness.DEAD))
    assert len(table) == 10
    rows = [row(f"w{number}", number + 1) for number in range(30)]
    assert all(table.apply(newcomer) for newcomer in rows)
    for member_id in list(table.tombstones):
        table.forget(member_id)
    assert table.apply(tombstone("z", 1, b"z" * 16, 1, Liveness.DEAD)), "there is room again"
