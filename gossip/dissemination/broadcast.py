"""How news travels: pushed at once, then riding along on what is sent anyway.

News is always *about a member* (or a policy, whose name has the same form), and what is said about it is made from its
row at the moment of sending, so a push can never carry an account that its sender has already improved on.

A push leaves at once; what comes within the next 20 ms waits and leaves together, to the same peers. What goes wide
waits only for what went wide before it: where a host refuses, a death follows its suspicion at once. Deaths,
departures, changes of readiness and policies go to ceil(ln n) + 1 members, everything else to 3, and whoever hears it
for the first time pushes it on. To whom is not drawn by lot: with all present members in one order, number p tells
(-p*k - r) mod n for r = 1 ... k (Imase and Itoh, "Design to minimize diameter on building-block network", 1981), so
where tables agree everybody is told by k others and nobody is more than ceil(log_k n) steps away. Drawn by lot, as
many copies miss somebody in one death of six at n = 64; ceil(ln n) + 3 of them still do in one of fifty.

After that it rides on heartbeats, pings and acks, least-sent and newest first. Whatever both miss is found by the
digest every heartbeat carries.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import msgspec

from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.state import MAX_MESSAGE_BYTES, NodeState
from rumormill.gossip.wire import Dead, Leave, PolicyMessage, SignedVote, Suspect, Tombstone, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.policy import SignedPolicy
from rumormill.membership.record import Liveness, MemberId

FANOUT = 3
LEAST_WIDE = 5
PIGGYBACK_COUNT = 2
"""More changed nothing that could be measured (SWIM, section 4.1, has lambda * ln n of them, and no digest)."""
MAX_WAITING_RECORDS = 8
"""Records pushed in one burst; a larger backlog is left to sync, which is cheaper in bulk."""
MAX_PIGGYBACKED = 32
MAX_ESTABLISHED_TOLD = 8
"""Elders told of a death where newcomers are among us: all of them, as long as they are so few."""
MAX_VOTES_TOLD = 3
"""Votes a death is passed on with: those that suffice, and one for where not all count."""

_ROW_MESSAGE, _SIGNATURE = b"\x93\x10", b"\xc4\x40"  # a msgpack array of three, and the head of its third: 64 bytes


class Broadcast:
    """What is to be said, to whom, and how often it has been."""

    __slots__ = (
        "_fresh_records",
        "_next_burst",
        "_next_wide",
        "_riding",
        "_state",
        "_votes",
        "fresh",
    )

    def __init__(self, state: NodeState, votes: VoteBook) -> None:
        self._state = state
        self._votes = votes
        self.fresh: dict[MemberId, bool] = {}
        """What waits to be pushed, by half: whether it goes wide."""
        self._fresh_records = 0
        self._riding: dict[MemberId, int] = {}
        self._next_burst = self._next_wide = state.now

    @property
    def deadline(self) -> float:
        """When what is fresh may leave."""
        return min(self._next_wide, self._next_burst) if any(self.fresh.values()) else self._next_burst

    def announce(self, member_id: MemberId, *, wide: bool = False) -> None:
        """Something about this member is news here."""
        row = self._state.table.get(member_id)
        if row is None:
            if self._state.table.policies.get(member_id) is not None:
                self.fresh[member_id] = wide or self.fresh.get(member_id, False)
            return
        if row.liveness is Liveness.ALIVE and member_id not in self.fresh and row is not self._state.me:
            self._fresh_records += 1
            if self._fresh_records > MAX_WAITING_RECORDS and not wide:
                self._state.counters["left_to_sync"] += 1
                return
        self.fresh[member_id] = wide or self.fresh.get(member_id, False)

    def flush(self) -> None:
        """Push what is fresh, if a burst may leave now. Called once at the end of every step."""
        state = self._state
        if not self.fresh or state.now < self.deadline:
            return
        fresh, self.fresh, self._fresh_records = self.fresh, {}, 0
        self._next_burst = state.now + state.settings.burst
        if any(fresh.values()):
            self._next_wide = self._next_burst
        wide = [message for member_id, far in fresh.items() if far and (message := self.news(member_id))]
        near = [message for member_id, far in fresh.items() if not far and (message := self.news(member_id))]
        told: dict[MemberId, tuple[MemberState, list[bytes]]] = {}
        if wide:
            told.update((peer.member_id, (peer, list(wide))) for peer in self.next_in_line(self.wide_fanout(len(wide))))
            told.update(
                (elder.member_id, (elder, list(wide)))
                for elder in state.voter_eligibility.extra_broadcast_targets(MAX_ESTABLISHED_TOLD, told)
            )
        for peer in self.next_in_line(FANOUT) if near else ():
            told.setdefault(peer.member_id, (peer, []))[1].extend(near)
        for peer, messages in told.values():
            self._send_all(peer, messages)
        for member_id in fresh:
            self._riding.pop(member_id, None)  # the newest stands last
            self._riding[member_id] = 0
        self._bound_riding()

    def wide_fanout(self, pieces: int = 1) -> int:
        """ceil(ln n) + 1, more for many pieces, and everybody in the smallest pools."""
        return max(math.ceil(math.log(len(self._state.table.present_ids) * pieces)) + 1, LEAST_WIDE)

    def next_in_line(self, count: int) -> list[MemberState]:
        """The ``count`` members we pass news on to; some drawn by lot instead of ourselves and of suspects."""
        table, me = self._state.table, self._state.me.member_id
        order = table.present_ids
        chosen: dict[MemberId, MemberState] = {}
        for place in successors(bisect_left(order, me), len(order), count):
            member_id = order[place]
            if (
                member_id != me
                and (member_id not in table.suspects or self._state.cut_off)
                and (row := table.get(member_id))
            ):
                chosen[member_id] = row
        by_lot = self._state.random_members(count - len(chosen), exclude=tuple(chosen)) if len(chosen) < count else []
        return [*chosen.values(), *by_lot]

    def ride(self, room: int = MAX_MESSAGE_BYTES) -> list[bytes]:
        """Messages to put on a datagram that leaves anyway, at most ``room`` bytes of them."""
        if not self._riding:
            return []
        newest_first = reversed(list(self._riding.items()))
        taken: list[bytes] = []
        for member_id, sent in sorted(newest_first, key=lambda item: item[1]):
            message = self.news(member_id)
            if message is not None and len(message) > room:
                break  # it is the first to ride on the next
            if message is None or sent + 1 >= PIGGYBACK_COUNT:
                del self._riding[member_id]
            else:
                self._riding[member_id] = sent + 1
            if message is not None:
                room -= len(message)
                taken.append(message)
        return taken

    def news(self, member_id: MemberId) -> bytes | None:
        """What there is to say about a member (or a policy) now, encoded; None if it is not held."""
        row = self._state.table.get(member_id)
        if row is not None:
            return self.news_of(row)
        policy = self._state.table.policies.get(member_id)
        return None if policy is None else self.policy(policy)

    def policy(self, policy: SignedPolicy) -> bytes:
        return encode_message(PolicyMessage(msgspec.Raw(policy.encoded), policy.signature))

    def news_of(self, row: MemberState) -> bytes:
        match row.liveness:
            case Liveness.ALIVE:
                return self.record_of(row)
            case Liveness.SUSPECT:
                return encode_message(Suspect(row.member_id, row.incarnation))
            case Liveness.DEAD:
                return self._death(row)
            case Liveness.LEFT if row.encoded and row.leave_signature:
                return encode_message(Leave(row.member_id, row.incarnation, row.leave_signature))
        return encode_message(self.tombstone(row))

    def record_of(self, row: MemberState) -> bytes:
        """A present row's record, whatever is thought of it: a claim is of no use to somebody without the row."""
        return _ROW_MESSAGE + row.encoded + _SIGNATURE + row.signature

    def tombstone(self, row: MemberState) -> Tombstone:
        """A dead or departed row in a form that needs no record to be understood."""
        age = self._state.now - self._state.dead_since.get(row.member_id, self._state.now)
        return Tombstone(
            name=row.name,
            generation=row.generation,
            instance=row.instance,
            incarnation=row.incarnation,
            liveness=3 if row.liveness is Liveness.LEFT else 2,
            age=max(0, int(age)),
            leave_signature=row.leave_signature,
        )

    def restart(self) -> None:
        """After a pause of our own: what waits may no longer be so, and bursts count from now."""
        self.fresh.clear()
        self._fresh_records = 0
        self._next_burst = self._next_wide = self._state.now

    def _death(self, row: MemberState) -> bytes:
        now = self._state.now
        votes = [
            SignedVote(vote.voter, vote.stamp, max(0, int((now - vote.cast) * 1000)), vote.signature)
            for vote in self._votes.all_votes(row.member_id)
            if vote.incarnation == row.incarnation
        ]
        if not votes:
            return encode_message(self.tombstone(row))
        votes.sort(key=lambda vote: (vote.age, vote.voter))
        by_voter = {vote.voter: vote for vote in votes}
        chosen = self._state.voter_eligibility.quorum_first(list(by_voter), MAX_VOTES_TOLD)
        return encode_message(Dead(row.member_id, row.incarnation, [by_voter[voter] for voter in chosen]))

    def _send_all(self, peer: MemberState, messages: list[bytes]) -> None:
        for batch in batches(messages):
            self._state.send_encoded(peer, batch)

    def _bound_riding(self) -> None:
        if len(self._riding) > MAX_PIGGYBACKED:
            newest_first = reversed(list(self._riding.items()))
            dropped = sorted(newest_first, key=lambda item: item[1])[MAX_PIGGYBACKED:]
            for member_id, _ in dropped:
                del self._riding[member_id]


def successors(place: int, size: int, count: int) -> list[int]:
    """Whom number ``place`` of ``size`` tells: ``count`` places, some of them perhaps alike or its own.

    Everybody is told ``count`` times, and from anywhere all are reached in ceil(log(size) / log(count)) steps.
    """
    return [(-place * count - step) % size for step in range(1, count + 1)]


def batches(messages: list[bytes], room: int = MAX_MESSAGE_BYTES) -> list[list[bytes]]:
    """Encoded messages in their order, cut into groups that fit one datagram each."""
    groups: list[list[bytes]] = []
    left = 0
    for message in messages:
        if not groups or len(message) > left or len(groups[-1]) == 64:
            groups.append([])
            left = room
        groups[-1].append(message)
        left -= len(message)
    return groups
