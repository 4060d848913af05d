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
from collections import deque
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING

from rumormill.membership.member_state import MemberState
from rumormill.membership.monitors import MAX_SUBJECTS_FACTOR, HostOfEstablished, monitors_of, subjects_of
from rumormill.membership.record import MemberId

if TYPE_CHECKING:
    from rumormill.gossip.state import NodeState

ESTABLISHED_AFTER = 60.0
"""Seconds for which a member must be known before its word counts against another's."""
WATCHFUL = ESTABLISHED_AFTER + 1.0
"""Seconds after which an elder watches others as well: until then all have learned of it, and its word counts."""
RELIED_ON = WATCHFUL + 1.0
"""Seconds after which it is relied on: it has watched for five periods, and those before it leave off."""
MATURING_SECONDS = 15.0
"""Seconds by which both come later where fewer than :data:`MAX_ESTABLISHED_CHECKED` are of age. Without it the first of
64 that were started within ten seconds pinged all the others, until these came of age as well."""
MAX_ESTABLISHED_CHECKED = 2 / 3
"""Of three monitors two are elders then, for three members of four."""
ON_ITS_OWN = 15.0
"""Seconds after which a member asks for the word of elders even if they are too few to watch everyone, from when it
could rely on them. In a young pool they come of age one by one; in one that newcomers overwhelm they stay few, and must
not be outvoted for that."""
COALESCE = 0.1
"""Newcomers within so many seconds come of age together."""


