"""Doubt yourself before the pool: what a member does when many others seem lost at once, or say that it is.

Great losses wait. Where more than a quarter of a pool of four or more (at least two) is lost within six periods,
further deaths are held for three periods; what is heard from in that time was never dead. At more than half, or when
nothing is heard from anyone for three periods while at least two others were present, the likelier explanation is that
*we* are cut off: the member is *isolated*. It evicts nobody, votes against nobody, takes over nobody and believes no
death; what it misses it shows as suspect, which callers already try last, and the routing digest stays. That is right
for a cut and for a mass failure alike. Once all of them have been missing for a minute it gives them up alone. In the
smallest pools a newcomer takes the place of a member lost before: three that have replaced one may lose another.

How it stands to the others has a name (membership.view.Connectivity), and lasts for as long as it is so. *Deaf* is who
hears nobody: until somebody is heard, also when it has given up everybody. *Mute* is whom nobody hears
(mute_detector.py): until somebody does. The others send nothing to whom they hold dead, so it watches nobody and misses
nobody. *Isolated* is who misses too many, and hears some.

Where the kernel of a missing member refuses (icmp_evidence.py), that is no cut: such a death does not wait, and it is
the end of a deafness if all that are missing have died so.

Coming back is like waking from a pause: votes, counts and held deaths are void, and suspicions of our own that nobody
ever heard are withdrawn instead of spread.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import assert_never

from rumormill.gossip.detection.mute_detector import MuteDetector
from rumormill.gossip.state import NodeState
from rumormill.membership.record import Liveness, MemberId
from rumormill.membership.view import Connectivity

SMALL_POOL = 4
"""Members with whom a newcomer makes up for a loss. In larger pools whoever invents members is not to hide losses."""


class PartitionGuard:
    """Whether we may judge, and what waits until we know."""

    __slots__ = (
        "_deferred",
        "_evict_alone_at",
        "_isolated_from",
        "_isolated_since",
        "_missing_since",
        "_recent_losses",
        "_silence_limit",
        "_state",
        "local_suspicions",
        "mute_detector",
    )

    def __init__(self, state: NodeState, mute_detector: MuteDetector) -> None:
        self._state = state
        self.mute_detector = mute_detector
        self._recent_losses: dict[MemberId, float] = {}
        self._deferred: dict[MemberId, float] = {}
        self._isolated_since = self._evict_alone_at = -math.inf
        self._silence_limit = 3 * state.settings.period
        self._isolated_from: tuple[MemberId, ...] = ()
        self._missing_since: dict[MemberId, float] = {}
        """Whom we have not heard since we missed it first, though the suspicion was withdrawn meanwhile."""
        self.local_suspicions: dict[MemberId, None] = {}
        """Whom we suspect on our own account: withdrawn when it turns out that we were the one cut off."""

    @property
    def deadline(self) -> float:
        state = self._state
        if state.isolated:
            return state.now + state.settings.period
        deaf = state.last_heard_anyone + self._silence_limit if len(state.table.present_ids) > 2 else math.inf
        return min(deaf, self.mute_detector.deadline, *self._deferred.values())

    @property
    def inbound_cut(self) -> bool:
        return self._state.connectivity is Connectivity.DEAF

    @property
    def outbound_cut(self) -> bool:
        return self._state.connectivity is Connectivity.MUTE

    @property
    def may_evict_alone(self) -> bool:
        """Isolated for so long that our own vote must do."""
        return self._state.isolated and self._state.now >= self._evict_alone_at

    def unheard_too_long(self, member_id: MemberId) -> bool:
        """Mute, one hears of each member only now and then: whether it has been too long."""
        state, patience = self._state, self._state.settings.isolation_patience
        return (
            self.outbound_cut
            and state.now - self._isolated_since >= patience
            and not state.heard_within(member_id, patience)
        )

    @property
    def abstains(self) -> bool:
        """Whether we abstain from judging others."""
        return self._state.isolated and not self.may_evict_alone

    def defer_eviction(self, member_id: MemberId) -> bool:
        """Called with a death that has its votes: True if it must wait, or must not be believed here."""
        state, period = self._state, self._state.settings.period
        if self.may_evict_alone or state.refused_since_heard(member_id):
            return False
        row = state.table.get(member_id)
        if row is not None and row.name == state.me.name:
            return state.isolated  # our own former life is nobody's loss
        self._recent_losses = {h: at for h, at in self._recent_losses.items() if state.now - at <= 6 * period}
        self._recent_losses.setdefault(member_id, state.now)
        if state.isolated:
            return True
        buried = sum(1 for h in self._recent_losses if h in state.table.tombstones)
        pool = len(state.table.present_ids) + buried
        if pool < 4 or len(self._recent_losses) < 2 or 4 * len(self._recent_losses) <= pool:
            return False
        if 2 * len(self._recent_losses) > pool:
            self._enter_isolation(Connectivity.ISOLATED)
            return True
        release = self._deferred.setdefault(member_id, state.now + 3 * period)
        return state.now < release

    def on_join(self) -> None:
        """Somebody new has a name of its own here: in the smallest pools that makes the earliest death good."""
        if len(self._state.table.present_ids) > SMALL_POOL:
            return
        for member_id in self._recent_losses:
            if member_id in self._state.table.tombstones:
                del self._recent_losses[member_id]
                return

    def due_evictions(self) -> list[MemberId]:
        """Deferred evictions whose time has come, oldest first. Each must pass :meth:`defer_eviction` again."""
        return [member_id for member_id, release in self._deferred.items() if self._state.now >= release]

    def is_deferred(self, member_id: MemberId) -> bool:
        """Whether a death that has its votes is not believed for our own doubts."""
        return self._state.isolated or member_id in self._deferred

    def tick(self) -> None:
        """Notice that nobody is heard any more, or that nobody hears us, or that it is over."""
        match self._state.connectivity:
            case Connectivity.CONNECTED:
                self._tick_connected()
            case Connectivity.ISOLATED:
                self._tick_isolated()
            case Connectivity.DEAF:
                self._tick_deaf()
            case Connectivity.MUTE:
                if self._hears_nobody(for_long=True):
                    self._enter_isolation(Connectivity.DEAF)
            case _ as other:
                assert_never(other)

    def _tick_connected(self) -> None:
        deaf = self._hears_nobody()
        if self.mute_detector.confirmed or (deaf and self.mute_detector.suspected):
            self._enter_isolation(Connectivity.MUTE)
        elif deaf:
            self._enter_isolation(Connectivity.DEAF)

    def _tick_isolated(self) -> None:
        if self.mute_detector.confirmed:
            self._enter_isolation(Connectivity.MUTE)
        elif self.may_evict_alone and not self._state.table.suspects:
            if self._seconds_of_silence() >= self._silence_limit:
                self._enter_isolation(Connectivity.DEAF)
            else:
                self._end_isolation("nobody is missing any more")

    def _tick_deaf(self) -> None:
        if self.mute_detector.suspected and not self._hears_nobody():
            self._enter_isolation(Connectivity.MUTE)
        elif all(self._is_confirmed_gone(member_id) for member_id in self._isolated_from):
            self._end_isolation("the hosts of all that were missing say that they are gone")

    def on_sign_of_life(self, member_id: MemberId) -> bool:
        """Somebody was heard; True if that ends our isolation."""
        if self._recent_losses or self._missing_since:  # a held death counts for a loss
            self.clear_loss(member_id)
        if not self._state.isolated or self.outbound_cut:
            return False
        if self.inbound_cut and self.mute_detector.suspected:
            return False  # we are mute, then, and shall notice
        if self.inbound_cut:
            self._end_isolation("heard " + self._state.name_of(member_id))
            return True
        if 2 * len(self._still_missing()) <= len(self._isolated_from):
            self._end_isolation("most of those missing are heard again")
            return True
        return False

    def on_heard_by_peer(self, member_id: MemberId) -> bool:
        """Somebody has shown that he hears us; True if that ends our isolation."""
        self.mute_detector.on_heard_by_peer()
        if not self.outbound_cut:
            return False
        self._end_isolation(self._state.name_of(member_id) + " hears it")
        return True

    def extra_heartbeat_targets(self, count: int) -> list[MemberId]:
        """Deaf, who goes on to be shown that we live: those it would be were nobody missing, also when we have given
        them up. They may well hear us, and would miss us."""
        if not self.inbound_cut:
            return []
        others = sorted({*self._isolated_from, *self._state.table.present_ids} - {self._state.me.member_id})
        start = bisect_right(others, self._state.me.member_id)
        return (others[start:] + others[:start])[:count]

    def clear_loss(self, member_id: MemberId) -> None:
        """Somebody was heard, by us or by others: its death waits no longer, and it counts for no loss."""
        self._deferred.pop(member_id, None)
        self._missing_since.pop(member_id, None)
        if member_id in self._recent_losses and member_id not in self._state.table.tombstones:
            del self._recent_losses[member_id]

    def forget(self, member_id: MemberId) -> None:
        """The member refuted, or is gone for good: nothing is held against it."""
        self.on_removed(member_id)
        self._recent_losses.pop(member_id, None)

    def on_removed(self, member_id: MemberId) -> None:
        self._deferred.pop(member_id, None)
        self._missing_since.pop(member_id, None)
        self.local_suspicions.pop(member_id, None)

    def missing_since(self, member_id: MemberId) -> float:
        """Since when a suspect has been missed."""
        state = self._state
        return self._missing_since.get(member_id, state.suspect_since.get(member_id, state.now))

    def on_suspicion_withdrawn(self, member_id: MemberId, missed_since: float) -> None:
        """A suspicion of ours was withdrawn, but nothing was heard of its subject."""
        self._missing_since[member_id] = missed_since

    def reset(self) -> None:
        """Forget what was held: we were paused or cut off."""
        self._deferred.clear()
        self._recent_losses.clear()
        self.mute_detector.restart()

    def _still_missing(self) -> list[MemberId]:
        """Those lost that nobody has shown to be well since. Whom we gave up ourselves, alone, is missing still; whose
        host says that it is gone is dead, and not missing."""
        state = self._state
        rows = [row for member_id in self._isolated_from if (row := state.table.get(member_id)) is not None]
        silent = (row for row in rows if state.last_heard.get(row.member_id, -math.inf) < self._isolated_since)
        missing = (row for row in silent if row.liveness in (Liveness.SUSPECT, Liveness.DEAD))
        return [row.member_id for row in missing if not state.refused_since_heard(row.member_id)]

    def _seconds_of_silence(self) -> float:
        """Seconds since anybody was heard."""
        return self._state.now - self._state.last_heard_anyone

    def _hears_nobody(self, *, for_long: bool = False) -> bool:
        """Whether two others at least are silent. Mute, one hears of them now and then only."""
        state = self._state
        limit = state.settings.isolation_patience if for_long else self._silence_limit
        return len(state.table.present_ids) > 2 and self._seconds_of_silence() >= limit

    def _is_confirmed_gone(self, member_id: MemberId) -> bool:
        """Whether a member that was missing is known to be gone: its host says so, or it said so itself."""
        state = self._state
        row = state.table.get(member_id)
        if row is None or row.liveness is Liveness.LEFT:
            return True
        return row.liveness is Liveness.DEAD and state.refused_since_heard(member_id)

    def _enter_isolation(self, connectivity: Connectivity) -> None:
        """Be isolated, or isolated in another way."""
        state, table = self._state, self._state.table
        if not state.isolated:
            self._isolated_since = state.now
        missing = dict.fromkeys([*table.suspects, *self._recent_losses])
        if connectivity is Connectivity.DEAF:
            missing = dict.fromkeys(h for h in table.present_ids if h != state.me.member_id)
        lost = [h for h in missing if h not in table.tombstones]
        if connectivity is Connectivity.MUTE:
            self._evict_alone_at = math.inf
        elif not self.may_evict_alone:
            last_missed = max(map(self.missing_since, lost), default=state.now)
            self._evict_alone_at = last_missed + state.settings.isolation_patience
        self._isolated_from = tuple(dict.fromkeys([*self._isolated_from, *lost]))
        state.connectivity = connectivity
        self._deferred.clear()
        reason = connectivity.words
        if connectivity is Connectivity.ISOLATED:
            reason = f"{len(lost)} of {len(table.present_ids)} are missing at once"
        state.record_event("isolated", state.me.name, f"{state.me.name} is isolated: {reason}; it evicts nobody")

    def _end_isolation(self, reason: str) -> None:
        state = self._state
        state.connectivity, self._isolated_from = Connectivity.CONNECTED, ()
        self.reset()
        state.record_event("rejoined", state.me.name, f"{state.me.name} is no longer isolated: {reason}")
