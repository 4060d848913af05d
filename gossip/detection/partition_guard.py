"""Partition guard: when many members seem lost at once, a member assumes that the fault may be its own.

**Large losses wait.** If more than a quarter of a pool of four or more (and at least two members) is lost within six
periods, further evictions are deferred for three periods. A member that is heard in that time was never dead.

**Isolation.** The member is *isolated* if more than half of the pool is lost, or if it has heard nobody for three
periods while at least two others were present. Then it is more likely that *we* are cut off. An isolated member evicts
nobody, votes against nobody, takes over no subjects, and believes no death. It shows the missing members as suspect, so
callers try them last; the routing digest stays. This is right for a network cut and for a mass failure alike. Once all
of them have been missing for ``isolation_hold`` seconds, the member evicts them alone. In the smallest pools a newcomer
makes up for an earlier loss: a pool of three that has replaced one member can lose another.

**The kinds of isolation** (membership.view.Connectivity):

* *Deaf*: we receive nothing. This lasts until we hear somebody, even if we have evicted everybody meanwhile.
* *Mute*: nobody receives what we send (mute_detector.py). This lasts until somebody does. Members that hold us dead
  send us nothing, so we monitor nobody and count no misses.
* *Isolated*: too many members are missing, but we hear some.

**Hard evidence.** A missing member whose kernel refuses our datagrams (icmp_evidence.py) is not behind a cut. Its
eviction does not wait. If all missing members are gone in this way, we are no longer deaf.

**Rejoining** is like waking from a pause: votes, counts and deferred evictions are void. Suspicions of our own that
nobody heard of are withdrawn instead of broadcast.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import assert_never

from rumormill.gossip.detection.mute_detector import MuteDetector
from rumormill.gossip.part import Part
from rumormill.gossip.state import NodeState
from rumormill.membership.record import Liveness, MemberId
from rumormill.membership.view import Connectivity

SMALL_POOL = 4
"""Members up to which a newcomer makes up for a loss. In larger pools, fabricated members must not mask real losses."""
LOSS_WINDOW_PERIODS = 6
DEFER_PERIODS = 3
SILENCE_PERIODS = 3


class PartitionGuard(Part):
    """Decides whether we may judge others, and which evictions wait. Times in seconds."""

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
        """Members lost within the loss window, and when."""
        self._deferred: dict[MemberId, float] = {}
        """Members whose eviction is deferred, and until when."""
        self._isolated_since = self._evict_alone_at = -math.inf
        self._silence_limit = SILENCE_PERIODS * state.settings.period
        self._isolated_from: tuple[MemberId, ...] = ()
        """Members that were missing when we became isolated."""
        self._missing_since: dict[MemberId, float] = {}
        """When members went missing whose suspicion was withdrawn although we have not heard them since."""
        self.local_suspicions: dict[MemberId, None] = {}
        """Members that we ourselves suspect. Withdrawn if it turns out that we were the one cut off."""

    @property
    def deadline(self) -> float:
        state = self._state
        if state.isolated:
            return state.now + state.settings.period
        silent = state.last_heard_anyone + self._silence_limit if len(state.table.present_ids) > 2 else math.inf
        return min(silent, self.mute_detector.deadline, *self._deferred.values())

    @property
    def lazy_deadline(self) -> float:
        """While isolated, at each heartbeat."""
        return -math.inf if self._state.isolated else math.inf

    # --- what we may do

    @property
    def inbound_cut(self) -> bool:
        """Whether we are isolated because we receive nothing."""
        return self._state.connectivity is Connectivity.DEAF

    @property
    def outbound_cut(self) -> bool:
        """Whether we are isolated because nobody receives what we send."""
        return self._state.connectivity is Connectivity.MUTE

    @property
    def may_evict_alone(self) -> bool:
        """Whether we have been isolated for so long that our own vote suffices."""
        return self._state.isolated and self._state.now >= self._evict_alone_at

    @property
    def abstains(self) -> bool:
        """Whether we must not judge others."""
        return self._state.isolated and not self.may_evict_alone

    def unheard_too_long(self, member_id: MemberId) -> bool:
        """Whether a member counts as missing while nobody hears us. We then hear each member only now and then."""
        state, patience = self._state, self._state.settings.isolation_hold
        return (
            self.outbound_cut
            and state.now - self._isolated_since >= patience
            and not state.heard_within(member_id, patience)
        )

    # --- evictions

    def defer_eviction(self, member_id: MemberId) -> bool:
        """Called for a member with enough votes against it. True if its eviction must wait, or must not happen here."""
        state = self._state
        if self.may_evict_alone or state.refused_since_heard(member_id):
            return False
        row = state.table.get(member_id)
        if row is not None and row.name == state.me.name:
            return state.isolated  # an earlier instance of our own is no loss to the pool
        self._note_loss(member_id)
        return state.isolated or self._is_large_loss(member_id)

    def _note_loss(self, member_id: MemberId) -> None:
        now, window = self._state.now, LOSS_WINDOW_PERIODS * self._state.settings.period
        self._recent_losses = {lost: at for lost, at in self._recent_losses.items() if now - at <= window}
        self._recent_losses.setdefault(member_id, now)

    def _is_large_loss(self, member_id: MemberId) -> bool:
        """Whether the recent losses are so many that this one must wait; more than half isolate us."""
        state, losses = self._state, len(self._recent_losses)
        evicted = sum(1 for lost in self._recent_losses if lost in state.table.tombstones)
        pool = len(state.table.present_ids) + evicted
        if pool < 4 or losses < 2 or 4 * losses <= pool:
            return False
        if 2 * losses > pool:
            self._enter_isolation(Connectivity.ISOLATED)
            return True
        return state.now < self._deferred.setdefault(member_id, state.now + DEFER_PERIODS * state.settings.period)

    def due_evictions(self) -> list[MemberId]:
        """Deferred evictions whose time has come, oldest first. Each must pass :meth:`defer_eviction` again."""
        return [member_id for member_id, until in self._deferred.items() if self._state.now >= until]

    def is_deferred(self, member_id: MemberId) -> bool:
        """Whether an eviction with enough votes waits because the fault may be ours."""
        return self._state.isolated or member_id in self._deferred

    def on_join(self) -> None:
        """A new member has a name of its own. In the smallest pools it makes up for the earliest loss."""
        if len(self._state.table.present_ids) > SMALL_POOL:
            return
        for member_id in self._recent_losses:
            if member_id in self._state.table.tombstones:
                del self._recent_losses[member_id]
                return

    def clear_loss(self, member_id: MemberId) -> None:
        """A member was heard, by us or by others: its eviction is off, and it is no loss."""
        self._deferred.pop(member_id, None)
        self._missing_since.pop(member_id, None)
        if member_id in self._recent_losses and member_id not in self._state.table.tombstones:
            del self._recent_losses[member_id]

    def forget(self, member_id: MemberId) -> None:
        """A member refuted, or is gone for good: forget all about it."""
        self.on_removed(member_id)
        self._recent_losses.pop(member_id, None)

    def on_removed(self, member_id: MemberId) -> None:
        """A member is dead or has left. It still counts as a recent loss."""
        self._deferred.pop(member_id, None)
        self._missing_since.pop(member_id, None)
        self.local_suspicions.pop(member_id, None)

    def missing_since(self, member_id: MemberId) -> float:
        """Since when a suspect has been missing."""
        state = self._state
        return self._missing_since.get(member_id, state.suspect_since.get(member_id, state.now))

    def on_suspicion_withdrawn(self, member_id: MemberId, missing_since: float) -> None:
        """A suspicion of our own was withdrawn, but the member has not been heard."""
        self._missing_since[member_id] = missing_since

    def restart(self) -> None:
        """We were paused or cut off: forget losses and deferred evictions."""
        self._deferred.clear()
        self._recent_losses.clear()
        self.mute_detector.restart()

    # --- isolation

    def tick(self) -> None:
        """Notice that isolation begins, ends, or changes its kind."""
        before = self._state.connectivity
        if self.may_evict_alone:
            self._state.effects.monitoring_outdated()
        self._check_connectivity(before)
        if self._state.connectivity is not before:
            self._state.effects.connectivity_changed()

    def _check_connectivity(self, connectivity: Connectivity) -> None:
        match connectivity:
            case Connectivity.CONNECTED:
                self._tick_connected()
            case Connectivity.ISOLATED:
                self._tick_isolated()
            case Connectivity.DEAF:
                self._tick_deaf()
            case Connectivity.MUTE:
                if self._hears_nobody(self._state.settings.isolation_hold):
                    self._enter_isolation(Connectivity.DEAF)
            case _ as other:
                assert_never(other)

    def _tick_connected(self) -> None:
        silent = self._hears_nobody(self._silence_limit)
        if self.mute_detector.confirmed or (silent and self.mute_detector.suspected):
            self._enter_isolation(Connectivity.MUTE)
        elif silent:
            self._enter_isolation(Connectivity.DEAF)

    def _tick_isolated(self) -> None:
        if self.mute_detector.confirmed:
            self._enter_isolation(Connectivity.MUTE)
        elif self.may_evict_alone and not self._state.table.suspects:
            if self._seconds_of_silence() >= self._silence_limit:
                self._enter_isolation(Connectivity.DEAF)
            else:
                self._end_isolation("no member is missing any more")

    def _tick_deaf(self) -> None:
        if self.mute_detector.suspected and not self._hears_nobody(self._silence_limit):
            self._enter_isolation(Connectivity.MUTE)
        elif all(self._is_confirmed_gone(member_id) for member_id in self._isolated_from):
            self._end_isolation("the hosts of all missing members say that they are gone")

    def on_sign_of_life(self, member_id: MemberId) -> bool:
        """A member was heard. True if that ends our isolation."""
        if self._recent_losses or self._missing_since:  # a deferred eviction is among the losses
            self.clear_loss(member_id)
        if not self._state.isolated or self.outbound_cut:
            return False
        if self.inbound_cut and self.mute_detector.suspected:
            return False  # the next tick changes the kind to mute
        if self.inbound_cut:
            self._end_isolation("it hears " + self._state.name_of(member_id))
            return True
        if 2 * len(self._still_missing()) <= len(self._isolated_from):
            self._end_isolation("most of the missing members are heard again")
            return True
        return False

    def on_heard_by_peer(self, member_id: MemberId) -> bool:
        """A member has shown that it hears us. True if that ends our isolation."""
        self.mute_detector.on_heard_by_peer()
        if not self.outbound_cut:
            return False
        self._end_isolation(self._state.name_of(member_id) + " hears it")
        return True

    def extra_heartbeat_targets(self, count: int) -> list[MemberId]:
        """While we receive nothing: our monitors as they would be if no member were missing or evicted. They may well
        hear us, and would miss our heartbeats."""
        if not self.inbound_cut:
            return []
        others = sorted({*self._isolated_from, *self._state.table.present_ids} - {self._state.me.member_id})
        start = bisect_right(others, self._state.me.member_id)
        return (others[start:] + others[:start])[:count]

    def _still_missing(self) -> list[MemberId]:
        """Members that have been missing ever since we became isolated.

        One that we evicted alone is still missing. One whose host says that it is gone is dead, not missing.
        """
        state = self._state
        rows = [row for member_id in self._isolated_from if (row := state.table.get(member_id)) is not None]
        silent = (row for row in rows if state.last_heard.get(row.member_id, -math.inf) < self._isolated_since)
        missing = (row for row in silent if row.liveness in (Liveness.SUSPECT, Liveness.DEAD))
        return [row.member_id for row in missing if not state.refused_since_heard(row.member_id)]

    def _seconds_of_silence(self) -> float:
        """Seconds since we last heard anybody."""
        return self._state.now - self._state.last_heard_anyone

    def _hears_nobody(self, limit: float) -> bool:
        """Whether at least two others are present and none has been heard for ``limit`` seconds."""
        return len(self._state.table.present_ids) > 2 and self._seconds_of_silence() >= limit

    def _is_confirmed_gone(self, member_id: MemberId) -> bool:
        """Whether a missing member is known to be gone, from its host or from its own departure."""
        state = self._state
        row = state.table.get(member_id)
        if row is None or row.liveness is Liveness.LEFT:
            return True
        return row.liveness is Liveness.DEAD and state.refused_since_heard(member_id)

    def _enter_isolation(self, connectivity: Connectivity) -> None:
        """Become isolated, or change the kind of isolation."""
        state = self._state
        if not state.isolated:
            self._isolated_since = state.now
        lost = self._lost_members(connectivity)
        self._set_patience(connectivity, lost)
        self._isolated_from = tuple(dict.fromkeys([*self._isolated_from, *lost]))
        state.connectivity = connectivity
        self._deferred.clear()
        reason = connectivity.words
        if connectivity is Connectivity.ISOLATED:
            reason = f"{len(lost)} of {len(state.table.present_ids)} are missing at once"
        state.record_event("isolated", state.me.name, f"{state.me.name} is isolated: {reason}; it evicts nobody")

    def _lost_members(self, connectivity: Connectivity) -> list[MemberId]:
        """The members that are missing as isolation of this kind begins; all others while we receive nothing."""
        state, table = self._state, self._state.table
        missing = dict.fromkeys([*table.suspects, *self._recent_losses])
        if connectivity is Connectivity.DEAF:
            missing = dict.fromkeys(member_id for member_id in table.present_ids if member_id != state.me.member_id)
        return [member_id for member_id in missing if member_id not in table.tombstones]

    def _set_patience(self, connectivity: Connectivity, lost: list[MemberId]) -> None:
        """Set from when on we may evict alone: never while nobody hears us, since nobody could refute."""
        if connectivity is Connectivity.MUTE:
            self._evict_alone_at = math.inf
        elif not self.may_evict_alone:
            last_missing = max(map(self.missing_since, lost), default=self._state.now)
            self._evict_alone_at = last_missing + self._state.settings.isolation_hold

    def _end_isolation(self, reason: str) -> None:
        state = self._state
        state.connectivity, self._isolated_from = Connectivity.CONNECTED, ()
        self.restart()
        state.record_event("rejoined", state.me.name, f"{state.me.name} is no longer isolated: {reason}")