class VoterEligibility:
    """Who has been known for how long, and what follows from it."""

    __slots__ = ("_began", "_certified", "_handing_over", "_juniors", "_newcomers", "_others", "_state")

    def __init__(self, state: NodeState, *, certified: bool) -> None:
        self._state = state
        self._certified = certified
        self._began = state.now
        self._newcomers: deque[float] = deque()
        """When those came that are not yet of age."""
        self._juniors: deque[float] = deque()
        """When those came that are of age, but would not watch others yet where few are."""
        self._others: set[MemberId] = set()
        """Whom we watch because their own monitors would not do."""
        self._handing_over = math.inf
        """When those whom another elder now watches are to be let go."""

    def meet(self, member_id: MemberId) -> None:
        """Note when an instance came to be known; again, that changes nothing."""
        state = self._state
        if member_id not in state.known_since:
            state.known_since[member_id] = state.now
            if not self._newcomers or state.now - self._newcomers[-1] > COALESCE:
                self._newcomers.append(state.now)

    def changed(self) -> bool:
        """Whether somebody has come of age, or a handing over is at its end, since this was last asked."""
        now, newcomers, juniors = self._state.now, self._newcomers, self._juniors
        changed = now >= self._handing_over
        while newcomers and now - newcomers[0] >= WATCHFUL + COALESCE:
            juniors.append(newcomers.popleft())
            changed = True
        while juniors and now - juniors[0] >= WATCHFUL + MATURING_SECONDS + COALESCE:
            juniors.popleft()
            changed = True
        return changed

    def outweigh(self, voters: Iterable[MemberId]) -> bool:
        """Whether the word of some members, two at least, suffices against another's."""
        voters = list(voters)
        return len(voters) >= 2 and (self._of_two_hosts(voters) or not self.matters())

    def matters(self) -> bool:
        """Whether elders of two hosts could be asked, and watch everyone or must not be outvoted for being too few."""
        relied_on = self._where_most_are(RELIED_ON)
        if not self._established_of_two_hosts(relied_on):
            return False
        return self._state.now - self._began >= relied_on + ON_ITS_OWN or self._watch_everyone(relied_on)

    def others_wait(self, voters: Iterable[MemberId]) -> bool:
        """Whether others, for whom elders matter sooner, may believe a death with our vote only: our word counts."""
        return self._established_of_two_hosts(WATCHFUL) and not self._of_two_hosts(voters)

    def established(self, member_ids: Iterable[MemberId]) -> list[MemberId]:
        """Those of some members whose word counts."""
        if not self.matters():
            return list(member_ids)
        return [member_id for member_id in member_ids if self._host_if_established(member_id, ESTABLISHED_AFTER)]

    def established_to_tell(self, count: int, told: Container[MemberId]) -> list[MemberState]:
        """At most ``count`` elders at random beside those told, where many newcomers are among us: what these pass on
        of a death, with the votes that sufficed for them, an elder on whom others rely does not believe. Where two
        thirds are elders, one in hundreds is told by newcomers alone, and hears of it with the next heartbeats."""
        state = self._state
        if not self._newcomers or not self._established_of_two_hosts(WATCHFUL):
            return []
        order = state.table.present_ids
        established = [
            member_id
            for member_id in order
            if member_id != state.me.member_id and self._host_if_established(member_id, RELIED_ON)
        ]
        if len(established) >= MAX_ESTABLISHED_CHECKED * (len(order) - 1):
            return []
        established = [member_id for member_id in established if member_id not in told]
        chosen = state.rng.sample(established, min(count, len(established)))
        return [row for member_id in chosen if (row := state.table.get(member_id)) is not None]

    def foremost(self, voters: list[MemberId], count: int) -> list[MemberId]:
        """At most ``count`` of some voters, in their order but with elders of two hosts first."""
        leading: dict[str, MemberId] = {}
        for voter in voters:
            if (host := self._host_if_established(voter, ESTABLISHED_AFTER)) and len(leading) < 2:
                leading.setdefault(host, voter)
        return list(dict.fromkeys([*leading.values(), *voters]))[:count]

    def monitors_of(self, member_id: MemberId) -> list[MemberId]:
        """The halves that watch a member, as seen from here."""
        return monitors_of(member_id, self._state.table, self._state.settings.monitors, self._if_needed())

    def beating_to(self, member_id: MemberId) -> list[MemberId]:
        """The halves whose heartbeats go to a member, as seen from here; elders that watch others are left aside."""
        return subjects_of(member_id, self._state.table, self._state.settings.monitors)

    def subjects(self) -> tuple[list[MemberId], list[MemberId]]:
        """The halves we watch; and those among them who may not know that we do, and send us no heartbeats."""
        table, me, count = self._state.table, self._state.me.member_id, self._state.settings.monitors
        regular = subjects_of(me, table, count)
        host_of_elder = self._if_needed()
        if host_of_elder is None:
            self._others.clear()
            return regular, []
        subjects = subjects_of(me, table, count, host_of_elder)
        others = [member_id for member_id in subjects if member_id not in regular]
        handed_over = self._handed_over(subjects)
        self._others = {*others, *handed_over}
        young = self._where_most_are(WATCHFUL)
        return subjects + handed_over, [member_id for member_id in others if self._age(member_id) < young] + handed_over

    def _handed_over(self, subjects: list[MemberId]) -> list[MemberId]:
        """Those we watched and need not watch any more, as soon as the elder who took over is relied on."""
        table, me, count = self._state.table, self._state.me.member_id, self._state.settings.monitors
        self._handing_over = math.inf
        left = self._others.difference(subjects)
        if not left:
            return []
        relied_on = self._host_of(self._where_most_are(RELIED_ON))
        handed_over = [member_id for member_id in subjects_of(me, table, count, relied_on) if member_id in left]
        if handed_over:
            self._handing_over = self._state.now + RELIED_ON - WATCHFUL + COALESCE
        return handed_over

    def _where_most_are(self, season: float) -> float:
        """An elder's age from which on it watches others, or is relied on: a season, or more where few are that old."""
        if self._state.now - self._began >= season and (self._newcomers or self._juniors):
            order = self._state.table.present_ids
            if sum(self._age(member_id) >= season for member_id in order) < MAX_ESTABLISHED_CHECKED * len(order):
                return season + MATURING_SECONDS
        return season

    def _established_of_two_hosts(self, season: float) -> bool:
        """Whether there are some, and we have been here for so long ourselves."""
        if self._certified or self._state.now - self._began < season:
            return False
        return self._of_two_hosts(self._established(season))

    def _established(self, season: float) -> Iterator[MemberId]:
        """Who has been here for so long, and is not silent."""
        member_ids = self._state.table.present_ids
        return (
            member_id
            for member_id in member_ids
            if self._host_if_established(member_id, season) and not self._fell_silent(member_id)
        )

    def _watch_everyone(self, season: float) -> bool:
        """Whether each member has elders of two hosts among those who come next, near enough for them to watch it."""
        order, reach = self._state.table.present_ids, MAX_SUBJECTS_FACTOR * self._state.settings.monitors
        established = set(self._established(season))
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

    def _if_needed(self) -> HostOfEstablished | None:
        watchful = self._where_most_are(WATCHFUL)
        return self._host_of(watchful) if self._established_of_two_hosts(watchful) else None

    def _host_of(self, season: float) -> HostOfEstablished:
        """Of one of the K it is enough that it is of age, since it watches anyhow."""
        return lambda member_id, near: self._host_if_established(member_id, WATCHFUL if near else season)

    def _host_if_established(self, member_id: MemberId, season: float) -> str:
        """Where a member lives that has been known for so long; empty for others."""
        row = self._state.table.get(member_id)
        if row is None or row.address is None or row.pending or self._age(member_id) < season:
            return ""
        return row.address[0]

    def _age(self, member_id: MemberId) -> float:
        state = self._state
        return state.now - state.known_since.get(member_id, state.now)

    def _fell_silent(self, member_id: MemberId) -> bool:
        """Whether a member has been suspect for long enough to have refuted it, were it there."""
        state = self._state
        if member_id not in state.table.suspects:
            return False
        return state.now - state.suspect_since.get(member_id, state.now) > state.settings.period / 2

    def _of_two_hosts(self, member_ids: Iterable[MemberId]) -> bool:
        first = ""
        for member_id in member_ids:
            if host := self._host_if_established(member_id, ESTABLISHED_AFTER):
                if first and host != first:
                    return True
                first = first or host
        return False
