"""The limits on what a peer may claim of itself."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_merge import record

from rumormill.membership import InvalidRecord, encode_record, member_state_of_record_untrusted
from rumormill.membership.record import COUNTER_LIMIT, MAX_PERIOD, MAX_PROBATION, MAX_RECORD_BYTES


def test_a_record_is_equal_after_encoding_and_decoding() -> None:
    plain = record("wörker-1", 7, tags={"gpu": "a100", "az": "b"})
    row = member_state_of_record_untrusted(encode_record(plain))
    assert row.record == plain
    assert row.encoded == encode_record(plain)
    assert row.instance == plain.instance
    assert row.member_id == plain.instance[:8]


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "localhost"},
        {"host": "0.0.0.0"},
        {"host": "224.0.0.1"},
        {"host": ""},
        {"port": 0},
        {"port": 65536},
        {"url": "ftp://x"},
        {"url": "javascript:alert(1)"},
        {"url": "http://127.0.0.1:9[01"},
        {"url": "http://127.0.0.1:99999"},
        {"url": "http://\u2100/"},
        {"weight": -1},
        {"weight": 10**9},
        {"zone": "z" * 65},
        {"service": "embed\n"},
        {"tags": {"k": "v" * 600}},
        {"readiness": 9},
        {"generation": COUNTER_LIMIT},
        {"incarnation": COUNTER_LIMIT},
        {"incarnation": -1},
        {"unready": "it answers\n503"},
        {"unready": "ü" * 61},
        {"wire": 0},
        {"endpoint": 65536},
    ],
)
def test_a_record_that_no_member_writes_is_refused(fields: dict[str, object]) -> None:
    encoded = msgspec.msgpack.encode(record("w1", 1, **fields))  # type: ignore[arg-type]
    with pytest.raises(InvalidRecord):
        member_state_of_record_untrusted(encoded)


@pytest.mark.parametrize("name", ["", "n" * 129, "ü" * 65, "bell\x07", "two\nlines"])
def test_a_name_is_short_and_printable(name: str) -> None:
    with pytest.raises(InvalidRecord):
        member_state_of_record_untrusted(msgspec.msgpack.encode(record(name, 1)))


def test_a_record_fits_one_datagram() -> None:
    large = record("n" * 128, 1, service="s" * 128, url="http://" + "u" * 249, zone="z" * 64, release="r" * 64)
    assert len(encode_record(large)) <= MAX_RECORD_BYTES
    with pytest.raises(InvalidRecord, match="tags"):
        member_state_of_record_untrusted(encode_record(record("w", 1, tags={"k" * 300: "v" * 300})))


@given(st.text(max_size=40), st.sampled_from(["http://", "https://", "http://[", ""]))
def test_any_text_for_a_url_is_accepted_or_refused(text: str, scheme: str) -> None:
    with contextlib.suppress(InvalidRecord):
        member_state_of_record_untrusted(msgspec.msgpack.encode(record("w1", 1, url=scheme + text)))


@given(st.binary(max_size=400))
def test_bytes_from_anywhere_are_a_record_or_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidRecord):
        member_state_of_record_untrusted(data)


class FirstRecord(msgspec.Struct, frozen=True, array_like=True):
    """The record as the first version reads it."""

    name: str
    generation: int
    incarnation: int
    pending: bool
    keys: bytes
    host: str
    port: int
    service: str
    url: str
    zone: str
    release: str
    weight: int
    readiness: int
    tags: dict[str, str]
    certificate: bytes


@given(st.integers(0, MAX_PROBATION), st.integers(1, MAX_PERIOD))
def test_the_first_version_reads_every_record_and_its_own_records_are_read(probation: int, period: int) -> None:
    said = record("w1", 7, probation=probation, period=period)
    encoded = encode_record(said)
    read = msgspec.msgpack.decode(encoded, type=FirstRecord)
    assert (read.name, read.incarnation) == ("w1", 1)
    assert member_state_of_record_untrusted(encoded).record == said
    usual = record("w1", 7)
    assert member_state_of_record_untrusted(msgspec.msgpack.encode(read)).record == usual
    assert msgspec.msgpack.encode(msgspec.msgpack.decode(encode_record(usual), type=FirstRecord)) == encode_record(
        usual
    )


@pytest.mark.parametrize(
    "fields", [{"probation": -1}, {"probation": MAX_PROBATION + 1}, {"period": 0}, {"period": 10**9}]
)
def test_probation_and_period_are_bounded(fields: dict[str, int]) -> None:
    with pytest.raises(InvalidRecord):
        member_state_of_record_untrusted(msgspec.msgpack.encode(record("w1", 1, **fields)))
