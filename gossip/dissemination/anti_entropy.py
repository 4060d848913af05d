"""Delta sync: two tables that differ become one, in datagrams.

=====  ======  =================================================================================
sum    A -> B  checksums of A's 256 buckets
have   B -> A  what B holds in the buckets that differ, some 80 members a datagram
rows   A -> B  what B lacks, or holds in an earlier account; tombstones for what is dead here
want   A -> B  what A lacks
rows   B -> A  the same, five records a datagram
=====  ======  =================================================================================

Policies stand in it beside the members.

Everything is idempotent, and any datagram may be lost: a question is repeated two round trips after the last answer
that was *processed*, and what a sync misses the next one finds. A sync starts when the digest on a peer's heartbeats
has differed from ours for two periods. It starts *quickly*, as long after a strange digest as two pushes take, if
nothing is learned here and the peer does not agree meanwhile: it is likely that pushes have missed us. What was ours
within the last period is not strange, for news may yet have to reach the peer. One that leaves our table as it was
doubles the wait for the next of its kind, up to 30 s (a three-way split of 128 nodes cost 23 468 syncs without that
rule and 548 with it). A newcomer syncs at once with random members, one after the other, while it learns anything new.
"""

from __future__ import annotations

import math
from itertools import islice

from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.dissemination.broadcast import Broadcast, batches
from rumormill.gossip.part import Part
from rumormill.gossip.state import MAX_MESSAGE_BYTES, NodeState
from rumormill.gossip.wire import SyncBusy, SyncDigest, SyncEntry, SyncOffer, SyncRequest, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId
from rumormill.membership.table import sync_bucket

ENTRIES = 80
HAVE_BYTES = 13
"""What a *have* takes beside its buckets, a byte each, and its entries."""
PIECE = 56
"""Entries of one bucket that fit a *have* whatever their numbers are: 20 bytes each at the most."""
WANTED_AT_ONCE = 64
TRIES = 5
SERVED_AT_ONCE = 4
SERVING_SECONDS = 0.5
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
QUICK_WAIT = 0.25
MAX_FORMER = 64
BOOTSTRAP_FIRST, BOOTSTRAP_LAST = 0.02, 0.4


class SyncBackoff:
    """Until when no sync of one kind starts: for longer, the oftener one has brought nothing. Seconds."""

    __slots__ = ("_first", "_length", "until")

    def __init__(self, first: float, now: float) -> None:
        self._first = first
        self._length = 0.0
        self.until = now

    def end(self, now: float) -> None:
        self._length = 0.0
        self.until = now

    def lengthen(self, now: float, jitter: float) -> None:
        self._length = min(max(self._first, 2 * self._length), LONGEST_WAIT)
        self.until = now + self._length * jitter


class SyncSession:
    """One sync of ours with one peer."""

    __slots__ = ("again", "asked", "parts", "peer", "tries", "version", "wait", "wanted")

    def __init__(self, peer: MemberState, version: int, wait: SyncBackoff) -> None:
        self.peer = peer
        self.version = version
        """The table's version when we began: whether anything was learned."""
        self.wait = wait
        """For the next of its kind."""
        self.parts: set[int] | None = None
        """Parts of *have* still missing; None before the first."""
        self.wanted: dict[MemberId, int] = {}
        self.asked: dict[MemberId, None] = {}
        """What was asked for last and has not come."""
        self.tries = 0
        self.again = 0.0


