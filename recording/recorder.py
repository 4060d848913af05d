"""A Node that keeps the last minutes of what went in and came out, so that they can be played again.

The record is a chain of segments. A segment begins with the Node's whole state; so the oldest can be dropped, and the
rest still plays. Within a segment the entries stand in the order in which things happened (file_format.py).

A new segment begins after :data:`SEGMENT_SECONDS`, or sooner where many datagrams come. What cannot be noted without
showing a secret (a key ring that arrives, new private keys) ends a segment at once: the next one begins after it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from rumormill.gossip import Node, NodeConfig
from rumormill.gossip.identity import Profile
from rumormill.gossip.security.key_audit import KeyAudit
from rumormill.gossip.security.keyring import KeyRing
from rumormill.gossip.security.seal import HEADER_BYTES, TAG_BYTES
from rumormill.gossip.security.signature_verifier import MAX_CHECKS_PER_TURN
from rumormill.membership.load import CallerCounts
from rumormill.membership.policy import PolicyRecord
from rumormill.membership.record import Address, MemberId
from rumormill.membership.view import Event
from rumormill.recording.boundary import outside_for_writing
from rumormill.recording.file_format import Entry, Header, digest_of, encode_entries, encode_segment_start
from rumormill.recording.snapshot import SnapshotWriter
from rumormill.recording.tape import RecordedTokens, RecordingSeal, Tape

SEGMENT_SECONDS: Final = 120.0
"""Longest segment. Longer: fewer snapshots. Shorter: less is lost when the oldest segment is dropped."""
RETRY_SECONDS: Final = 60.0
"""Between attempts to write down a state that could not be written."""
BATCH: Final = 256
"""Entries that are encoded together."""
SNAPSHOT_SHARE: Final = 8
"""A segment is at least so many times as long as the snapshot at its beginning, so that a large pool's snapshots do not
displace what they are for."""


class Segment:
    """A state, and what happened from there. Encoded, but for the latest entries."""

    __slots__ = ("began", "chunks", "pending", "renew_at", "size", "snapshot_size")

    def __init__(self, began: float, start: bytes) -> None:
        self.began = began
        """Seconds on the Node's clock."""
        self.chunks = [start]
        self.size = self.snapshot_size = len(start)
        self.pending: list[Entry] = []
        self.renew_at = began + SEGMENT_SECONDS
        """When another segment should begin."""

    def encode_pending(self) -> None:
        if self.pending:
            chunk = encode_entries(self.pending)
            self.pending.clear()
            self.chunks.append(chunk)
            self.size += len(chunk)

    def to_bytes(self) -> bytes:
        self.encode_pending()
        return b"".join(self.chunks)


class RecordPosition(NamedTuple):
    """A position in a record: behind so many chunks of a segment."""

    segment: Segment
    chunks: int


class FlightRecorder:
    """The last segments of one Node, within a number of bytes."""

    def __init__(self, limit: int, header: Header) -> None:
        """``limit`` in bytes."""
        self.header = header
        self.limit = limit
        self.segments: deque[Segment] = deque()
        self.trouble = ""
        """Why the state could not be written down at some time; empty if it always could."""

    def begin(self, segment: Segment) -> None:
        """Add a segment, and drop the oldest while all together are too long. The last two always stay."""
        if self.segments:
            self.segments[-1].encode_pending()
        self.segments.append(segment)
        while len(self.segments) > 2 and self.size > self.limit:
            self.segments.popleft()

    @property
    def size(self) -> int:
        """Bytes of all segments, but for the entries that are not encoded yet."""
        return sum(segment.size for segment in self.segments)

    def dump(self) -> bytes:
        """The whole record, as a file has it."""
        return self.header.encode() + b"".join(segment.to_bytes() for segment in self.segments)

    def end(self) -> RecordPosition | None:
        """The end of what is recorded up to now; None if nothing is."""
        if not self.segments:
            return None
        self.segments[-1].encode_pending()
        return RecordPosition(self.segments[-1], len(self.segments[-1].chunks))

    def since(self, position: RecordPosition) -> bytes | None:
        """What was recorded after that position; None if its segment has been dropped."""
        if position.segment not in self.segments:
            return None
        self.segments[-1].encode_pending()
        later = self.segments.index(position.segment) + 1
        chunks = position.segment.chunks[position.chunks :]
        for segment in islice(self.segments, later, None):
            chunks += segment.chunks
        return b"".join(chunks)


