"""A policy body that breaks a bound is neither written nor read."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumormill.discovery.schema.policy_bodies import (
    POLICY_SCHEMA,
    CanaryPolicy,
    Maintenance,
    PolicyBody,
    Rollout,
    Share,
    ZonePreference,
    body_of,
    decode_body_untrusted,
    encode_body,
)
from rumormill.membership.policy import InvalidPolicy, PolicyRecord


@pytest.mark.parametrize(
    "body",
    [
        CanaryPolicy([Share("v1", 6000), Share("v2", 5000)]),
        CanaryPolicy([Share("v1", 6000), Share("v1", 1000)]),
        CanaryPolicy([Share("v1", 10_001)]),
        CanaryPolicy([], Rollout("v2", [500], 1.0, [], "", "", position=1, since=0, state="running")),
        Maintenance(["w1", "w1"]),
        Maintenance([""]),
        ZonePreference("\x00"),
        ZonePreference("z" * 65),
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_body_that_breaks_a_bound_is_neither_written_nor_read(body: PolicyBody) -> None:
    with pytest.raises(InvalidPolicy):
        encode_body(body)
    record = PolicyRecord("embed", 1, "w1", 0, msgspec.msgpack.encode(body))
    with pytest.raises(InvalidPolicy):
        POLICY_SCHEMA.validate(record)


@pytest.mark.parametrize("body", [CanaryPolicy([Share("v2", 500)]), Maintenance(["w1"]), ZonePreference("a")])
def test_a_body_is_read_as_it_was_written(body: PolicyBody) -> None:
    assert body_of(PolicyRecord("embed", 1, "w1", 0, encode_body(body))) == body


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_body_or_refused(data: bytes) -> None:
    try:
        body = decode_body_untrusted(data)
    except InvalidPolicy:
        return
    assert encode_body(body)
