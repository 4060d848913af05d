"""The merge of policies is the maximum of a total order, and no record beyond a limit becomes a policy."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumormill.discovery.schema.policy_bodies import CanaryPolicy, Maintenance, Share, ZonePreference, encode_body
from rumormill.membership import MemberTable
from rumormill.membership.policy import (
    MAX_COUNTER_JUMP,
    MAX_POLICIES,
    InvalidPolicy,
    PolicyRecord,
    SignedPolicy,
    encode_policy,
    merge,
    policy_untrusted,
    precedence,
)
from rumormill.membership.record import NO_SIGNATURE


def policy(counter: int = 1, writer: str = "w1", share: int = 500, service: str = "embed") -> SignedPolicy:
    record = PolicyRecord(service, counter, writer, 0, encode_body(CanaryPolicy([Share("v2", share)])))
    return policy_untrusted(encode_policy(record), NO_SIGNATURE)


policies = st.builds(policy, st.integers(1, 3), st.sampled_from(["w1", "w2"]), st.sampled_from([0, 500, 10_000]))


@given(st.lists(policies, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_table(heard: list[SignedPolicy], rng: object) -> None:
    tables = []
    for order in (heard, heard[::-1], heard + heard):
        table = MemberTable()
        for one in order:
            table.apply_policy(one)
        tables.append((list(table.policies), table.digest, table.buckets()))
    assert tables[0] == tables[1] == tables[2]
    assert tables[0][0] == [max(heard, key=precedence)]


@given(policies, policies, policies)
def test_merge_is_a_semilattice(a: SignedPolicy, b: SignedPolicy, c: SignedPolicy) -> None:
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) is a


def test_policies_of_different_kinds_and_services_do_not_replace_each_other() -> None:
    table = MemberTable()
    for service, body in itertools.product(
        ["embed", "rank"], [CanaryPolicy([]), Maintenance(["w1"]), ZonePreference("a")]
    ):
        table.apply_policy(
            policy_untrusted(encode_policy(PolicyRecord(service, 1, "w1", 0, encode_body(body))), NO_SIGNATURE)
        )
    assert len(table.policies) == 6
    assert table.digest


def test_the_digest_follows_each_change_and_the_version_each_visible_one() -> None:
    table = MemberTable()
    assert table.apply_policy(policy(2))
    digest, version = table.digest, table.version
    assert not table.apply_policy(policy(1))
    assert (table.digest, table.version) == (digest, version)
    assert table.apply_policy(policy(3))
    assert table.digest != digest
    assert table.policies.counter == 3


def test_a_counter_more_than_two_to_the_twentieth_ahead_jumps_too_far() -> None:
    table = MemberTable()
    table.apply_policy(policy(7))
    assert not table.policies.jumps_too_far(policy(7 + MAX_COUNTER_JUMP))
    assert table.policies.jumps_too_far(policy(8 + MAX_COUNTER_JUMP))


def test_the_table_is_full_for_new_names_only() -> None:
    table = MemberTable()
    for number in range(MAX_POLICIES):
        assert not table.policies.is_full_for(policy(service=f"s{number}"))
        table.apply_policy(policy(service=f"s{number}"))
    assert table.policies.is_full_for(policy(service="one more"))
    assert not table.policies.is_full_for(policy(2, service="s0"))


EMPTY = encode_body(CanaryPolicy([]))


@pytest.mark.parametrize(
    "record",
    [
        PolicyRecord("embed", 1, "", 0, EMPTY),
        PolicyRecord("embed\n", 1, "w1", 0, EMPTY),
        PolicyRecord("embed", 2**40, "w1", 0, EMPTY),
        PolicyRecord("embed", 1, "w1", 2**53, EMPTY),
        PolicyRecord("é" * 100, 1, "w1", 0, EMPTY),
        PolicyRecord("embed", 1, "w1", 0, encode_body(Maintenance([f"worker-{n}-{'x' * 30}" for n in range(60)]))),
        PolicyRecord("embed", 1, "w1", 0, b"\xc0"),
        PolicyRecord("embed", 1, "w1", 0, b""),
        PolicyRecord("embed", 1, "w1", 0, b"\x91\xa1\n"),
        PolicyRecord("embed", 1, "w1", 0, EMPTY + b"\xc0"),
    ],
    ids=str,
)
def test_a_record_beyond_a_limit_is_no_policy(record: PolicyRecord) -> None:
    with pytest.raises(InvalidPolicy):
        encode_policy(record)


def test_the_wire_carries_a_body_as_it_was_encoded() -> None:
    record = PolicyRecord("embed", 1, "w1", 0, encode_body(ZonePreference("a")))
    encoded = encode_policy(record)
    assert msgspec.msgpack.decode(encoded) == ["embed", 1, "w1", 0, ["zone", "a"]]
    assert policy_untrusted(encoded, NO_SIGNATURE).record == record
    assert record.kind == "zone"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_policy_or_refused(data: bytes) -> None:
    try:
        held = policy_untrusted(data, NO_SIGNATURE)
    except InvalidPolicy:
        return
    assert encode_policy(held.record)