class AntiEntropy(Part):
    """Starts, runs and answers syncs."""

    __slots__ = (
        "_bootstrap",
        "_bootstrap_wait",
        "_broadcast",
        "_differs_since",
        "_digest",
        "_dissent",
        "_exchange",
        "_former",
        "_probes",
        "_quick_wait",
        "_serving",
        "_state",
        "_wait",
        "completed",
    )

    def __init__(self, state: NodeState, spread: Broadcast, pings: Probes) -> None:
        self._state = state
        self._broadcast = spread
        self._probes = pings
        self._differs_since: dict[MemberId, float] = {}
        self._dissent: tuple[MemberId, float] | None = None
        """Whose digest is not ours, and when we look into it if we have learned nothing by then."""
        self._digest = 0
        self._former: dict[int, float] = {}
        """Our own digests of late, and when they ceased to be."""
        self._exchange: SyncSession | None = None
        self._wait, self._quick_wait = SyncBackoff(FIRST_WAIT, state.now), SyncBackoff(QUICK_WAIT, state.now)
        self._serving: dict[MemberId, float] = {}
        self._bootstrap = math.inf
        """When the newcomer's next sync starts; infinite when it is no newcomer any more."""
        self._bootstrap_wait = BOOTSTRAP_FIRST
        self.completed = False
        """Whether we have ever compared all we hold with somebody else's."""

    @property
    def deadline(self) -> float:
        if self._exchange is not None:
            return self._exchange.again
        if self._dissent is not None and self._dissent[1] < self._bootstrap:
            return self._dissent[1]
        return self._bootstrap

    def tick(self) -> None:
        state, exchange = self._state, self._exchange
        if exchange is not None:
            if state.now >= exchange.again:
                self._repeat(exchange)
        elif self._dissent is not None and state.now >= self._dissent[1]:
            peer = state.table.get(self._dissent[0])
            self._dissent = None
            if peer is not None:
                self._start(peer, self._quick_wait)
        elif state.now >= self._bootstrap:
            peers = state.random_members(1)
            if peers:
                self._start(peers[0], self._wait)
            else:
                self._bootstrap = state.now + BOOTSTRAP_LAST

    def begin_bootstrap(self) -> None:
        """We have just come to hold the first row of somebody else: learn the rest."""
        self._bootstrap = self._state.now
        self._bootstrap_wait = BOOTSTRAP_FIRST

    def compare_digest(self, peer: MemberState, digest: int) -> bool:
        """Look at the digest a peer's heartbeat carries; True if it is ours."""
        state = self._state
        if digest == self._own_digest():
            if self._differs_since:
                self._differs_since.pop(peer.member_id, None)
            if self._dissent is not None and self._dissent[0] == peer.member_id:
                self._dissent = None
            return True
        since = self._differs_since.setdefault(peer.member_id, state.now + state.rng.random() * state.settings.period)
        if self._exchange is None:
            if state.now - since >= 2 * state.settings.period and state.now >= self._wait.until:
                self._start(peer, self._wait)
            elif self._dissent is None and state.now >= self._quick_wait.until and not self._was_ours(digest):
                two_pushes = 2 * state.settings.burst + 2 * self._probes.rtt(peer.member_id)
                self._dissent = (peer.member_id, state.now + two_pushes)
        return False

    def table_changed(self) -> None:
        """Something was learned: the next difference may be looked into at once."""
        now = self._state.now
        self._wait.end(now)
        self._quick_wait.end(now)
        self._dissent = None
        self._own_digest()

    def _own_digest(self) -> int:
        """Our digest now. Where it is another than at the last call, that one is remembered as a former one."""
        own = self._state.table.digest & 0xFFFFFFFF
        if own != self._digest:
            self._former.pop(self._digest, None)  # the latest stands last
            self._former[self._digest] = self._state.now
            self._digest = own
            if len(self._former) > MAX_FORMER:
                del self._former[next(iter(self._former))]
        return own

    def _was_ours(self, digest: int) -> bool:
        """Whether it was ours within the last period."""
        return self._state.now - self._former.get(digest, -math.inf) <= self._state.settings.period

    def restart(self) -> None:
        self._exchange = self._dissent = None
        self._differs_since.clear()
        self._serving.clear()

    # --- asking

    def _start(self, peer: MemberState, wait: SyncBackoff) -> None:
        self._state.counters["syncs"] += 1
        self._dissent = None
        self._differs_since.pop(peer.member_id, None)
        self._exchange = SyncSession(peer, self._state.table.version, wait)
        self._open(self._exchange)

    def _open(self, exchange: SyncSession) -> None:
        self._state.send(exchange.peer, SyncDigest(self._state.table.buckets()))
        self._later(exchange)

    def _later(self, exchange: SyncSession) -> None:
        rtt = max(self._probes.rtt(exchange.peer.member_id), 0.02)
        exchange.again = self._state.now + 2 * rtt * (1 + exchange.tries)

    def _repeat(self, exchange: SyncSession) -> None:
        exchange.tries += 1
        if exchange.tries > TRIES:
            self._finish(exchange)
        elif exchange.parts is None or exchange.parts:
            self._open(exchange)
        else:
            self._ask_for_more(exchange)

    def handle_offer(self, have: SyncOffer, sender: MemberState) -> None:
        """What the peer holds in buckets that differ: send what it lacks, note what we lack."""
        exchange = self._exchange
        if exchange is None or exchange.peer.member_id != sender.member_id:
            return
        if exchange.parts is None:
            exchange.parts = set(range(have.parts))
        if have.part not in exchange.parts:
            return
        exchange.parts.discard(have.part)
        exchange.tries = 0
        theirs = {entry.member_id: entry.incarnation for entry in have.entries}
        self._send_newer(sender, theirs, frozenset(have.buckets))
        for member_id, incarnation in theirs.items():
            if self._lacks(member_id, incarnation):
                exchange.wanted[member_id] = incarnation
        if exchange.parts:
            self._later(exchange)
        else:
            self._ask_for_more(exchange)

    def _lacks(self, member_id: MemberId, version: int) -> bool:
        """Whether a peer's account of a member is later than ours; of a policy, any other is worth looking at."""
        row, policy = self._state.table.get(member_id), self._state.table.policies.get(member_id)
        if policy is not None:
            return policy.stamp != version
        return row is None or row.incarnation < version

    def expects_rows_from(self, sender: MemberState) -> bool:
        """Whether rows from this member are answers to a sync of ours: old news, not to be pushed on."""
        exchange = self._exchange
        return exchange is not None and exchange.peer.member_id == sender.member_id and bool(exchange.wanted)

    def note_received(self, member_id: MemberId, sender: MemberState) -> None:
        """A record or policy came, perhaps one we had asked for."""
        exchange = self._exchange
        if exchange is None or exchange.peer.member_id != sender.member_id or member_id not in exchange.wanted:
            return
        del exchange.wanted[member_id]
        exchange.asked.pop(member_id, None)
        exchange.tries = 0
        if exchange.parts is not None and not exchange.parts:
            if exchange.asked:
                self._later(exchange)
            else:
                self._ask_for_more(exchange)

    def handle_busy(self, sender: MemberState) -> None:
        if (
            self._exchange is not None
            and self._exchange.peer.member_id == sender.member_id
            and self._exchange.parts is None
        ):
            self._finish(self._exchange)

    def _ask_for_more(self, exchange: SyncSession) -> None:
        exchange.asked = dict.fromkeys(islice(exchange.wanted, WANTED_AT_ONCE))
        if not exchange.asked:
            self._finish(exchange)
            return
        self._state.send(exchange.peer, SyncRequest(list(exchange.asked)))
        self._later(exchange)

    def _finish(self, exchange: SyncSession) -> None:
        state = self._state
        self._exchange = None
        compared = exchange.parts == set()
        learned = state.table.version != exchange.version
        self.completed = self.completed or compared
        jitter = 0.75 + 0.5 * state.rng.random()
        if self._bootstrap < math.inf:
            self._bootstrap_wait = BOOTSTRAP_FIRST if learned else 2 * self._bootstrap_wait
            done = compared and self._bootstrap_wait > BOOTSTRAP_LAST
            self._bootstrap_wait = min(self._bootstrap_wait, BOOTSTRAP_LAST)
            self._bootstrap = math.inf if done else state.now + self._bootstrap_wait * jitter
        elif not compared and exchange.wait is self._wait:
            self._wait.until = state.now + state.settings.period * jitter
        elif not learned:
            exchange.wait.lengthen(state.now, jitter)

    # --- answering

    def handle_digest(self, opening: SyncDigest, sender: MemberState) -> None:
        state = self._state
        self._serving = {member_id: until for member_id, until in self._serving.items() if until > state.now}
        if sender.member_id not in self._serving and len(self._serving) >= SERVED_AT_ONCE:
            state.send(sender, SyncBusy())
            return
        self._serving[sender.member_id] = state.now + SERVING_SECONDS
        for have in self._haves(state.table.differing_buckets(opening.buckets)):
            state.send(sender, have)

    def handle_request(self, want: SyncRequest, sender: MemberState) -> None:
        rows = [row for member_id in want.member_ids if (row := self._state.table.get(member_id)) is not None]
        self._send_rows(
            sender, rows, [member_id for member_id in want.member_ids if member_id in self._state.table.policies]
        )

    def _haves(self, differing: list[int]) -> list[SyncOffer]:
        """The entries of some buckets, whole buckets to a part; a bucket too large for one part is listed in pieces,
        and then is not called complete."""
        table = self._state.table
        by_bucket: dict[int, list[SyncEntry]] = {
            bucket: [
                SyncEntry(member_id, row.incarnation)
                for member_id in table.in_bucket(bucket)
                if (row := table.get(member_id))
            ]
            for bucket in differing
        }
        for policy in table.policies:
            if (entries := by_bucket.get(sync_bucket(policy.member_id))) is not None:
                entries.append(SyncEntry(policy.member_id, policy.stamp))
        groups = _groups(by_bucket)
        parts = min(len(groups), 1024)
        return [SyncOffer(n, parts, bytes(group[0]), group[1]) for n, group in enumerate(groups[:parts])]

    # --- rows on their way

    def _send_newer(self, peer: MemberState, theirs: dict[MemberId, int], complete: frozenset[int]) -> None:
        """Send what a peer lacks or holds in an earlier account, and tombstones for what it does not know is dead."""
        table = self._state.table
        newer = [
            row
            for bucket in sorted(complete)
            for member_id in table.in_bucket(bucket)
            if member_id not in theirs and (row := table.get(member_id))
        ]
        for member_id, incarnation in theirs.items():
            row = table.get(member_id)
            if row is not None and (
                row.incarnation > incarnation or (not row.present and row.incarnation >= incarnation)
            ):
                newer.append(row)
        others = [
            policy.member_id
            for policy in table.policies
            if sync_bucket(policy.member_id) in complete and theirs.get(policy.member_id) != policy.stamp
        ]
        self._send_rows(peer, newer, others)

    def _send_rows(self, peer: MemberState, rows: list[MemberState], policies: list[MemberId]) -> None:
        """Policies; records of present members, also of suspects, since a claim needs its row; tombstones of others."""
        held = self._state.table.policies
        messages = [
            self._broadcast.encoder.policy(policy)
            for member_id in policies
            if (policy := held.get(member_id)) is not None
        ]
        for row in rows:
            if row.present:
                messages.append(self._broadcast.encoder.alive(row))
            else:
                messages.append(encode_message(self._broadcast.encoder.tombstone(row)))
        for batch in batches(messages, MAX_MESSAGE_BYTES):
            self._state.send_encoded(peer, batch)


def _groups(by_bucket: dict[int, list[SyncEntry]]) -> list[tuple[list[int], list[SyncEntry]]]:
    """Buckets listed whole, and entries, cut into what fits one *have* each."""
    groups: list[tuple[list[int], list[SyncEntry]]] = [([], [])]
    room = MAX_MESSAGE_BYTES - HAVE_BYTES
    for bucket, entries in by_bucket.items():
        pieces = [entries[i : i + PIECE] for i in range(0, len(entries), PIECE)] or [[]]
        for piece in pieces:
            size = 1 + sum(len(encode_message(entry)) for entry in piece)
            if len(groups[-1][1]) + len(piece) > ENTRIES or size > room:
                groups.append(([], []))
                room = MAX_MESSAGE_BYTES - HAVE_BYTES
            room -= size
            groups[-1][1].extend(piece)
        if len(pieces) == 1:
            groups[-1][0].append(bucket)
    return groups
