"""Safety: what may never happen, whatever the network does.

Invariants of rows are checked at each change of a row in any table, against the ground truth
(:mod:`rumormill.simulations.ground_truth`). Invariants of whole tables are checked each virtual second.

==========================  =========================================================================================
row-order                   within a slot, rows only move forward: generation, instance, incarnation never fall
liveness-order              at one incarnation liveness only gets worse, except when a member withdraws its suspicion
own-incarnation             no row has an incarnation that its subject has not reached
known-instance              every instance in a table was started in this pool
no-resurrection             a dead member returns only at a higher incarnation; a member that left never returns
own-row                     a running member never holds itself suspect or dead
digest-stability            suspicion, and its end, never change the digest
evidence                    an eviction needs two fresh votes of members with three real misses, by silence or refusal.
                            The observer's own such vote suffices if the death was claimed before, if another process
                            really holds the subject's name, if the pool has no other member, or if the subject's
                            kernel refused three times and no other member is unsuspected
recently-heard              no member evicts one it heard within period and grace, except after three refusals
false-eviction              no healthy member is evicted by an observer that, like all others, could reach it throughout
mass-eviction               no member evicts more than half of a pool of four or more within three periods, unless it is
                            alone; its own earlier process and members whose kernel refused three times do not count
departure                   no member that leaves is held dead by one that could hear its announcement
policy-order                policies only move forward: by counter, then writer, then content
policies                    members with equal digests hold equal policies
policy-writer               the first holder of a policy is its writer
load-origin                 every load that a member holds of another was stated by that very instance
bounds                      datagrams, tables and outboxes stay within their limits
bookkeeping                 digest, buckets, order and suspects match the rows and policies
==========================  =========================================================================================
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from rumormill.gossip import Node, ProtocolSettings
from rumormill.membership import Liveness, MemberChange, MemberTable
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import InstanceId, MemberId
from rumormill.membership.view import Connectivity
from rumormill.simulations.ground_truth import GroundTruth
from rumormill.simulations.scheduler import microseconds


class InvariantViolation(AssertionError):
    """A violated invariant. ``invariant`` is its name."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


class ObservedHost(Protocol):
    """What the invariants need to know of the machine of a process. The simulation knows all of it."""

    key: str
    node: Any
    leaving: bool
    left_at: int
    was_impaired: bool
    clock_jumped: bool


@dataclass(slots=True)
class ObservedProcess:
    """One process, as seen from outside."""

    host: ObservedHost
    node: Node
    started_at: int
    incarnations: dict[InstanceId, tuple[int, int]] = field(default_factory=dict)
    """The newest generation and incarnation that it gave itself, by its own instances."""
    tombstones: dict[InstanceId, tuple[MemberState, float]] = field(default_factory=dict)
    """By instance: the last row it held dead or left, and when, by its own clock, that tombstone expires.

    An entry stays until a newer row replaces it, even if the member has forgotten it."""
    evicted: deque[int] = field(default_factory=deque)
    """Times of its recent evictions, in microseconds."""
    replaced: bool = False
    """Whether another process has run at its address since. Others may have heard of that one."""

    def newest_version(self, instance: InstanceId) -> tuple[int, int]:
        """The newest generation and incarnation that it gave itself under an instance."""
        me = self.node.inspect().me
        present = (me.generation, me.incarnation) if me.instance == instance else (0, 0)
        return max(present, self.incarnations[instance])

    @property
    def runs(self) -> bool:
        return self.host.node is self.node

    @property
    def leaving(self) -> bool:
        return self.host.leaving and self.host.node in (self.node, None)

    @property
    def healthy(self) -> bool:
        """Whether it runs, was never impaired, and does not leave."""
        return self.runs and not self.host.was_impaired and not self.host.leaving


