"""Whose votes count.

Anybody who holds the group key can start a few processes, and two votes evict. Therefore only *established members*
decide: members that have been known here for a minute. Two of them, on two hosts, are a quorum. All votes count where
no such two can be asked, because the pool is younger than a minute, runs on one host, or has no other established
members that answer. They also count where an authority issues the names, because then nobody can start members at will.
Each member judges by what it has itself observed, and takes no other member's word for an age.

A death among newcomers must be detected as quickly as any other, for instance in a rolling restart. If the monitors of
a member do not include a quorum, established members further along the circle monitor it as well. A member that becomes
established knows its own age first. It takes subjects over from other established members, which stop monitoring them
a second later. A newcomer cannot tell who is established: to it, all others have been here since it came. So
established members do not wait for heartbeats of newcomers that they monitor in addition; they ping them.

While a new pool matures gradually, extra monitoring is delayed until most members are established, to avoid churn.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Container, Iterable, Iterator
from typing import Protocol

from rumormill.gossip.settings import ProtocolSettings
from rumormill.membership.member_state import MemberState
from rumormill.membership.monitors import MAX_SUBJECTS_FACTOR, HostOfEstablished, monitors_of, subjects_of
from rumormill.membership.record import MemberId
from rumormill.membership.table import MemberTable

ESTABLISHED_AFTER = 60.0
"""Seconds for which a member must be known before its votes count."""
MONITORS_MORE_AFTER = ESTABLISHED_AFTER + 1.0
"""Seconds after which an established member monitors extra subjects. By then every member counts its votes."""
RELIED_ON_AFTER = MONITORS_MORE_AFTER + 1.0
"""Seconds after which others rely on an established member. By then it has monitored its extra subjects for five
periods, and the members that monitored them before stop."""
YOUNG_POOL_DELAY = 15.0
"""Seconds added to both while less than :data:`ESTABLISHED_MAJORITY` of the members are old enough. Without it, the
first of 64 members that start within ten seconds would ping all others until these are established too."""
ESTABLISHED_MAJORITY = 2 / 3
"""At this share, three of four members have at least two established members among their three monitors."""
ENFORCED_AFTER = 15.0
"""Seconds from when a member can rely on established members until it requires their votes, even if they are too few
to monitor every member. In a young pool members become established one by one. In a pool flooded with newcomers the
established ones stay few, and must not be outvoted for that reason."""
COALESCE_SECONDS = 0.1
"""Newcomers that come within this time become established together."""


class EligibilityState(Protocol):
    """The part of the node's state that is needed here. (The state itself holds a :class:`VoterEligibility`.)"""

    now: float
    rng: random.Random
    known_since: dict[MemberId, float]
    suspect_since: dict[MemberId, float]

    @property
    def me(self) -> MemberState: ...

    @property
    def table(self) -> MemberTable: ...

    @property
    def settings(self) -> ProtocolSettings: ...


