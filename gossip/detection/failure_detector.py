"""Heartbeats, and three misses.

Every period a member sends one heartbeat to each of its monitors. A miss falls due at the last sign of life plus period
plus grace, then each period after. At the first miss the monitor verifies at once: a direct ping, and three others are
asked to ping too. At the second it verifies again and says *suspect*, to the subject first, so that it can refute. At
the third it votes. Any sign of life sets the count to zero and takes the vote back. An eviction therefore needs three
consecutive misses, a failed second path and no lone accuser (rumormill.gossip.lifecycle.eviction decides it).
Where a kernel says that the process is gone, misses follow within milliseconds (icmp_evidence.py).

A heartbeat leaves early if one comes in from somebody else shortly before it is due. So the members of a pool soon beat
together (pulse-coupled oscillators; Mirollo, Strogatz, 1990), and who wakes to hear three heartbeats sends its own with
the same waking: half of the wakings, and these are what an idle member costs. How early is bounded by what was saved
before, a little each period: nobody's rate rises by more than that, whatever the distances. No heartbeat is ever late.
There are two such halves, by a bit of the instance, half a period apart: what a dead process would refuse comes to it
twice a period, and not all members that share a machine want its processors at once.

Underneath, one member a second is probed in turn (SWIM, section 4.3): it keeps round-trip times, and finds a member
whose monitors all died with it; a failed probe makes the prober one of its monitors for a while.
"""

from __future__ import annotations

import math

from rumormill.gossip.detection.heartbeat_jitter import HeartbeatJitter
from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import DEAF, Heartbeat, IndirectAck, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId

HELPERS = 3
MAX_VERIFYING = 8
"""Deaths without valid votes verified at a time."""
FULL_EFFORT = 5
"""Misses up to which each is verified in full; after that, one ping each so many periods."""

SAVED_EACH = 0.05
"""Part of a period by which heartbeats may be early, on average. Larger: more of them where distances keep a pool from
beating together; smaller: it takes longer until it does."""
SAVED_MOST = 0.5
"""Part of a period by which a single one may be early. Less leaves groups that each beat at a time of their own."""
LEEWAY = 0.02
"""Part of a period by which the next one is due later after an early one, so that whoever was first is first again.
Smaller: two that are due together wake each other. Larger: when the first dies, more of the grace is used up once."""
APART = 0.1
"""Part of a period by which the halves may be nearer to each other than half a period. Smaller: heartbeats of the other
half are answered, beside those of one's own. Larger: more pools in which some members find no half."""

OVER_WORST, BEYOND_WORST = 1.1, 0.4
"""Grace where heartbeats have come late: the worst lateness, which fades by a seventieth each, and a part of the grace.
All of both cost 10 ms more at every death for as little; the root of their squares, four times as many false misses
where heartbeats are up to a period late."""
WAITED_LEFT = 0.5
"""Of how long heartbeats waited unread in our own socket, what counts a second later. A member's own lateness lasts ten
times as long: a link stays what it is, but a processor is busy for a moment, and deaths within that time are found
late. None at all: 64 nodes that join in one process suspect one another."""
HEARSAY_PERIODS = 5
"""Longer: a liar delays an eviction by as much. Shorter: more evictions of those whose links to us are bad."""

NEVER = -math.inf


class MonitorState:
    """What a monitor keeps of one subject. Times in seconds."""

    __slots__ = ("began", "due", "last", "lateness", "member_id", "misses", "proven", "refused", "until")

    def __init__(self, member_id: MemberId, now: float, due: float, until: float = math.inf) -> None:
        self.member_id = member_id
        self.misses = 0
        self.last = now
        self.proven = now
        """When the subject itself was last heard, not somebody else of it."""
        self.due = due
        self.began = now
        """When the present run of misses began."""
        self.until = until
        """A watch we keep for a special reason ends here; a regular one ends when the subject has other monitors."""
        self.lateness = HeartbeatJitter()
        self.refused = NEVER
        """When the latest ping that was refused had been sent: what was said before it is no sign of life."""


