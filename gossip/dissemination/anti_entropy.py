"""Anti-entropy: a delta sync by which two tables that differ become equal, in datagrams.

=======  ======  =================================================================================
digest   A -> B  checksums of A's 256 buckets
offer    B -> A  what B holds in the buckets that differ, some 80 members a datagram
rows     A -> B  what B lacks or has an older version of; tombstones for members that are dead here
request  A -> B  what A lacks
rows     B -> A  the same, five records a datagram
=======  ======  =================================================================================

Policies are synced beside the members.

Every step is idempotent, and any datagram may be lost. A message is repeated two round trips after the last answer that
was *processed*. What one sync misses, the next one finds.

A sync starts when the digest on a peer's heartbeats has differed from ours for two periods. It starts earlier, after
the time that two broadcasts take, if the digest is unknown, we learn nothing meanwhile, and the peer still differs:
broadcasts have probably missed us. A digest that was ours within the last period is not unknown, because our news may
still be on the way to the peer. A sync that does not change our table doubles the wait before the next of its kind, up
to 30 s. (A three-way split of 128 nodes cost 23 468 syncs without that rule and 548 with it.) A newcomer syncs at once
with random members, one after the other, for as long as it learns anything.
"""

from __future__ import annotations

import math
from itertools import islice

from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.dissemination.broadcast import Broadcast, batches
from rumormill.gossip.dissemination.sync_session import SyncBackoff, SyncSession
from rumormill.gossip.part import Part
from rumormill.gossip.state import MAX_MESSAGE_BYTES, NodeState
from rumormill.gossip.wire import SyncBusy, SyncDigest, SyncEntry, SyncOffer, SyncRequest, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId
from rumormill.membership.table import sync_bucket

ENTRIES_PER_OFFER = 80
OFFER_BYTES = 13
"""Bytes of an offer in addition to its buckets, of a byte each, and its entries."""
MAX_BUCKET_ENTRIES = 56
"""Entries of one bucket that always fit one offer: each takes 20 bytes at most."""
MAX_REQUESTED = 64
MAX_TRIES = 5
MAX_SERVED = 4
SERVING_SECONDS = 0.5
FIRST_WAIT = 1.0
QUICK_WAIT = 0.25
MAX_RECENT_DIGESTS = 64
BOOTSTRAP_FIRST, BOOTSTRAP_LAST = 0.02, 0.4