class VoterEligibility:
    """Knows since when each member is known, and which votes and which monitoring follow from that."""

    __slots__ = (
        "_began",
        "_certified",
        "_extra_subjects",
        "_handover_ends",
        "_newcomers",
        "_recently_established",
        "_state",
    )

    def __init__(self, state: EligibilityState, *, certified: bool) -> None:
        self._state = state
        self._certified = certified
        self._began = state.now
        self._newcomers: deque[float] = deque()
        """When the members came that are not established yet."""
        self._recently_established: deque[float] = deque()
        """When the members came that are established, but do not monitor extra subjects yet in a young pool."""
        self._extra_subjects: set[MemberId] = set()
        """Members that we monitor only because their own monitors include no quorum."""
        self._handover_ends = math.inf
        """When we stop monitoring the subjects that another established member has taken over."""

    def note_known(self, member_id: MemberId) -> None:
        """Note when an instance first became known."""
        state = self._state
        if member_id not in state.known_since:
            state.known_since[member_id] = state.now
            if not self._newcomers or state.now - self._newcomers[-1] > COALESCE_SECONDS:
                self._newcomers.append(state.now)

    def poll_changed(self) -> bool:
        """Whether a member has become established, or a handover has ended, since the last call."""
        now, newcomers, recent = self._state.now, self._newcomers, self._recently_established
        changed = now >= self._handover_ends
        while newcomers and now - newcomers[0] >= MONITORS_MORE_AFTER + COALESCE_SECONDS:
            recent.append(newcomers.popleft())
            changed = True
        while recent and now - recent[0] >= MONITORS_MORE_AFTER + YOUNG_POOL_DELAY + COALESCE_SECONDS:
            recent.popleft()
            changed = True
        return changed

    # --- whose votes count

    def is_quorum(self, voters: Iterable[MemberId]) -> bool:
        """Whether the votes of these members suffice for an eviction."""
        voters = list(voters)
        return len(voters) >= 2 and (self._span_two_hosts(voters) or not self.is_enforced())

    def is_enforced(self) -> bool:
        """Whether only votes of established members count.

        That is so if there are some on two hosts, and they either monitor every member or have been too few to do so
        for long enough.
        """
        relied_on = self._required_age(RELIED_ON_AFTER)
        if not self._established_on_two_hosts(relied_on):
            return False
        return self._state.now - self._began >= relied_on + ENFORCED_AFTER or self._cover_everyone(relied_on)

    def others_need_our_vote(self, voters: Iterable[MemberId]) -> bool:
        """Whether other members may need our vote beside these before they believe a death. Some of them may enforce
        established votes already while we do not."""
        return self._established_on_two_hosts(MONITORS_MORE_AFTER) and not self._span_two_hosts(voters)

    def eligible(self, member_ids: Iterable[MemberId]) -> list[MemberId]:
        """Those of some members whose votes count."""
        if not self.is_enforced():
            return list(member_ids)
        return [member_id for member_id in member_ids if self._host_if_established(member_id, ESTABLISHED_AFTER)]

    def quorum_first(self, voters: list[MemberId], count: int) -> list[MemberId]:
        """At most ``count`` of some voters, in their order except that established members of two hosts come first."""
        leading: dict[str, MemberId] = {}
        for voter in voters:
            if (host := self._host_if_established(voter, ESTABLISHED_AFTER)) and len(leading) < 2:
                leading.setdefault(host, voter)
        return list(dict.fromkeys([*leading.values(), *voters]))[:count]

    # --- whom to tell

    def extra_broadcast_targets(self, count: int, told: Container[MemberId]) -> list[MemberState]:
        """At most ``count`` random established members that are not among those told already.

        Empty where at least :data:`ESTABLISHED_MAJORITY` of the members are established. With fewer, a death may reach
        an established member only through newcomers, with votes that suffice for newcomers but not for it. (At the
        majority this happens to one in hundreds, and the next heartbeats tell it.)
        """
        state = self._state
        if not self._newcomers or not self._established_on_two_hosts(MONITORS_MORE_AFTER):
            return []
        present, me = state.table.present_ids, state.me.member_id
        others = (member_id for member_id in present if member_id != me)
        established = [member_id for member_id in others if self._host_if_established(member_id, RELIED_ON_AFTER)]
        if len(established) >= ESTABLISHED_MAJORITY * (len(present) - 1):
            return []
        established = [member_id for member_id in established if member_id not in told]
        chosen = state.rng.sample(established, min(count, len(established)))
        return [row for member_id in chosen if (row := state.table.get(member_id)) is not None]

    # --- who monitors whom

    def monitors_of(self, member_id: MemberId) -> list[MemberId]:
        """The ids of the members that monitor a member, as seen from here."""
        return monitors_of(member_id, self._state.table, self._state.settings.monitors, self._host_lookup_if_enforced())

    def heartbeat_senders_of(self, member_id: MemberId) -> list[MemberId]:
        """The ids of the members whose heartbeats go to a member, as seen from here, without extra subjects."""
        return subjects_of(member_id, self._state.table, self._state.settings.monitors)

    def subjects(self) -> tuple[list[MemberId], list[MemberId]]:
        """The ids of the members that we monitor, and of those among them that may not know it and send us no
        heartbeats."""
        table, me, count = self._state.table, self._state.me.member_id, self._state.settings.monitors
        regular = subjects_of(me, table, count)
        host_of_established = self._host_lookup_if_enforced()
        if host_of_established is None:
            self._extra_subjects.clear()
            return regular, []
        subjects = subjects_of(me, table, count, host_of_established)
        extra = [member_id for member_id in subjects if member_id not in regular]
        handed_over = self._subjects_in_handover(subjects)
        self._extra_subjects = {*extra, *handed_over}
        min_age = self._required_age(MONITORS_MORE_AFTER)
        unaware = [member_id for member_id in extra if self._age(member_id) < min_age]
        return subjects + handed_over, unaware + handed_over

    def _subjects_in_handover(self, subjects: list[MemberId]) -> list[MemberId]:
        """Former extra subjects that we keep until others rely on the established member that took them over."""
        table, me, count = self._state.table, self._state.me.member_id, self._state.settings.monitors
        self._handover_ends = math.inf
        former = self._extra_subjects.difference(subjects)
        if not former:
            return []
        relied_on = self._host_lookup(self._required_age(RELIED_ON_AFTER))
        handed_over = [member_id for member_id in subjects_of(me, table, count, relied_on) if member_id in former]
        if handed_over:
            self._handover_ends = self._state.now + RELIED_ON_AFTER - MONITORS_MORE_AFTER + COALESCE_SECONDS
        return handed_over

    def _host_lookup_if_enforced(self) -> HostOfEstablished | None:
        """The lookup of hosts by which extra monitors are chosen; None where all votes count."""
        min_age = self._required_age(MONITORS_MORE_AFTER)
        return self._host_lookup(min_age) if self._established_on_two_hosts(min_age) else None

    def _host_lookup(self, min_age: float) -> HostOfEstablished:
        """One of the K regular monitors need not be ``min_age`` old, because it monitors the subject anyway."""
        return lambda member_id, near: self._host_if_established(member_id, MONITORS_MORE_AFTER if near else min_age)

    # --- who is established

    def _required_age(self, min_age: float) -> float:
        """``min_age``, plus :data:`YOUNG_POOL_DELAY` while few members are that old. Seconds."""
        if self._state.now - self._began >= min_age and (self._newcomers or self._recently_established):
            order = self._state.table.present_ids
            if sum(self._age(member_id) >= min_age for member_id in order) < ESTABLISHED_MAJORITY * len(order):
                return min_age + YOUNG_POOL_DELAY
        return min_age

    def _established_on_two_hosts(self, min_age: float) -> bool:
        """Whether there are members of this age on two hosts, as far as we are old enough to know. Never where an
        authority issues the names: there, age means nothing."""
        if self._certified or self._state.now - self._began < min_age:
            return False
        return self._span_two_hosts(self._established(min_age))

    def _established(self, min_age: float) -> Iterator[MemberId]:
        """The members that have been known for this long and answer."""
        member_ids = self._state.table.present_ids
        return (
            member_id
            for member_id in member_ids
            if self._host_if_established(member_id, min_age) and not self._is_unresponsive(member_id)
        )

    def _cover_everyone(self, min_age: float) -> bool:
        """Whether each member is followed on the circle by established members of two hosts, near enough that they can
        monitor it.

        Walks the circle backwards, and keeps the next established member and the next one on another host than that.
        """
        order, reach = self._state.table.present_ids, MAX_SUBJECTS_FACTOR * self._state.settings.monitors
        placed = self._places_and_hosts(min_age)
        next_round = [(place + len(order), host) for place, host in placed]
        next_place, next_host, next_other = math.inf, "", math.inf
        for place, host in reversed(placed + next_round):
            if place < len(order) and next_other - place > reach:
                return False
            if host != next_host:
                next_other = next_place
            next_place, next_host = place, host
        return True

    def _places_and_hosts(self, min_age: float) -> list[tuple[int, str]]:
        """Where on the circle the established members stand, and on which hosts they run."""
        established = set(self._established(min_age))
        return [
            (place, self._host_if_established(member_id, ESTABLISHED_AFTER))
            for place, member_id in enumerate(self._state.table.present_ids)
            if member_id in established
        ]

    def _host_if_established(self, member_id: MemberId, min_age: float) -> str:
        """The host of a member that has been known for at least ``min_age`` seconds; empty for any other."""
        row = self._state.table.get(member_id)
        if row is None or row.address is None or row.pending or self._age(member_id) < min_age:
            return ""
        return row.address[0]

    def _age(self, member_id: MemberId) -> float:
        state = self._state
        return state.now - state.known_since.get(member_id, state.now)

    def _is_unresponsive(self, member_id: MemberId) -> bool:
        """Whether a member has been suspect for longer than it would take to refute."""
        state = self._state
        if member_id not in state.table.suspects:
            return False
        return state.now - state.suspect_since.get(member_id, state.now) > state.settings.period / 2

    def _span_two_hosts(self, member_ids: Iterable[MemberId]) -> bool:
        """Whether some members include established members of two hosts."""
        first = ""
        for member_id in member_ids:
            if host := self._host_if_established(member_id, ESTABLISHED_AFTER):
                if first and host != first:
                    return True
                first = first or host
        return False