class FailureDetector:
    """Sends our heartbeats, expects those of our subjects, and judges what does not come."""

    def __init__(
        self,
        state: NodeState,
        votes: VoteBook,
        spread: Broadcast,
        eviction: Eviction,
        isolation: PartitionGuard,
        pings: Probes,
    ) -> None:
        self._state = state
        self._votes = votes
        self._broadcast = spread
        self._eviction = eviction
        self._partition_guard = isolation
        self._probes = pings
        self._period, self._grace = state.settings.period, state.settings.grace
        self._next_beat = state.now + state.rng.random() * self._period
        self._judged = False
        """Whether somebody was missed or verified in this step: others' deadlines may have come nearer."""
        self._leeway = 0.0
        self._saved = 0.0
        """Seconds by which our next heartbeat may leave before it is due."""
        self._next_probe = state.now + state.rng.random() * state.settings.slow_probe
        self._probe: tuple[MemberId, float, int] | None = None
        self._probe_order: list[MemberId] = []
        self._monitors: list[MemberState] = []
        self._unaware: list[MemberId] = []
        """Subjects that send us no heartbeats, since they cannot know that we watch them: we ping them instead."""
        self._deaf: dict[MemberId, None] = {}
        self.monitored: dict[MemberId, MonitorState] = {}
        self._waited, self._waited_at = 0.0, state.now
        """How long heartbeats lately lay unread in our own socket: a maximum that fades, and as of when."""
        self._next_due = math.inf
        self.reassignment_due = True
        """Whether the table has changed since subjects and monitors were last computed."""

    @property
    def deadline(self) -> float:
        """Of heartbeats, misses, and what becomes of a probe; the next one goes with a heartbeat."""
        due = self._next_beat if self._next_beat < self._next_due else self._next_due
        return self._probe[1] if self._probe is not None and self._probe[1] < due else due

    # --- each step

    def tick(self) -> bool:
        """Do what is due: heartbeats first, so that nobody misses us while we judge others. True if no more was done
        than to say that we live."""
        state = self._state
        self._judged = False
        if state.now >= self._next_beat:
            self._beat()
        if state.now >= self._next_due:
            for watch in list(self.monitored.values()):
                if state.now >= watch.until:
                    del self.monitored[watch.member_id]
                    self.reassignment_due = True
                elif state.now >= watch.due:
                    self._miss(watch)
            self._rearm()
        if self._probe is not None:
            self._continue_probe(self._probe)
        elif state.now >= self._next_probe:
            self._start_probe()
        return not self._judged

    def reassign_monitors(self) -> None:
        """Compute anew whom we watch and who watches us. A subject taken over starts at zero, with a ping."""
        state, table = self._state, self._state.table
        self.reassignment_due = False
        monitors = dict.fromkeys(state.voter_eligibility.monitors_of(state.me.member_id))
        monitors.update(dict.fromkeys(self._partition_guard.extra_heartbeat_targets(state.settings.monitors)))
        self._monitors = [row for member_id in monitors if (row := table.get(member_id))]
        if self._partition_guard.outbound_cut:  # who holds us dead sends us nothing
            self.monitored.clear()
            self._unaware = []
            self._rearm()
            return
        watched, self._unaware = state.voter_eligibility.subjects()
        subjects = dict.fromkeys(watched)
        if state.isolated and not self._partition_guard.may_evict_alone:
            subjects = dict.fromkeys(member_id for member_id in subjects if member_id in self.monitored)
        for member_id in list(self.monitored):
            row = table.get(member_id)
            watch = self.monitored[member_id]
            if row is None or not row.present:
                # Dead here, but others may wait for our vote: what has begun is seen to its end.
                if row is not None and watch.misses and self._eviction.others_need_our_vote(row):
                    watch.until = min(watch.until, state.now + 5 * self._period)
                else:
                    del self.monitored[member_id]
            elif member_id not in subjects and watch.until == math.inf:
                if watch.misses:  # whoever takes over starts at zero: what has begun is seen to its end
                    watch.until = state.now + 5 * self._period
                else:
                    del self.monitored[member_id]
        for member_id in subjects:
            if member_id not in self.monitored and (row := table.get(member_id)):
                self._watch(member_id)
                self._probes.ping(row)
        self._rearm()

    def restart(self) -> None:
        """After a pause of our own: every count is void and every deadline counts from now."""
        now = self._state.now
        for watch in self.monitored.values():
            watch.misses = 0
            watch.last = now
            watch.due = self._due_after(watch)
            watch.lateness = HeartbeatJitter()
        self._waited, self._waited_at = 0.0, now
        self._next_beat = now
        self._probe = None
        self._next_probe = now + self._state.rng.random() * self._state.settings.slow_probe
        self._rearm()

    # --- signs of life

    def on_heartbeat(self, sender: MemberState, heartbeat: Heartbeat) -> bool:
        """A heartbeat came; True if it is a sign of life, False if it is too old to be one."""
        self._fall_in(sender)
        if heartbeat.flags & DEAF:
            self._deaf[sender.member_id] = None
        elif self._deaf:
            self._deaf.pop(sender.member_id, None)
        watch = self.monitored.get(sender.member_id)
        now, at = self._state.now, self._state.arrived
        if at < now or self._waited:
            waited, faded = now - at, self._waited * WAITED_LEFT ** (now - self._waited_at)
            self._waited, self._waited_at = max(waited, faded), now
        if watch is not None:
            at -= watch.lateness.of(heartbeat.sent, at)
        if now - at > 4 * self._period:
            return False
        self.on_sign_of_life(sender.member_id, at)
        return True

    def on_sign_of_life(self, member_id: MemberId, at: float) -> None:
        """A sign of life as of ``at``: counts go to zero, our vote is withdrawn."""
        state = self._state
        if at > state.last_heard.get(member_id, NEVER):
            state.last_heard[member_id] = at
        if self._probe is not None and self._probe[0] == member_id and state.now - at < self._period:
            self._probe = None
        watch = self.monitored.get(member_id)
        if watch is not None:
            if at > watch.proven:
                watch.proven = at
            self._revive(watch, at)

    def on_indirect_ack(self, heard: IndirectAck) -> None:
        """A helper heard the subject itself, a little while ago.

        It is believed for five periods beyond what we heard ourselves, so that saying so keeps no dead member alive.
        """
        now = self._state.now
        if self._probe is not None and self._probe[0] == heard.subject:
            self._probe = None
        watch = self.monitored.get(heard.subject)
        if watch is None or now - watch.proven > HEARSAY_PERIODS * self._period:
            self._state.counters["hearsay_ignored"] += 1
        else:
            self._revive(watch, now - min(heard.age / 1000, 1e6))

    def _revive(self, watch: MonitorState, at: float) -> None:
        """A subject of ours was alive at that time: its misses are void, and our vote."""
        if at < watch.last or at < watch.refused:
            return
        state = self._state
        if watch.misses:
            if watch.misses >= state.settings.misses:
                self._votes.withdraw_own(watch.member_id)
            watch.misses = 0
            self._partition_guard.clear_loss(watch.member_id)
        was_next = watch.due <= self._next_due
        watch.last = at
        due, soonest = self._due_after(watch), state.now + self._grace
        watch.due = due if due > soonest else soonest
        if was_next:
            self._rearm()

    def on_address_reused(self, member_id: MemberId) -> None:
        """The address of a member is inhabited by somebody else: each ping so answered is a miss.

        The first such answer only starts the verification; misses are counted for pings sent because of it.
        """
        watch = self.monitored.get(member_id)
        row = self._state.table.get(member_id)
        if watch is None or row is None:
            return
        if self._probes.cancel_direct_ping(member_id):
            self._miss(watch)
            self._rearm()
        else:
            self.verify(row)

    def on_ping_refused(self, row: MemberState, sent: float) -> None:
        """A ping of ours, sent at ``sent``, met a kernel without the member's process: a miss (see icmp_evidence.py).

        It shows that our own network works, so we may judge. Whether by then enough votes are there or not, the member
        is told what is thought of it.
        """
        state = self._state
        self.monitor_for(row, 5 * self._period)
        watch = self.monitored[row.member_id]
        watch.refused = sent
        watch.misses += 1
        if watch.misses == 1:
            watch.began = state.now
        watch.due = state.now + self._period
        if watch.misses >= state.settings.misses and not self._eviction.try_evict(row.member_id):
            self._eviction.suspect(row, quietly=True)  # the second vote is milliseconds away
            self._eviction.vote(state.table.get(row.member_id) or row)
            self._probes.ping(state.table.get(row.member_id) or row)
        self._rearm()

    def is_monitor_or_subject(self, member_id: MemberId) -> bool:
        """Whether we watch a member, or it watches us: where its kernel refuses, we are among the first to know."""
        return member_id in self.monitored or any(row.member_id == member_id for row in self._monitors)

    def ping_if_monitored(self, row: MemberState) -> None:
        """Something casts doubt on a member: if we are its monitor, ping it now."""
        if row.member_id in self.monitored:
            self._probes.ping(row)

    def monitor_for(self, row: MemberState, seconds: float) -> None:
        """Monitor a member for a while, whoever its regular monitors are."""
        watch = self.monitored.get(row.member_id)
        if watch is None:
            self._watch(row.member_id, until=self._state.now + seconds)
            self._rearm()

    def _verify_unconfirmed_deaths(self) -> None:
        """Look for ourselves at deaths that came without valid votes and were not refuted."""
        if not self._eviction.has_unconfirmed_deaths or self._partition_guard.abstains:
            return
        special = sum(1 for watch in self.monitored.values() if watch.until < math.inf)
        for row in self._eviction.take_unconfirmed_deaths(MAX_VERIFYING - special):
            self.monitor_for(row, 10 * self._period)
            self.verify(row)

    # --- misses

    def _miss(self, watch: MonitorState) -> None:
        self._judged = True
        state = self._state
        row = state.table.get(watch.member_id)
        if row is None:
            return
        watch.misses += 1
        if watch.misses == 1:
            watch.began = state.now
        watch.due = state.now + self._until_next_miss(watch)
        if row.present:
            if watch.misses >= 2:
                self._eviction.suspect(row)
            row = state.table.get(watch.member_id) or row
            if watch.misses <= FULL_EFFORT:
                self.verify(row)
            elif watch.misses % FULL_EFFORT == 0:
                self._probes.ping(row)
        if watch.misses >= state.settings.misses and self._may_judge(watch):
            self._eviction.vote(row)
            if not row.present:
                watch.until = state.now

    def _until_next_miss(self, watch: MonitorState) -> float:
        """An answer has a round trip's time to come. Once we vote, the next miss only renews the vote, in its life."""
        if watch.misses >= self._state.settings.misses:
            return self._period
        return min(max(self._period, self._probes.rtt(watch.member_id)), 3 * self._period)

    def _may_judge(self, watch: MonitorState) -> bool:
        """Whether the fault is likelier theirs than ours: we heard somebody since the misses began.

        Where nobody else is left to hear from, two more periods must do (Lifeguard's local health, as one rule).
        """
        if len(self._state.table.present_ids) <= 2 or self._state.last_heard_anyone >= watch.began:
            return True
        return watch.misses >= self._state.settings.misses + 2

    def verify(self, row: MemberState) -> None:
        """Ping a member directly and through three others; pings of our own stand in for helpers that are missing."""
        self._judged = True
        self._probes.ping(row)
        if self._state.cut_off:
            return
        helpers = self._helpers(row)
        for helper in helpers:
            self._probes.request_ping(helper, row)
        self._probes.repeat_ping(row.member_id, HELPERS - len(helpers))

    def _helpers(self, subject: MemberState) -> list[MemberState]:
        """Two of the subject's other monitors, who may have heard it, and others at random."""
        state, table = self._state, self._state.table
        monitors = state.voter_eligibility.monitors_of(subject.member_id)
        able = [h for h in monitors if h != state.me.member_id and h not in table.suspects and h not in self._deaf][:2]
        chosen = [row for member_id in able if (row := table.get(member_id))]
        return chosen + state.random_members(HELPERS - len(chosen), exclude=(subject.member_id, *able))

    # --- our own heartbeats

    def _fall_in(self, sender: MemberState) -> None:
        """Somebody's heartbeat came: ours leaves now, or half a period from now, if that is not too early."""
        early = self._next_beat - self._state.now
        if (sender.member_id[0] ^ self._state.me.member_id[0]) & 1:
            early -= self._period / 2
            if early < APART * self._period:
                return
        if 0 < early <= self._saved:
            self._saved -= early
            self._next_beat -= early
            self._leeway = LEEWAY * self._period

    def _beat(self) -> None:
        state = self._state
        self._next_beat += self._period + self._leeway
        self._leeway = 0.0
        self._saved = min(self._saved + SAVED_EACH * self._period, SAVED_MOST * self._period)
        if self._next_beat <= state.now:
            self._next_beat = state.now + self._period
        sent = int(state.now * 1000) % 2**32
        flags = DEAF if self._partition_guard.inbound_cut else 0
        beat = encode_message(Heartbeat(state.table.digest & 0xFFFFFFFF, sent, flags))
        for row in self._monitors:
            self._probes.send_with_piggyback(row, beat)
        self._probes.remeasure_rtt(self.monitored)
        for member_id in self._unaware:
            if (subject := state.table.get(member_id)) is not None:
                self._probes.ping(subject)
        if state.voter_eligibility.poll_changed():
            self.reassignment_due = True
        self._ping_one_suspect()
        self._verify_unconfirmed_deaths()
        self._ask_whether_we_are_heard()

    def _ask_whether_we_are_heard(self) -> None:
        """In doubt three are pinged each period; once we know, one, so that we notice when it is over."""
        isolation = self._partition_guard
        if isolation.outbound_cut or isolation.mute_detector.suspected:
            for row in self._state.random_members(1 if isolation.outbound_cut else HELPERS):
                self._probes.ping(row)

    def _ping_one_suspect(self) -> None:
        """No suspect for ever: one a period is pinged, the claim with it, so that it can refute."""
        suspects = self._state.table.suspects
        if suspects:
            member_id = next(iter(suspects))
            suspects[member_id] = suspects.pop(member_id)
            if row := self._state.table.get(member_id):
                self._probes.ping(row)

    # --- the slow probe

    def _start_probe(self) -> None:
        state = self._state
        self._next_probe = state.now + state.settings.slow_probe * (0.9 + 0.2 * state.rng.random())
        if not self._probe_order:
            self._probe_order = [member_id for member_id in state.table.present_ids if member_id != state.me.member_id]
            state.rng.shuffle(self._probe_order)
        while self._probe_order:
            row = state.table.get(self._probe_order.pop())
            if row is not None and row.present:
                if self._partition_guard.unheard_too_long(row.member_id):
                    self._eviction.suspect(row, quietly=True)
                self._probes.ping(row)
                self._probe = (row.member_id, state.now + self._period, 0)
                return

    def _continue_probe(self, probe: tuple[MemberId, float, int]) -> None:
        state = self._state
        member_id, due, stage = probe
        row = state.table.get(member_id)
        if row is None or not row.present or state.heard_within(member_id, (stage + 1) * self._period + self._grace):
            self._probe = None
        elif state.now >= due and stage == 0:
            for helper in () if state.cut_off else self._helpers(row):
                self._probes.request_ping(helper, row)
            self._probe = (member_id, state.now + self._period, 1)
        elif state.now >= due:
            self._probe = None
            if not self._partition_guard.abstains:
                self.monitor_for(row, 5 * self._period)

    # --- bookkeeping

    def _watch(self, member_id: MemberId, until: float = math.inf) -> None:
        now = self._state.now
        watch = MonitorState(member_id, now, now + self._period + self._grace, until)
        self.monitored[member_id] = watch

    def _due_after(self, watch: MonitorState) -> float:
        worst, waited, grace, longest = watch.lateness.worst, self._waited, self._grace, 2 * self._period
        wide = OVER_WORST * (worst if worst > waited else waited) + BEYOND_WORST * grace
        if wide > grace:
            grace = wide if wide < longest else longest
        return watch.last + self._period + grace

    def _rearm(self) -> None:
        next_due = math.inf
        for watch in self.monitored.values():
            if watch.due < next_due:
                next_due = watch.due
            if watch.until < next_due:
                next_due = watch.until
        self._next_due = next_due
