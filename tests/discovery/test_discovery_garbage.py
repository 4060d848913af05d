"""Any bytes at all: the reader of requests refuses or reads them, however they are cut up."""

from __future__ import annotations

from itertools import pairwise

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from serving import serving

from rumormill.discovery.http.limits import Limits
from rumormill.discovery.http.request import RequestReader

GOOD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


garbage = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.sampled_from(
            [
                b"GET ", b"PUT ", b"/v1/workers", b"/v1/lookup?key=", b"?", b"%", b"%zz", b"&index=", b" HTTP/1.1",
                b"\r\n", b"\r\n\r\n", b"\n", b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked",
                b"Connection: close", b"Upgrade: h2c", b"0", b"5\r\nhello\r\n", b": ", b"\x00", b"\xff",
                b"If-None-Match: ", b"Expect: 100-continue", b" HTTP/1.0", b"HEAD ", b"CONNECT ", b"*",
                b"http://a/livez", GOOD,
            ]
        ),
        max_size=25,
    ).map(b"".join),
)  # fmt: skip


def read_all(chunks: list[bytes]) -> tuple[list[tuple[bytes, bytes, bytes]], int]:
    """The requests that a reader finds, and the status it refuses the rest with."""
    reader = RequestReader(Limits())
    found = []
    for chunk in chunks:
        found += [(one.method, one.target, one.body) for one in reader.feed_untrusted(chunk)]
        if reader.refusal is not None:
            return found, reader.refusal.status
    return found, 0


@given(garbage, st.lists(st.integers(0, 300), max_size=5))
@example(GOOD + b"\r\n", [3])
def test_whatever_comes_the_reader_refuses_or_reads_and_cutting_it_up_changes_nothing(data, cuts):
    whole, status = read_all([data])
    assert status in (0, 400, 413, 414, 431, 501)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(places)]
    # Where a request asks for the connection to end or to change its protocol, what follows is not read at all.
    if b"lose" not in data and b"pgrade" not in data and b"CONNECT" not in data and b"1.0" not in data:
        assert read_all(pieces)[0] == whole


@given(garbage)
@example(GOOD)
@example(b"\r\n" + GOOD)
@example(GOOD[:-2])
def test_the_same_bytes_once_more_are_the_same_request_once_more(data):
    """A reader recognizes them without parsing; another parses them in one piece with those before."""
    known, known_status = read_all([data, data, data])
    parsed, parsed_status = read_all([data + data + data])
    if b"lose" not in data and b"pgrade" not in data and b"CONNECT" not in data and b"1.0" not in data:
        assert (known, known_status) == (parsed, parsed_status)


async def test_garbage_over_a_socket_is_answered_in_http_or_by_closing():
    async with serving() as endpoint:

        @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
        @given(garbage)
        def send(data: bytes) -> None:
            trio.from_thread.run(converse, data)

        async def converse(data: bytes) -> None:
            caller = await endpoint.caller()
            async with caller.stream:
                await caller.send(data)
                await caller.stream.send_eof()
                answers = await caller.read_to_end()
            assert answers == b"" or answers.startswith(b"HTTP/1.1 ")

        await trio.to_thread.run_sync(send)
        assert (await endpoint.get("/v1/workers?service=embed")).status == 200
        assert endpoint.server.counters["requests_failed"] == 0
