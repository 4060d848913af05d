"""How busy the workers are, as far as the endpoint needs it: loads, what callers report, and the drain.

The sidecar implements :class:`Activity`. What callers report is a hint from outside, read and bounded here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from rumormill.discovery.schema.load import DrainState
from rumormill.membership.load import MemberLoad
from rumormill.membership.record import InstanceId

REPORT_HEADER: Final = b"rumormill-requests"
MAX_REPORTED_WORKERS: Final = 64
"""Workers in one report. A caller with more reports those with most requests under way, and those that drain."""
MAX_REPORTED: Final = 1_000_000
"""Requests that one caller can report for one worker. More is cut to this."""
_REPORT: Final = re.compile(rb"([0-9a-f]{16});((?:[0-9a-f]{16}=\d{1,9}/\d{1,15},?)*)")

DOUBTS_HEADER: Final = b"rumormill-doubts"
MAX_DOUBTS: Final = 16
"""Workers that one query can doubt."""
_DOUBTS: Final = re.compile(rb"[0-9a-f]{16}(?:,[0-9a-f]{16}){0,%d}" % (MAX_DOUBTS - 1))


class WorkerRequests(NamedTuple):
    """What one caller reports about one worker."""

    under_way: int
    finished: int
    """Since the caller started."""


class CallerReport(NamedTuple):
    """What one caller reports: its whole state, in place of what it reported before."""

    caller: str
    """Drawn by the caller at random."""
    workers: dict[bytes, WorkerRequests]
    """By the first eight bytes of the worker's instance."""


def parse_report_untrusted(value: bytes) -> CallerReport | None:
    """The value of a ``Rumormill-Requests`` header: ``CALLER;ID=UNDER_WAY/FINISHED,...``. None if it is no report."""
    match = _REPORT.fullmatch(value)
    if match is None:
        return None
    workers = {}
    for entry in match[2].rstrip(b",").split(b",")[:MAX_REPORTED_WORKERS]:
        if entry:
            member_id, _, counts = entry.partition(b"=")
            under_way, _, finished = counts.partition(b"/")
            workers[bytes.fromhex(member_id.decode())] = WorkerRequests(
                min(int(under_way), MAX_REPORTED), int(finished)
            )
    return CallerReport(match[1].decode(), workers)


def parse_doubts_untrusted(value: bytes) -> list[bytes]:
    """The value of a ``Rumormill-Doubts`` header, ``ID,...``: workers that failed this caller, each by the first eight
    bytes of its instance. Empty if it is none."""
    if _DOUBTS.fullmatch(value) is None:
        return []
    return [bytes.fromhex(member_id.decode()) for member_id in value.split(b",")]


class Activity(Protocol):
    """What the endpoint may use of the sidecar's knowledge of requests and loads. Times in seconds."""

    def loads(self) -> Mapping[InstanceId, MemberLoad]:
        """The known loads, read now."""
        ...

    def now(self) -> float:
        """The clock of :attr:`~rumormill.membership.load.MemberLoad.heard`."""
        ...

    def take_report(self, report: CallerReport) -> None:
        """A caller says what it has under way."""
        ...

    def take_doubts(self, member_ids: Sequence[bytes]) -> None:
        """A caller says that these workers failed it. That makes their sidecars look, and decides nothing."""
        ...

    def drain_state(self) -> DrainState:
        """How far the draining of this sidecar's worker has come."""
        ...
