"""Whose word counts against another's.

Whoever holds the group key can start a few processes, and two votes evict. So only *elders* decide: members known here
for a minute, two of them and on two hosts. Where no such two could be asked (the pool is younger than that, or on one
host, or the others have all fallen silent), everybody's word counts; and where an authority issues the names, nobody
starts processes at will. Each member judges from what it has itself seen: no age is ever taken from another's word.

So that a death is known as soon among newcomers (a rolling restart), a member whose monitors would not do has elders
further on watch it as well. Each member is the first to know its own age and takes over from the elders before it, who
leave off a second later. A newcomer cannot tell who they are, to it all have been here since it came; its elders know
that, and ping it instead of waiting for heartbeats. Where a whole pool comes of age, one after the other, as they
were started, that would be much ado for seconds: its elders wait until most are of age.
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
"""Seconds for which a member must be known before its word counts against another's."""
MONITORS_MORE_AFTER = ESTABLISHED_AFTER + 1.0
"""Seconds after which an elder watches others as well: until then all have learned of it, and its word counts."""
RELIED_ON_AFTER = MONITORS_MORE_AFTER + 1.0
"""Seconds after which it is relied on: it has watched for five periods, and those before it leave off."""
YOUNG_POOL_DELAY = 15.0
"""Seconds by which both come later where fewer than :data:`ESTABLISHED_MAJORITY` are of age. Without it the first of
64 that were started within ten seconds pinged all the others, until these came of age as well."""
ESTABLISHED_MAJORITY = 2 / 3
"""Of three monitors two are elders then, for three members of four."""
ENFORCED_AFTER = 15.0
"""Seconds after which a member asks for the word of elders even if they are too few to watch everyone, from when it
could rely on them. In a young pool they come of age one by one; in one that newcomers overwhelm they stay few, and must
not be outvoted for that."""
COALESCE_SECONDS = 0.1
"""Newcomers within so many seconds come of age together."""