class ProcessRegistry:
    """Every process ever started, by its instances."""

    def __init__(self) -> None:
        self.latest: dict[str, ObservedProcess] = {}
        """The latest process on each host, by key."""
        self.concluded: dict[InstanceId, int] = {}
        """By instance: the highest incarnation at which any member concluded its death. Lower ones are dead as well."""
        self._by_instance: dict[InstanceId, ObservedProcess] = {}
        self._by_id: dict[bytes, ObservedProcess] = {}

    def own_row_changed(self, process: ObservedProcess, row: MemberState) -> None:
        """A process changed its own row."""
        process.incarnations[row.instance] = (row.generation, row.incarnation)
        self._by_instance[row.instance] = self._by_id[row.member_id] = process

    def by_instance(self, instance: InstanceId) -> ObservedProcess | None:
        return self._by_instance.get(instance)

    def by_member_id(self, member_id: MemberId) -> ObservedProcess | None:
        return self._by_id.get(member_id)

    def is_superseded(self, process: ObservedProcess) -> bool:
        """Whether a later process runs, or ran, on its host."""
        return self.latest.get(process.host.key) is not process


class MemberInvariants:
    """Invariants of a single change in one member's table."""

    def __init__(self, registry: ProcessRegistry, ground_truth: GroundTruth, settings: ProtocolSettings) -> None:
        self._registry = registry
        self._ground_truth = ground_truth
        period = microseconds(settings.period)
        tolerance = period // 20
        """Allows for clock drift and rounding."""
        self._fresh = period + microseconds(settings.grace) - tolerance
        self._voting = 6 * period
        """A vote is valid for two periods. An eviction may be deferred for three. Its claim takes time to spread."""
        self._settled = 20 * period
        self._at_once = 3 * period
        self._tombstone_life = settings.tombstone_life

    def check(self, process: ObservedProcess, change: MemberChange, now: int) -> None:
        """Raises :class:`InvariantViolation`."""
        before, after = change.before, change.after
        if after is None:
            return
        subject = self._check_instance(process, after)
        self._check_own_row(process, after)
        if before is not None:
            _check_order(process, before, after)
        self._check_tombstone(process, after)
        if before is None:
            return
        if before.present and after.liveness is Liveness.DEAD and before.instance == after.instance:
            self._check_eviction(process, subject, after, now)

    def check_withdrawal(self, process: ObservedProcess, change: MemberChange) -> None:
        """A member withdrew a suspicion without a refutation. It may withdraw nothing else."""
        before, after = change.before, change.after
        suspicion = before is not None and before.liveness is Liveness.SUSPECT
        if before is None or not suspicion or before.with_liveness(Liveness.ALIVE) != after:
            raise InvariantViolation(
                "liveness-order", f"{process.host.key} withdrew more than a suspicion: {describe_row(before)}"
            )

    def _check_instance(self, process: ObservedProcess, after: MemberState) -> ObservedProcess:
        subject = self._registry.by_instance(after.instance)
        if subject is None:
            raise InvariantViolation(
                "known-instance", f"{process.host.key} holds {describe_row(after)}, which was never started"
            )
        reached = subject.newest_version(after.instance)
        if subject is not process and (after.generation, after.incarnation) > reached:
            raise InvariantViolation(
                "own-incarnation", f"{process.host.key} holds {describe_row(after)}, which has only reached {reached}"
            )
        return subject

    def _check_own_row(self, process: ObservedProcess, after: MemberState) -> None:
        if after.instance in process.incarnations and after.liveness is not Liveness.ALIVE and not process.leaving:
            raise InvariantViolation("own-row", f"{process.host.key} holds itself {after.liveness.word}")

    def _check_tombstone(self, process: ObservedProcess, after: MemberState) -> None:
        """A tombstone that is dropped too soon readmits the dead.

        A later process under the name may replace a tombstone. A table holds two processes per name; the pending one
        stays only while it is the later one.
        """
        inspection = process.node.inspect()
        others = [
            row for row, _ in process.tombstones.values() if row.name == after.name and row.instance != after.instance
        ]
        for row in others:
            if row.succession < after.succession and (row.pending or not after.pending):
                del process.tombstones[row.instance]
        if not after.present:
            expiry = inspection.dead_since(after.member_id) + self._tombstone_life
            process.tombstones[after.instance] = (after, expiry)
            return
        tombstone, until = process.tombstones.pop(after.instance, (None, 0.0))
        if tombstone is None or inspection.now >= until:
            return
        later = (after.generation, after.incarnation) > (tombstone.generation, tombstone.incarnation)
        if tombstone.liveness is Liveness.LEFT or not later:
            raise InvariantViolation(
                "no-resurrection", f"{process.host.key} took {describe_row(after)} as new despite its tombstone"
            )

    def _check_eviction(self, process: ObservedProcess, subject: ObservedProcess, after: MemberState, now: int) -> None:
        observer = process.host.key
        reachable = subject.host.key != observer and self._reachable(process, subject, now)
        if subject.leaving:
            there = process.healthy and process.started_at < subject.host.left_at
            if there and reachable and self._left_gracefully(subject):
                raise InvariantViolation("departure", f"{observer} evicted {describe_row(after)}, which had left")
            return
        if not subject.replaced:  # answers of a new process at its address count as misses too, and come faster
            self._check_recently_heard(process, after, now)
            self._check_evidence(process, subject, after, now)
            if subject.host.key != observer:
                self._check_mass_eviction(process, after, now)
        concluded = self._registry.concluded
        concluded[after.instance] = max(after.incarnation, concluded.get(after.instance, 0))
        if subject.healthy and reachable:
            raise InvariantViolation(
                "false-eviction", f"{observer} evicted {describe_row(after)}, which is healthy and was reachable"
            )

    def _left_gracefully(self, subject: ObservedProcess) -> bool:
        """Whether a leaving member was known to all members and could announce that it leaves."""
        return (
            subject.node.has_left
            and not subject.host.was_impaired
            and subject.host.left_at - subject.started_at > self._settled
        )

    def _check_recently_heard(self, process: ObservedProcess, after: MemberState, now: int) -> None:
        observer = process.host.key
        last = self._ground_truth.last_sign(observer, after.member_id)
        if self._ground_truth.was_refused(observer, after.member_id):
            return
        if last is not None and not process.host.clock_jumped and now - last < self._fresh:
            raise InvariantViolation(
                "recently-heard", f"{observer} evicted {describe_row(after)}, heard {now - last} µs ago"
            )

    def _check_evidence(self, process: ObservedProcess, subject: ObservedProcess, after: MemberState, now: int) -> None:
        observer = process.host.key
        voters = self._valid_voters(process, after, now)
        if len(voters) >= 2:
            return
        known = after.incarnation <= self._registry.concluded.get(after.instance, -1)
        superseded = self._registry.is_superseded(subject) or self._has_conflicting_process(process, after)
        refused = self._ground_truth.was_refused(observer, after.member_id) and _no_other_voter(process.node, after)
        if observer in voters and (known or superseded or refused or _single_vote_suffices(process.node, after)):
            return
        raise InvariantViolation(
            "evidence", f"{observer} evicted {describe_row(after)} on valid votes of {voters or 'nobody'}"
        )

    def _has_conflicting_process(self, process: ObservedProcess, after: MemberState) -> bool:
        """Whether another member holds a different process under this name, and so cannot vote on this one.

        It holds either an earlier process, which still runs and keeps this one pending, or a later one, which has
        really ended. Showing its row counts as its vote (docs/understand/protocol.md). Two processes of one generation
        are ordered by instance, not by time.
        """
        for other in self._registry.latest.values():
            row = node_table(other.node).settled.get(after.name)
            if other is process or not other.runs or row is None or row.instance == after.instance:
                continue
            holder = self._registry.by_instance(row.instance)
            earlier_and_runs = row.present and row.succession < after.succession and holder is not None and holder.runs
            later_and_over = (
                not row.present and row.succession > after.succession and holder is not None and not holder.runs
            )
            if earlier_and_runs or later_and_over:
                return True
        return False

    def _check_mass_eviction(self, process: ObservedProcess, after: MemberState, now: int) -> None:
        refused = self._ground_truth.was_refused(process.host.key, after.member_id)
        if process.node.inspect().may_evict_alone or refused:
            return
        evicted = process.evicted
        evicted.append(now)
        while evicted[0] < now - self._at_once:
            evicted.popleft()
        pool = len(node_table(process.node).present_ids) + len(evicted)
        if pool >= 4 and 2 * len(evicted) > pool:
            raise InvariantViolation(
                "mass-eviction", f"{process.host.key} evicted {len(evicted)} of {pool}, {describe_row(after)} last"
            )

    def _valid_voters(self, process: ObservedProcess, after: MemberState, now: int) -> list[str]:
        """The voters whose fresh votes the observer holds and to whom the subject really was silent."""
        node = process.node
        found = []
        for vote in node.inspect().votes_on(after.member_id):
            voter = self._registry.by_member_id(vote.voter)
            age = microseconds(node.inspect().now - vote.cast)
            if voter is None or vote.incarnation != after.incarnation or age > self._voting:
                continue
            misled = voter.host.clock_jumped  # by less than a period, which is undetectable
            gone = self._registry.is_superseded(voter)  # what it heard is lost
            if misled or gone or self._ground_truth.was_silent(voter.host.key, after.member_id, now, self._voting):
                found.append(voter.host.key)
        return found

    def _reachable(self, process: ObservedProcess, subject: ObservedProcess, now: int) -> bool:
        everyone = self._registry.latest
        since = max(now - 30 * self._settled, subject.started_at)
        return self._ground_truth.continuously_reachable(
            subject.host.key, process.host.key, everyone, since, self._settled
        )


