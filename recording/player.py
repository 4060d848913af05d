"""Plays a record: the same Node class, from a segment's state, with what came in, entry by entry.

What the record says came out is compared with what comes out: a checksum of every batch of datagrams, and every event.
The first difference ends the segment and is reported. A record of another version may differ; that is then no fault of
the record, but news about the two versions.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from rumormill.gossip import Node
from rumormill.gossip.identity import Profile
from rumormill.membership.load import CallerCounts
from rumormill.membership.policy import PolicySchema
from rumormill.membership.record import Address, MemberId, Readiness
from rumormill.membership.view import Event
from rumormill.recording.boundary import outside_for_reading
from rumormill.recording.file_format import DIGEST_BYTES, Entry, digest_of
from rumormill.recording.reader import RecordedSegment
from rumormill.recording.snapshot import restore_untrusted
from rumormill.recording.tape import PlayedTape


@dataclass(slots=True)
class PlayOutcome:
    """What playing one segment showed."""

    entries: int = 0
    """Entries that were played."""
    sent: int = 0
    """Datagrams that were the same."""
    events: list[Event] = field(default_factory=list)
    """Conclusions that were the same; with other settings, the conclusions under them."""
    recorded: list[Event] = field(default_factory=list)
    """With other settings: the conclusions of the record."""
    trace: str = ""
    """A hash over everything that came out, in 16 hexadecimal digits."""
    cut: str = ""
    """Why the record itself could not go on from here; empty if it could."""
    difference: str = ""
    """What differed first; empty if nothing did."""
    at: float = 0.0
    """The Node's time at the end, in seconds on its own clock."""


class Player:
    """One Node that is played from the start of a segment."""

    def __init__(
        self, segment: RecordedSegment, schema: PolicySchema, settings: Mapping[str, float] | None = None
    ) -> None:
        """With other protocol ``settings`` it plays freely: the same comes in, and what comes out is not compared.

        Raises :class:`~rumormill.recording.snapshot.UnreadableSnapshot`.
        """
        self._entries = segment.entries
        tags, signatures, tokens = _crossings(segment.entries)
        self._free = bool(settings)
        self._tape = PlayedTape(tags, signatures, tokens, free=self._free)
        self.node: Node = restore_untrusted(segment.state, outside_for_reading(self._tape, schema))
        if settings:
            self.node.change_settings(grace=settings.get("grace"), misses=settings.get("misses"))
        self.outcome = PlayOutcome(at=segment.now)
        self.outbox: list[tuple[Address, bytes]] = []
        """The datagrams that left last, as a record has them."""
        self._events: deque[Event] = deque()
        self._trace = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._verbs: dict[str, Callable[..., object]] = {
            "receive": self._receive,
            "refusal": lambda data, host, port, now: self.node.receive_refusal(data, (host, port), now),
            "timer": self.node.handle_timer,
            "seeds": lambda addresses: self.node.set_seeds([(host, port) for host, port in addresses]),
            "update": self._update,
            "worker_failed": self.node.worker_failed,
            "measure_load": self.node.measure_load,
            "callers": self._tell_callers,
            "leave": self.node.leave,
            "audit_keys": self.node.audit_keys,
        }

    def run(self, until: float | None = None) -> PlayOutcome:
        """Play to the end, to the first difference, or up to a time on the Node's own clock."""
        for _ in self.steps(until):
            pass
        return self.outcome

    def steps(self, until: float | None = None) -> Iterator[Entry]:
        """The entries in order, each after it was played."""
        outcome = self.outcome
        for entry in self._entries:
            kind, *fields = entry
            if kind == "cut":
                outcome.cut = str(fields[0])
                break
            if until is not None and self.node.inspect().now > until:
                break
            try:
                self._play(kind, fields)
            except _Differs as difference:
                outcome.difference = str(difference)
            except (IndexError, KeyError) as missing:
                outcome.difference = f"the Node took in more than the record has: {missing}"
            outcome.at = self.node.inspect().now
            if outcome.difference:
                break
            outcome.entries += 1
            yield entry
        outcome.trace = self._trace.hexdigest()
        if self._free:
            outcome.events.extend(self._events)

    def payload_of(self, datagram: bytes) -> bytes:
        """The payload of a datagram as a record has it."""
        return self._tape.payload_of(datagram, self.node.keyring)

    def _play(self, kind: str, fields: list[Any]) -> None:
        if kind == "sent":
            self._compare_sent(*fields)
        elif kind == "event":
            self._compare_event(Event(*fields), len(fields))
        elif (verb := self._verbs.get(kind)) is not None:
            verb(*fields)
            self._events.extend(self.node.take_events())
        elif kind != "crossed":
            raise _Differs(f"the record has an entry {kind!r}, which this version does not know")

    def _receive(
        self, data: bytes, host: str, port: int, now: float, arrived: float | None, opened: bool | str | None
    ) -> None:
        if isinstance(opened, bool):
            self._tape.opened = self.payload_of(data)
        else:
            self._tape.opened = opened
        self.node.receive_datagram(data, (host, port), now, arrived)

    def _update(self, *fields: Any) -> None:
        service, url, zone, release, weight, readiness, tags, *later, now = fields
        self.node.update(Profile(service, url, zone, release, weight, Readiness(readiness), tags, *later), now)

    def _tell_callers(self, counts: list[Any], now: float) -> None:
        self.node.tell_callers({MemberId(member_id): CallerCounts(*told) for member_id, *told in counts}, now)

    def _compare_sent(self, count: int, digest: bytes) -> None:
        self.outbox = outbox = self.node.datagrams_to_send()
        if self._free:
            return
        found = digest_of(outbox)
        if (len(outbox), found) != (count, digest):
            now = f"{len(outbox)} leave now" if len(outbox) != count else "others leave now"
            raise _Differs(f"{count} datagrams left, and {now}")
        self._trace.update(found)
        self.outcome.sent += count

    def _compare_event(self, event: Event, recorded: int) -> None:
        """Records of earlier versions lack an event's last fields; only those ``recorded`` are compared."""
        if self._free:
            self.outcome.recorded.append(event)
            self.outcome.events.extend(self._events)
            self._events.clear()
            return
        found = self._events.popleft() if self._events else None
        if found is None or _first(recorded, found) != _first(recorded, event):
            raise _Differs(f"it concluded {event.text!r}, and now {found.text if found else 'nothing'!r}")
        self._trace.update(event.text.encode())
        self.outcome.events.append(event)


class _Differs(Exception):
    """What came out is not what the record says."""


def _crossings(entries: list[Entry]) -> tuple[bytes, list[bytes], list[bytes]]:
    tags, signatures, tokens = bytearray(), [], []
    for kind, *fields in entries:
        if kind == "crossed":
            tags += fields[0]
            signatures += fields[1]
            tokens += fields[2]
    return bytes(tags), signatures, tokens


def _first(count: int, event: Event) -> tuple[Any, ...]:
    return msgspec.structs.astuple(event)[:count]