class EligibilityState(Protocol):
    """What is asked of the node's state, which itself holds a :class:`VoterEligibility`."""

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
    """Who has been known for how long, and what follows from it."""

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
        """When those came that are not yet of age."""
        self._recently_established: deque[float] = deque()
        """When those came that are of age, but would not watch others yet where few are."""
        self._extra_subjects: set[MemberId] = set()
        """Whom we watch because their own monitors would not do."""
        self._handover_ends = math.inf
        """When those whom another elder now watches are to be let go."""

    def note_known(self, member_id: MemberId) -> None:
        """Note when an instance came to be known; again, that changes nothing."""
        state = self._state
        if member_id not in state.known_since:
            state.known_since[member_id] = state.now
            if not self._newcomers or state.now - self._newcomers[-1] > COALESCE_SECONDS:
                self._newcomers.append(state.now)

    def poll_changed(self) -> bool:
        """Whether somebody has come of age, or a handing over is at its end, since this was last asked."""
        now, newcomers, juniors = self._state.now, self._newcomers, self._recently_established
        changed = now >= self._handover_ends
        while newcomers and now - newcomers[0] >= MONITORS_MORE_AFTER + COALESCE_SECONDS:
            juniors.append(newcomers.popleft())
            changed = True
        while juniors and now - juniors[0] >= MONITORS_MORE_AFTER + YOUNG_POOL_DELAY + COALESCE_SECONDS:
            juniors.popleft()
            changed = True
        return changed

    def is_quorum(self, voters: Iterable[MemberId]) -> bool:
        """Whether the word of some members, two at least, suffices against another's."""
        voters = list(voters)
        return len(voters) >= 2 and (self._span_two_hosts(voters) or not self.is_enforced())

    def is_enforced(self) -> bool:
        """Whether elders of two hosts could be asked, and watch everyone or must not be outvoted for being too few."""
        relied_on = self._required_age(RELIED_ON_AFTER)
        if not self._established_on_two_hosts(relied_on):
            return False
        return self._state.now - self._began >= relied_on + ENFORCED_AFTER or self._cover_everyone(relied_on)

    def others_need_our_vote(self, voters: Iterable[MemberId]) -> bool:
        """Whether others, for whom elders matter sooner, may believe a death with our vote only: our word counts."""
        return self._established_on_two_hosts(MONITORS_MORE_AFTER) and not self._span_two_hosts(voters)

    def eligible(self, member_ids: Iterable[MemberId]) -> list[MemberId]:
        """Those of some members whose word counts."""
        if not self.is_enforced():
            return list(member_ids)
        return [member_id for member_id in member_ids if self._host_if_established(member_id, ESTABLISHED_AFTER)]

    def extra_broadcast_targets(self, count: int, told: Container[MemberId]) -> list[MemberState]:
        """At most ``count`` elders at random beside those told, where many newcomers are among us: what these pass on
        of a death, with the votes that sufficed for them, an elder on whom others rely does not believe. Where two
        thirds are elders, one in hundreds is told by newcomers alone, and hears of it with the next heartbeats."""
        state = self._state
        if not self._newcomers or not self._established_on_two_hosts(MONITORS_MORE_AFTER):
            return []
        order = state.table.present_ids
        established = [
            member_id
            for member_id in order
            if member_id != state.me.member_id and self._host_if_established(member_id, RELIED_ON_AFTER)
        ]
        if len(established) >= ESTABLISHED_MAJORITY * (len(order) - 1):
            return []
        established = [member_id for member_id in established if member_id not in told]
        chosen = state.rng.sample(established, min(count, len(established)))
        return [row for member_id in chosen if (row := state.table.get(member_id)) is not None]

    def quorum_first(self, voters: list[MemberId], count: int) -> list[MemberId]:
        """At most ``count`` of some voters, in their order but with elders of two hosts first."""
        leading: dict[str, MemberId] = {}
        for voter in voters:
            if (host := self._host_if_established(voter, ESTABLISHED_AFTER)) and len(leading) < 2:
                leading.setdefault(host, voter)
        return list(dict.fromkeys([*leading.values(), *voters]))[:count]

    def monitors_of(self, member_id: MemberId) -> list[MemberId]:
        """The halves that watch a member, as seen from here."""
        return monitors_of(member_id, self._state.table, self._state.settings.monitors, self._host_lookup_if_enforced())

    def heartbeat_senders_of(self, member_id: MemberId) -> list[MemberId]:
        """The halves whose heartbeats go to a member, as seen from here; elders that watch others are left aside."""
        return subjects_of(member_id, self._state.table, self._state.settings.monitors)

    def subjects(self) -> tuple[list[MemberId], list[MemberId]]:
        """The halves we watch; and those among them who may not know that we do, and send us no heartbeats."""
        table, me, count = self._state.table, self._state.me.member_id, self._state.settings.monitors
        regular = subjects_of(me, table, count)
        host_of_established = self._host_lookup_if_enforced()
        if host_of_established is None:
            self._extra_subjects.clear()
            return regular, []
        subjects = subjects_of(me, table, count, host_of_established)
        others = [member_id for member_id in subjects if member_id not in regular]
        handed_over = self._subjects_in_handover(subjects)
        self._extra_subjects = {*others, *handed_over}
        young = self._required_age(MONITORS_MORE_AFTER)
        return subjects + handed_over, [member_id for member_id in others if self._age(member_id) < young] + handed_over

    def _subjects_in_handover(self, subjects: list[MemberId]) -> list[MemberId]:
        """Those we watched and need not watch any more, as soon as the elder who took over is relied on."""
        table, me, count = self._state.table, self._state.me.member_id, self._state.settings.monitors
        self._handover_ends = math.inf
        left = self._extra_subjects.difference(subjects)
        if not left:
            return []
        relied_on = self._host_lookup(self._required_age(RELIED_ON_AFTER))
        handed_over = [member_id for member_id in subjects_of(me, table, count, relied_on) if member_id in left]
        if handed_over:
            self._handover_ends = self._state.now + RELIED_ON_AFTER - MONITORS_MORE_AFTER + COALESCE_SECONDS
        return handed_over

    def _required_age(self, min_age: float) -> float:
        """``min_age``, plus :data:`YOUNG_POOL_DELAY` while few members are that old. Seconds."""
        if self._state.now - self._began >= min_age and (self._newcomers or self._recently_established):
            order = self._state.table.present_ids
            if sum(self._age(member_id) >= min_age for member_id in order) < ESTABLISHED_MAJORITY * len(order):
                return min_age + YOUNG_POOL_DELAY
        return min_age

    def _established_on_two_hosts(self, min_age: float) -> bool:
        """Whether there are some, and we have been here for so long ourselves."""
        if self._certified or self._state.now - self._began < min_age:
            return False
        return self._span_two_hosts(self._established(min_age))

    def _established(self, min_age: float) -> Iterator[MemberId]:
        """Who has been here for so long, and is not silent."""
        member_ids = self._state.table.present_ids
        return (
            member_id
            for member_id in member_ids
            if self._host_if_established(member_id, min_age) and not self._is_unresponsive(member_id)
        )

    def _cover_everyone(self, min_age: float) -> bool:
        """Whether each member has elders of two hosts among those who come next, near enough for them to watch it."""
        order, reach = self._state.table.present_ids, MAX_SUBJECTS_FACTOR * self._state.settings.monitors
        established = set(self._established(min_age))
        homes = [
            (place, self._host_if_established(member_id, ESTABLISHED_AFTER))
            for place, member_id in enumerate(order)
            if member_id in established
        ]
        later = [(place + len(order), host) for place, host in homes]
        next_place, next_host, next_other = math.inf, "", math.inf
        for place, host in reversed(homes + later):  # backwards: who comes next, and the next on another host than that
            if place < len(order) and next_other - place > reach:
                return False
            if host != next_host:
                next_other = next_place
            next_place, next_host = place, host
        return True

    def _host_lookup_if_enforced(self) -> HostOfEstablished | None:
        watchful = self._required_age(MONITORS_MORE_AFTER)
        return self._host_lookup(watchful) if self._established_on_two_hosts(watchful) else None

    def _host_lookup(self, min_age: float) -> HostOfEstablished:
        """Of one of the K it is enough that it is of age, since it watches anyhow."""
        return lambda member_id, near: self._host_if_established(member_id, MONITORS_MORE_AFTER if near else min_age)

    def _host_if_established(self, member_id: MemberId, min_age: float) -> str:
        """Where a member lives that has been known for so long; empty for others."""
        row = self._state.table.get(member_id)
        if row is None or row.address is None or row.pending or self._age(member_id) < min_age:
            return ""
        return row.address[0]

    def _age(self, member_id: MemberId) -> float:
        state = self._state
        return state.now - state.known_since.get(member_id, state.now)

    def _is_unresponsive(self, member_id: MemberId) -> bool:
        """Whether a member has been suspect for long enough to have refuted it, were it there."""
        state = self._state
        if member_id not in state.table.suspects:
            return False
        return state.now - state.suspect_since.get(member_id, state.now) > state.settings.period / 2

    def _span_two_hosts(self, member_ids: Iterable[MemberId]) -> bool:
        first = ""
        for member_id in member_ids:
            if host := self._host_if_established(member_id, ESTABLISHED_AFTER):
                if first and host != first:
                    return True
                first = first or host
        return False