class AntiEntropy(Part):
    """Starts syncs, runs them, and answers those of others."""

    __slots__ = (
        "_bootstrap",
        "_bootstrap_wait",
        "_broadcast",
        "_differs_since",
        "_digest",
        "_probes",
        "_quick_check",
        "_quick_wait",
        "_recent_digests",
        "_serving",
        "_session",
        "_state",
        "_unequal_since",
        "_wait",
        "completed",
    )

    def __init__(self, state: NodeState, broadcast: Broadcast, probes: Probes) -> None:
        self._state = state
        self._broadcast = broadcast
        self._probes = probes
        self._differs_since: dict[MemberId, float] = {}
        """When each peer's digest began to differ from ours, unless a sync has begun since."""
        self._unequal_since: dict[MemberId, float] = {}
        """The same, whatever syncs there were."""
        self._quick_check: tuple[MemberId, float] | None = None
        """A peer whose digest is unknown here, and when we sync with it if we have learned nothing by then."""
        self._digest = 0
        self._recent_digests: dict[int, float] = {}
        """Our own recent digests, and until when each was ours."""
        self._session: SyncSession | None = None
        self._wait, self._quick_wait = SyncBackoff(FIRST_WAIT, state.now), SyncBackoff(QUICK_WAIT, state.now)
        self._serving: dict[MemberId, float] = {}
        self._bootstrap = math.inf
        """When our next sync as a newcomer starts; infinite once we are no newcomer any more."""
        self._bootstrap_wait = BOOTSTRAP_FIRST
        self.completed = False
        """Whether we have ever compared our whole table with a peer's."""

    @property
    def deadline(self) -> float:
        if self._session is not None:
            return self._session.retry_at
        if self._quick_check is not None and self._quick_check[1] < self._bootstrap:
            return self._quick_check[1]
        return self._bootstrap

    def tick(self) -> None:
        state, session = self._state, self._session
        if session is not None:
            if state.now >= session.retry_at:
                self._retry(session)
        elif self._quick_check is not None and state.now >= self._quick_check[1]:
            peer = state.table.get(self._quick_check[0])
            self._quick_check = None
            if peer is not None:
                self._start(peer, self._quick_wait)
        elif state.now >= self._bootstrap:
            peers = state.random_members(1)
            if peers:
                self._start(peers[0], self._wait)
            else:
                self._bootstrap = state.now + BOOTSTRAP_LAST

    def begin_bootstrap(self) -> None:
        """We have just learned of the first other member: learn the rest."""
        self._bootstrap = self._state.now
        self._bootstrap_wait = BOOTSTRAP_FIRST

    def compare_digest(self, peer: MemberState, digest: int) -> bool:
        """Compare the digest on a peer's heartbeat with ours; True if they are equal."""
        state = self._state
        if digest == self._own_digest():
            if self._unequal_since:
                self._unequal_since.pop(peer.member_id, None)
                self._end_difference(peer.member_id)
            if self._quick_check is not None and self._quick_check[0] == peer.member_id:
                self._quick_check = None
            return True
        self._unequal_since.setdefault(peer.member_id, state.now)
        since = self._differs_since.setdefault(peer.member_id, state.now + state.rng.random() * state.settings.period)
        if self._session is None:
            if state.now - since >= 2 * state.settings.period and state.now >= self._wait.until:
                self._start(peer, self._wait)
            elif (
                self._quick_check is None
                and state.now >= self._quick_wait.until
                and not self._was_ours_recently(digest)
            ):
                two_pushes = 2 * state.settings.burst + 2 * self._probes.rtt(peer.member_id)
                self._quick_check = (peer.member_id, state.now + two_pushes)
        return False

    def _end_difference(self, member_id: MemberId) -> None:
        since = self._differs_since.pop(member_id, math.inf)
        self._state.measurements.digest_disagreement += max(self._state.now - since, 0.0)

    @property
    def differs_for(self) -> float:
        """For how many seconds the digest of some present member has differed from ours; 0 if none does."""
        table, now = self._state.table, self._state.now
        rows = ((table.get(member_id), since) for member_id, since in self._unequal_since.items())
        return max((now - since for row, since in rows if row is not None and row.present), default=0.0)

    def table_changed(self) -> None:
        """We learned something: the next difference may start a sync at once."""
        now = self._state.now
        self._wait.reset(now)
        self._quick_wait.reset(now)
        self._quick_check = None
        self._own_digest()

    def _own_digest(self) -> int:
        """Our digest now. If it has changed since the last call, the last one is remembered."""
        own = self._state.table.digest & 0xFFFFFFFF
        if own != self._digest:
            self._recent_digests.pop(self._digest, None)  # so that the latest is last
            self._recent_digests[self._digest] = self._state.now
            self._digest = own
            if len(self._recent_digests) > MAX_RECENT_DIGESTS:
                del self._recent_digests[next(iter(self._recent_digests))]
        return own

    def _was_ours_recently(self, digest: int) -> bool:
        """Whether this digest was ours within the last period."""
        return self._state.now - self._recent_digests.get(digest, -math.inf) <= self._state.settings.period

    def restart(self) -> None:
        self._session = self._quick_check = None
        self._differs_since.clear()
        self._unequal_since.clear()
        self._serving.clear()

    # --- syncs that we start

    def _start(self, peer: MemberState, wait: SyncBackoff) -> None:
        self._state.counters["syncs"] += 1
        self._quick_check = None
        self._end_difference(peer.member_id)
        self._session = SyncSession(peer, self._state.table.version, wait)
        self._send_digest(self._session)

    def _send_digest(self, session: SyncSession) -> None:
        self._state.send(session.peer, SyncDigest(self._state.table.buckets()))
        self._schedule_retry(session)

    def _schedule_retry(self, session: SyncSession) -> None:
        rtt = max(self._probes.rtt(session.peer.member_id), 0.02)
        session.retry_at = self._state.now + 2 * rtt * (1 + session.tries)

    def _retry(self, session: SyncSession) -> None:
        session.tries += 1
        if session.tries > MAX_TRIES:
            self._finish(session)
        elif session.parts is None or session.parts:
            self._send_digest(session)
        else:
            self._request_more(session)

    def handle_offer(self, offer: SyncOffer, sender: MemberState) -> None:
        """What the peer holds in the buckets that differ: send what it lacks, and note what we lack."""
        session = self._session
        if session is None or session.peer.member_id != sender.member_id:
            return
        if session.parts is None:
            session.parts = set(range(offer.parts))
        if offer.part not in session.parts:
            return
        session.parts.discard(offer.part)
        session.tries = 0
        theirs = {entry.member_id: entry.incarnation for entry in offer.entries}
        self._send_newer(sender, theirs, frozenset(offer.buckets))
        for member_id, incarnation in theirs.items():
            if self._lacks(member_id, incarnation):
                session.wanted[member_id] = incarnation
        if session.parts:
            self._schedule_retry(session)
        else:
            self._request_more(session)

    def _lacks(self, member_id: MemberId, version: int) -> bool:
        """Whether a peer's version of a member is newer than ours. For a policy, any other version is requested."""
        row, policy = self._state.table.get(member_id), self._state.table.policies.get(member_id)
        if policy is not None:
            return policy.stamp != version
        return row is None or row.incarnation < version

    def expects_rows_from(self, sender: MemberState) -> bool:
        """Whether rows from this member answer a sync of ours: then they are old news, and we do not broadcast them."""
        session = self._session
        return session is not None and session.peer.member_id == sender.member_id and bool(session.wanted)

    def note_received(self, member_id: MemberId, sender: MemberState) -> None:
        """A record or policy came, perhaps one that we requested."""
        session = self._session
        if session is None or session.peer.member_id != sender.member_id or member_id not in session.wanted:
            return
        del session.wanted[member_id]
        session.outstanding.pop(member_id, None)
        session.tries = 0
        if session.parts is not None and not session.parts:
            if session.outstanding:
                self._schedule_retry(session)
            else:
                self._request_more(session)

    def handle_busy(self, sender: MemberState) -> None:
        if (
            self._session is not None
            and self._session.peer.member_id == sender.member_id
            and self._session.parts is None
        ):
            self._finish(self._session)

    def _request_more(self, session: SyncSession) -> None:
        session.outstanding = dict.fromkeys(islice(session.wanted, MAX_REQUESTED))
        if not session.outstanding:
            self._finish(session)
            return
        self._state.send(session.peer, SyncRequest(list(session.outstanding)))
        self._schedule_retry(session)

    def _finish(self, session: SyncSession) -> None:
        state = self._state
        self._session = None
        compared = session.parts == set()
        learned = state.table.version != session.version
        self.completed = self.completed or compared
        jitter = 0.75 + 0.5 * state.rng.random()
        if self._bootstrap < math.inf:
            self._bootstrap_wait = BOOTSTRAP_FIRST if learned else 2 * self._bootstrap_wait
            done = compared and self._bootstrap_wait > BOOTSTRAP_LAST
            self._bootstrap_wait = min(self._bootstrap_wait, BOOTSTRAP_LAST)
            self._bootstrap = math.inf if done else state.now + self._bootstrap_wait * jitter
        elif not compared and session.backoff is self._wait:
            self._wait.until = state.now + state.settings.period * jitter
        elif not learned:
            session.backoff.lengthen(state.now, jitter)

    # --- syncs that others start

    def handle_digest(self, opening: SyncDigest, sender: MemberState) -> None:
        state = self._state
        self._serving = {member_id: until for member_id, until in self._serving.items() if until > state.now}
        if sender.member_id not in self._serving and len(self._serving) >= MAX_SERVED:
            state.send(sender, SyncBusy())
            return
        self._serving[sender.member_id] = state.now + SERVING_SECONDS
        for offer in self._offers(state.table.differing_buckets(opening.buckets)):
            state.send(sender, offer)

    def handle_request(self, want: SyncRequest, sender: MemberState) -> None:
        rows = [row for member_id in want.member_ids if (row := self._state.table.get(member_id)) is not None]
        self._send_rows(
            sender, rows, [member_id for member_id in want.member_ids if member_id in self._state.table.policies]
        )

    def _offers(self, differing: list[int]) -> list[SyncOffer]:
        """Offers that list the entries of some buckets.

        A bucket too large for one offer is split, and then no offer calls it complete.
        """
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
        groups = _pack_entries(by_bucket)
        parts = min(len(groups), 1024)
        return [SyncOffer(n, parts, bytes(group[0]), group[1]) for n, group in enumerate(groups[:parts])]

    # --- sending rows

    def _send_newer(self, peer: MemberState, theirs: dict[MemberId, int], complete: frozenset[int]) -> None:
        """Send what a peer lacks or has an older version of, and tombstones for members it does not know are dead."""
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
        """Send policies, records of present members (also of suspects: a claim needs its row), and other tombstones."""
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


def _pack_entries(by_bucket: dict[int, list[SyncEntry]]) -> list[tuple[list[int], list[SyncEntry]]]:
    """Complete buckets and entries, cut into groups that fit one offer each."""
    groups: list[tuple[list[int], list[SyncEntry]]] = [([], [])]
    room = MAX_MESSAGE_BYTES - OFFER_BYTES
    for bucket, entries in by_bucket.items():
        pieces = [entries[i : i + MAX_BUCKET_ENTRIES] for i in range(0, len(entries), MAX_BUCKET_ENTRIES)] or [[]]
        for piece in pieces:
            size = 1 + sum(len(encode_message(entry)) for entry in piece)
            if len(groups[-1][1]) + len(piece) > ENTRIES_PER_OFFER or size > room:
                groups.append(([], []))
                room = MAX_MESSAGE_BYTES - OFFER_BYTES
            room -= size
            groups[-1][1].extend(piece)
        if len(pieces) == 1:
            groups[-1][0].append(bucket)
    return groups