def _check_order(process: ObservedProcess, before: MemberState, after: MemberState) -> None:
    key = process.host.key
    if (after.generation, after.instance, after.incarnation) < (before.generation, before.instance, before.incarnation):
        raise InvariantViolation("row-order", f"{key} moved back from {describe_row(before)} to {describe_row(after)}")
    if before.instance != after.instance:
        return
    if before.liveness is Liveness.LEFT and after.liveness is not Liveness.LEFT:
        raise InvariantViolation("no-resurrection", f"{key} revived {describe_row(after)}, which had left")
    if before.incarnation != after.incarnation:
        return
    if before.liveness is Liveness.DEAD and after.present:
        raise InvariantViolation("no-resurrection", f"{key} revived {describe_row(after)} without a refutation")
    if after.liveness < before.liveness:
        raise InvariantViolation("liveness-order", f"{key} went from {describe_row(before)} to {describe_row(after)}")


def _single_vote_suffices(node: Node, after: MemberState) -> bool:
    """Whether one vote suffices: in a pool of two, or for a member that is not connected."""
    table = node_table(node)
    present = [row for row in table if row.present and not row.pending and row.instance != after.instance]
    return len(present) <= 1 or not node.is_connected


def _no_other_voter(node: Node, after: MemberState) -> bool:
    """Whether no other member can second a vote: all others are suspected, or the observer is deaf."""
    table = node_table(node)
    others = [row for row in table if row.instance not in (after.instance, node.instance) and not row.pending]
    return node.connectivity is Connectivity.DEAF or all(row.liveness is not Liveness.ALIVE for row in others)


def node_table(node: Node) -> MemberTable:
    return node.inspect().table


def node_name(node: Node) -> str:
    return node.inspect().me.name


def describe_row(row: MemberState | None) -> str:
    if row is None:
        return "nobody"
    version = f"generation {row.generation}, {row.member_id.hex()}, incarnation {row.incarnation}"
    return f"{row.name} ({version}, {row.liveness.word})"