class RecordedNode(Node):
    """A Node whose verbs are noted. It behaves as any other."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        rng: random.Random,
        token_bytes: Callable[[int], bytes],
        now: float,
        limit: int,
        wall_offset: float = 0.0,
    ) -> None:
        """``limit`` is how many bytes the record may have; ``wall_offset`` is wall clock minus the Node's clock."""
        self._tape = tape = Tape()
        super().__init__(
            replace(config, make_seal=partial(RecordingSeal, tape)),
            rng=rng,
            token_bytes=RecordedTokens(token_bytes, tape),
            now=now,
        )
        self._schema = config.policy_schema
        self._segment: Segment | None = None
        self._next_attempt = now
        """When to begin a segment where there is none."""
        self.recorder = FlightRecorder(limit, Header.of(config.name, config.cluster, wall_offset))
        self._begin_segment(now)

    # --- verbs

    def set_seeds(self, addresses: Iterable[Address]) -> None:
        wanted = list(addresses)
        super().set_seeds(wanted)
        self._note("seeds", wanted)

    def receive_datagram(self, data: bytes, source: Address, now: float, arrived: float | None = None) -> None:
        tape = self._tape
        super().receive_datagram(data, source, now, arrived)
        opened = tape.taken_opened()
        if isinstance(opened, bytes):
            tag = data[-TAG_BYTES:] if self._state.seal.keyring is not None else b""
            self._note("receive", data[:HEADER_BYTES] + opened + tag, source[0], source[1], now, arrived, True)
        else:
            self._note("receive", data, source[0], source[1], now, arrived, opened)

    def receive_refusal(self, datagram: bytes, address: Address, now: float) -> None:
        quoted = self._tape.as_recorded(datagram)
        super().receive_refusal(datagram, address, now)
        self._note("refusal", quoted, address[0], address[1], now)

    def handle_timer(self, now: float) -> None:
        idle = now < self.deadline and not self._dispatch.resuming and self._state.now <= now + self._ahead
        unchecked = self._state.signatures.checks_left == MAX_CHECKS_PER_TURN
        super().handle_timer(now)
        if not (idle and unchecked):  # otherwise the call changed nothing
            self._note("timer", now)

    def datagrams_to_send(self) -> list[tuple[Address, bytes]]:
        outbox = super().datagrams_to_send()
        if outbox:
            tape = self._tape
            as_recorded = tape.as_recorded
            digest = digest_of([(address, as_recorded(datagram)) for address, datagram in outbox])
            self._note("sent", len(outbox), digest)
        return outbox

    def take_events(self) -> list[Event]:
        events = super().take_events()
        for event in events:
            self._note("event", *msgspec.structs.astuple(event))
        segment = self._segment
        now = self._state.now
        if now >= (self._next_attempt if segment is None else segment.renew_at):
            self._renew_segment()
        return events

    def update(self, profile: Profile, now: float) -> None:
        super().update(profile, now)
        p = profile
        described = (p.service, p.url, p.zone, p.release, p.weight, int(p.readiness), dict(p.tags))
        self._note("update", *described, p.unready, p.endpoint, now)

    def write_policy(self, service: str, body: bytes, at: int, now: float) -> PolicyRecord:
        self._tape.cut = "a policy was written here"
        return super().write_policy(service, body, at, now)

    def worker_failed(self, now: float) -> None:
        super().worker_failed(now)
        self._note("worker_failed", now)

    def measure_load(self, utilization: float | None, queue: int, now: float) -> None:
        super().measure_load(utilization, queue, now)
        self._note("measure_load", utilization, queue, now)

    def tell_callers(self, counts: Mapping[MemberId, CallerCounts], now: float) -> None:
        super().tell_callers(counts, now)
        self._note("callers", [(member_id, *told) for member_id, told in counts.items()], now)

    def leave(self, now: float) -> None:
        super().leave(now)
        self._note("leave", now)

    def change_keys(self, ring: KeyRing, now: float) -> None:
        self._tape.cut = "the key ring was changed here"
        super().change_keys(ring, now)

    def audit_keys(self, now: float) -> KeyAudit:
        audit = super().audit_keys(now)
        self._note("audit_keys", now)
        return audit

    # --- noting

    def _note(self, *entry: Any) -> None:
        """Add one entry, after what crossed the boundary during it."""
        segment, tape = self._segment, self._tape
        if tape.cut and segment is not None:
            segment.pending.append(("cut", tape.cut))
            self._segment = segment = None
        if segment is None:
            return
        pending = segment.pending
        if tape.tags or tape.signatures or tape.tokens:
            pending.append(("crossed", bytes(tape.tags), tape.signatures, tape.tokens))
            self._forget_crossings()
        pending.append(entry)
        if len(pending) >= BATCH:
            segment.encode_pending()
            if segment.size >= self.recorder.limit // 4:
                segment.renew_at = self._state.now

    def _forget_crossings(self) -> None:
        tape = self._tape
        tape.tags.clear()
        tape.signatures, tape.tokens = [], []  # the lists before are part of an entry now

    def _renew_segment(self) -> None:
        """Begin another segment, at a moment at which that delays no heartbeat: just after one has left."""
        now, segment = self._state.now, self._segment
        if self._state.outbox or self._failure_detector.next_heartbeat - now < self._state.settings.period / 2:
            return
        if segment is not None and segment.size < SNAPSHOT_SHARE * segment.snapshot_size:
            segment.renew_at = now + SEGMENT_SECONDS
            return
        self._begin_segment(now)

    def _begin_segment(self, now: float) -> None:
        """Write the state down. The outbox is empty now, so nothing is under way."""
        self._tape.cut = ""
        self._forget_crossings()
        outside = outside_for_writing(self, self._tape, self._schema)
        try:
            state = SnapshotWriter(outside).write(self)
        except (TypeError, RecursionError) as error:  # a fault of the recorder must not end the Node
            self.recorder.trouble = str(error)
            self._next_attempt = now + RETRY_SECONDS
            return
        self._segment = Segment(now, encode_segment_start(now, self.key_version, state))
        self.recorder.begin(self._segment)
