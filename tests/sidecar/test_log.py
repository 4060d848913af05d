"""A log that nobody reads: the agent goes on whatever its stderr is, and says how many lines are missing."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from full_pipes import full_pipe
from limits import LIVENESS_LIMIT

from rumormill.sidecar.line_writer import MAX_QUEUED_LINES, LineStream, LineWriter

FLOOD = MAX_QUEUED_LINES * 3


def loss_line(lost: int) -> str:
    return f"{lost} lost"


def test_lines_that_nobody_reads_are_dropped_and_counted() -> None:
    with full_pipe() as (reading, writing):
        writer = LineWriter(os.dup(writing), loss_line)
        for number in range(FLOOD):
            writer.put(f"line {number}")
        assert FLOOD - 2 * MAX_QUEUED_LINES <= writer.dropped <= FLOOD - MAX_QUEUED_LINES, (
            "what is queued, and in the write"
        )
        got: list[str] = []
        reader = threading.Thread(target=lambda: got.extend(_lines_until(reading, FLOOD)))
        reader.start()
        reader.join(LIVENESS_LIMIT)
        assert _missing(got) == writer.dropped, "told without a further line"
        writer.put("line after")
        assert _lines_until(reading, 1) == ["line after"], "told once"
        writer.close()


def _lines_until(descriptor: int, count: int) -> list[str]:
    """Read until this many lines have arrived or are reported as lost."""
    read = b""
    while not read.endswith(b"\n") or sum(map(_stands_for, _lines(read))) < count:
        read += os.read(descriptor, 4096)
    return _lines(read)


def _lines(read: bytes) -> list[str]:
    return read.decode().lstrip(".").splitlines()


def _stands_for(line: str) -> int:
    number, _, lost = line.partition(" ")
    return int(number) if lost == "lost" else 1


def _missing(lines: list[str]) -> int:
    """The number of missing lines. Each gap must be reported in its place, and all other lines must be in order."""
    count = missing = 0
    for line in lines:
        if line.endswith("lost"):
            missing += _stands_for(line)
        else:
            assert line == f"line {count}"
        count += _stands_for(line)
    assert count == FLOOD
    return missing


def test_lost_lines_are_counted_and_reported_once_writing_works_again() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing, loss_line)
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), writing)
    writer.put("nobody sees this")
    while writer.dropped == 0:
        pass
    os.close(reading)
    reading, again = os.pipe()
    os.dup2(again, writing)
    writer.put("and this is seen")
    assert _lines_until(reading, 2) == ["1 lost", "and this is seen"]
    writer.close()
    for descriptor in (reading, again, writing):
        os.close(descriptor)


def test_a_descriptor_made_non_blocking_by_somebody_else_loses_nothing() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    writer = LineWriter(writing, loss_line)
    lines = [f"{number} {'x' * 1000}" for number in range(100)]
    for line in lines:
        writer.put(line)
    assert _lines_until(reading, 100) == lines
    writer.close()
    os.close(reading)
    os.close(writing)


def test_closed_from_the_start() -> None:
    writer = LineWriter(None, loss_line)
    writer.put("a")
    writer.put("b")
    writer.close()
    assert writer.dropped == 2


def test_the_end_waits_no_longer_than_it_says() -> None:
    with full_pipe() as (_, writing):
        writer = LineWriter(os.dup(writing), loss_line)
        writer.put("never taken")
        writer.close(timeout=0.01)


def test_a_stream_hands_on_whole_lines() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing, loss_line)
    stream = LineStream(writer, terminal=False)
    print("a", "b", file=stream)
    print("one\ntwo", end="", file=stream)
    print("!", file=stream)
    assert _lines_until(reading, 3) == ["a b", "one", "two!"]
    writer.close()
    os.close(reading)
    os.close(writing)
