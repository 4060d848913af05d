"""What may never happen, whatever the network does: the safety half of the contract.

The laws about rows are checked at each change of a row in anybody's table, against what the outside observer knows
(:mod:`rumormill.simulations.ground_truth`); those about whole tables each virtual second.

==========================  =========================================================================================
row-order                   within a slot, the account only moves on: generation, instance, incarnation never fall
verdict-order               at one incarnation a verdict only gets worse, but where one's own suspicion is withdrawn
own-incarnation             nobody holds a row at an incarnation its subject has not reached itself
born                        every instance in a table was once started in this pool
no-resurrection             what is dead comes back only at a higher incarnation; who left never does
own-row                     a running member never holds itself suspect or dead
digest-stands               suspicion, and its end, never move the digest
evidence                    no eviction but on two fresh votes of members who truly missed three times, by silence or
                            by refusal (or one's own such vote, where a death was claimed already, the subject's name
                            is truly held by another process elsewhere, nobody else is there, or the subject's kernel
                            truly refused thrice and nobody else is there who is not suspected)
recently-heard              nobody evicts whom it heard within period and grace, but who was truly refused thrice since
false-eviction              nobody healthy is evicted by anyone who, with everybody else, could hear it throughout
great-losses                nobody evicts more than half of a pool of four or more within three periods, but alone, and
                            not counting its own former life, nor those that truly refused thrice
departure                   a member that leaves is never held dead by one who could hear it say so
policy-order                a policy only moves on: by counter, then writer, then content
policies                    members with equal digests hold equal policies
policy-writer               the first to hold a policy is the member it says it was written at
bounds                      datagrams, tables and outboxes keep to their sizes
bookkeeping                 digest, buckets, order and suspects are what the rows and policies say
==========================  =========================================================================================
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rumormill.gossip import Node, ProtocolSettings
from rumormill.gossip.state import MAX_OUTBOX
from rumormill.gossip.wire import MAX_DATAGRAM
from rumormill.membership import Liveness, MemberChange, MemberTable
from rumormill.membership.member_state import MemberState
from rumormill.membership.policy import PolicyRecord, SignedPolicy
from rumormill.membership.record import InstanceId, MemberId
from rumormill.membership.table import sync_bucket
from rumormill.membership.view import Connectivity
from rumormill.simulations.ground_truth import GroundTruth
from rumormill.simulations.host import SimulatedHost
from rumormill.simulations.scheduler import microseconds


class InvariantViolation(AssertionError):
    """A law was broken. ``law`` is its name."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(f"{law}: {what}")
        self.law = law


@dataclass(slots=True)
class ProcessLife:
    """What the outside observer knows of one process."""

    host: SimulatedHost
    node: Node
    born: int
    incarnations: dict[InstanceId, tuple[int, int]] = field(default_factory=dict)
    """By instance it went by: the latest generation and incarnation it gave itself."""
    buried: dict[InstanceId, tuple[MemberState, float]] = field(default_factory=dict)
    """By instance: the last that it held dead or left, and has not heard of since, whether it remembers or not; and
    when, by its own clock, that has stood for as long as a tombstone does."""
    evicted: deque[int] = field(default_factory=deque)
    """When it evicted somebody, lately. Microseconds."""
    replaced: bool = False
    """Whether another process has lived at its address since: it told others so, whatever lives there now."""

    def reached(self, instance: InstanceId) -> tuple[int, int]:
        """The latest generation and incarnation it gave itself under an instance."""
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
        """It runs, was never frozen, slowed or given a strange clock, and does not leave."""
        return self.runs and not self.host.mistreated and not self.host.leaving


class ProcessRegistry:
    """Every process ever started, by the instances it went by."""

    def __init__(self) -> None:
        self.lives: dict[str, ProcessLife] = {}
        """The latest life on each host, by key."""
        self.concluded: dict[InstanceId, int] = {}
        """By instance, the latest incarnation at which anybody concluded its death: it is over at earlier ones, too."""
        self._by_instance: dict[InstanceId, ProcessLife] = {}
        self._by_id: dict[bytes, ProcessLife] = {}

    def rewritten(self, life: ProcessLife, row: MemberState) -> None:
        """A subject wrote its own row anew."""
        life.incarnations[row.instance] = (row.generation, row.incarnation)
        self._by_instance[row.instance] = self._by_id[row.member_id] = life

    def life_of(self, instance: InstanceId) -> ProcessLife | None:
        return self._by_instance.get(instance)

    def by_member_id(self, member_id: MemberId) -> ProcessLife | None:
        return self._by_id.get(member_id)


class MemberInvariants:
    """The laws about a single change in one member's table."""

    def __init__(self, registry: ProcessRegistry, evidence: GroundTruth, settings: ProtocolSettings) -> None:
        self._registry = registry
        self._evidence = evidence
        period = microseconds(settings.period)
        tolerance = period // 20
        """Clocks that drift, and rounding."""
        self._fresh = period + microseconds(settings.grace) - tolerance
        self._voting = 6 * period
        """A vote lives two periods, a death may be held for three, and news of it travels."""
        self._settled = 20 * period
        self._at_once = 3 * period
        self._tombstone_life = settings.tombstone_life

    def check(self, life: ProcessLife, change: MemberChange, now: int) -> None:
        """Raises :class:`InvariantViolation`."""
        before, after = change.before, change.after
        if after is None:
            return
        subject = self._origin(life, after)
        self._own_row(life, after)
        if before is not None:
            _order(life, before, after)
        self._buried(life, after)
        if before is None:
            return
        if before.present and after.liveness is Liveness.DEAD and before.instance == after.instance:
            self._eviction(life, subject, after, now)

    def withdrawn(self, life: ProcessLife, change: MemberChange) -> None:
        """A suspicion was taken back without the subject's word: it must have been no more than that."""
        before, after = change.before, change.after
        suspicion = before is not None and before.liveness is Liveness.SUSPECT
        if before is None or not suspicion or before.with_liveness(Liveness.ALIVE) != after:
            raise InvariantViolation(
                "verdict-order", f"{life.host.key} withdrew more than a suspicion: {_tell(before)}"
            )

    def _origin(self, life: ProcessLife, after: MemberState) -> ProcessLife:
        subject = self._registry.life_of(after.instance)
        if subject is None:
            raise InvariantViolation("born", f"{life.host.key} holds {_tell(after)}, which nobody ever was")
        reached = subject.reached(after.instance)
        if subject is not life and (after.generation, after.incarnation) > reached:
            raise InvariantViolation(
                "own-incarnation", f"{life.host.key} holds {_tell(after)}, who is at {reached} itself"
            )
        return subject

    def _own_row(self, life: ProcessLife, after: MemberState) -> None:
        if after.instance in life.incarnations and after.liveness is not Liveness.ALIVE and not life.leaving:
            raise InvariantViolation("own-row", f"{life.host.key} holds itself {after.liveness.word}")

    def _buried(self, life: ProcessLife, after: MemberState) -> None:
        """A tombstone that was dropped too soon lets in what it was there to keep out. A later life of the name may
        take its place: of each name two lives are held, and one that waits only while it is the later."""
        inside = life.node.inspect()
        others = [row for row, _ in life.buried.values() if row.name == after.name and row.instance != after.instance]
        for row in others:
            if row.life < after.life and (row.pending or not after.pending):
                del life.buried[row.instance]
        if not after.present:
            life.buried[after.instance] = (after, inside.dead_since(after.member_id) + self._tombstone_life)
            return
        tombstone, until = life.buried.pop(after.instance, (None, 0.0))
        if tombstone is None or inside.now >= until:
            return
        later = (after.generation, after.incarnation) > (tombstone.generation, tombstone.incarnation)
        if tombstone.liveness is Liveness.LEFT or not later:
            raise InvariantViolation(
                "no-resurrection", f"{life.host.key} took {_tell(after)} for new, whom it had buried"
            )

    def _eviction(self, life: ProcessLife, subject: ProcessLife, after: MemberState, now: int) -> None:
        observer = life.host.key
        reachable = subject.host.key != observer and self._reachable(life, subject, now)
        if subject.leaving:
            there = life.healthy and life.born < subject.host.left_at
            if there and reachable and self._was_settled(subject):
                raise InvariantViolation("departure", f"{observer} evicted {_tell(after)}, who left in an orderly way")
            return
        if not subject.replaced:  # where another lives at its address, who-answers are misses too, and come faster
            self._recently_heard(life, after, now)
            self._enough_evidence(life, subject, after, now)
            if subject.host.key != observer:
                self._few_at_once(life, after, now)
        concluded = self._registry.concluded
        concluded[after.instance] = max(after.incarnation, concluded.get(after.instance, 0))
        if subject.healthy and reachable:
            raise InvariantViolation(
                "false-eviction", f"{observer} evicted {_tell(after)}, who is well and was in reach"
            )

    def _was_settled(self, subject: ProcessLife) -> bool:
        """Whether a leaver had been a member for long enough that everyone knew it, and was let say that it leaves."""
        return (
            subject.node.has_left
            and not subject.host.mistreated
            and subject.host.left_at - subject.born > self._settled
        )

    def _recently_heard(self, life: ProcessLife, after: MemberState, now: int) -> None:
        observer = life.host.key
        last = self._evidence.last_sign(observer, after.member_id)
        if self._evidence.was_refused(observer, after.member_id):
            return
        if last is not None and not life.host.clock_jumped and now - last < self._fresh:
            raise InvariantViolation("recently-heard", f"{observer} evicted {_tell(after)}, heard {now - last} µs ago")

    def _enough_evidence(self, life: ProcessLife, subject: ProcessLife, after: MemberState, now: int) -> None:
        observer = life.host.key
        voters = self._true_voters(life, after, now)
        if len(voters) >= 2:
            return
        known = after.incarnation <= self._registry.concluded.get(after.instance, -1)
        superseded = self._registry.lives.get(subject.host.key) is not subject or self._outlived(life, after)
        refused = self._evidence.was_refused(observer, after.member_id) and _nobody_to_second(life.node, after)
        if observer in voters and (known or superseded or refused or _alone(life.node, after)):
            return
        raise InvariantViolation("evidence", f"{observer} evicted {_tell(after)} on true votes of {voters or 'nobody'}")

    def _outlived(self, life: ProcessLife, after: MemberState) -> bool:
        """Whether another member cannot vote on this life of a name, since it holds another: an earlier one, whose
        process runs and beside which it keeps this one waiting; or a later one that is truly over. To show what it
        holds is its vote (docs/understand/protocol.md). Of two lives of one generation the order need not be that
        of time."""
        for other in self._registry.lives.values():
            row = node_table(other.node).settled.get(after.name)
            if other is life or not other.runs or row is None or row.instance == after.instance:
                continue
            holder = self._registry.life_of(row.instance)
            earlier_and_runs = row.present and row.life < after.life and holder is not None and holder.runs
            later_and_over = not row.present and row.life > after.life and holder is not None and not holder.runs
            if earlier_and_runs or later_and_over:
                return True
        return False

    def _few_at_once(self, life: ProcessLife, after: MemberState, now: int) -> None:
        if life.node.inspect().may_evict_alone or self._evidence.was_refused(life.host.key, after.member_id):
            return
        evicted = life.evicted
        evicted.append(now)
        while evicted[0] < now - self._at_once:
            evicted.popleft()
        pool = len(node_table(life.node).present_ids) + len(evicted)
        if pool >= 4 and 2 * len(evicted) > pool:
            raise InvariantViolation(
                "great-losses", f"{life.host.key} evicted {len(evicted)} of {pool}, {_tell(after)} last"
            )

    def _true_voters(self, life: ProcessLife, after: MemberState, now: int) -> list[str]:
        """Whose votes the observer holds, not too old, of those to whom the subject really was silent for so long."""
        node = life.node
        found = []
        for vote in node.inspect().votes_on(after.member_id):
            voter = self._registry.by_member_id(vote.voter)
            age = microseconds(node.inspect().now - vote.cast)
            if voter is None or vote.incarnation != after.incarnation or age > self._voting:
                continue
            misled = voter.host.clock_jumped  # by less than a period, which nobody can notice
            gone = self._registry.lives[voter.host.key] is not voter  # and what it heard with it
            if misled or gone or self._evidence.was_silent(voter.host.key, after.member_id, now, self._voting):
                found.append(voter.host.key)
        return found

    def _reachable(self, life: ProcessLife, subject: ProcessLife, now: int) -> bool:
        everyone = self._registry.lives
        since = max(now - 30 * self._settled, subject.born)
        return self._evidence.heard_throughout(subject.host.key, life.host.key, everyone, since, self._settled)


def _order(life: ProcessLife, before: MemberState, after: MemberState) -> None:
    key = life.host.key
    if (after.generation, after.instance, after.incarnation) < (before.generation, before.instance, before.incarnation):
        raise InvariantViolation("row-order", f"{key} went back from {_tell(before)} to {_tell(after)}")
    if before.instance != after.instance:
        return
    if before.liveness is Liveness.LEFT and after.liveness is not Liveness.LEFT:
        raise InvariantViolation("no-resurrection", f"{key} brought {_tell(after)} back, who had left")
    if before.incarnation != after.incarnation:
        return
    if before.liveness is Liveness.DEAD and after.present:
        raise InvariantViolation("no-resurrection", f"{key} brought {_tell(after)} back without its word")
    if after.liveness < before.liveness:
        raise InvariantViolation("verdict-order", f"{key} went from {_tell(before)} to {_tell(after)}")


def _alone(node: Node, after: MemberState) -> bool:
    """Whether one vote may do: a pool of two, or a member isolated long enough."""
    table = node_table(node)
    present = [row for row in table if row.present and not row.pending and row.instance != after.instance]
    return len(present) <= 1 or not node.is_connected


def _nobody_to_second(node: Node, after: MemberState) -> bool:
    """Whether all but one whose kernel refuses are suspected here, or nobody is heard."""
    table = node_table(node)
    others = [row for row in table if row.instance not in (after.instance, node.instance) and not row.pending]
    return node.connectivity is Connectivity.DEAF or all(row.liveness is not Liveness.ALIVE for row in others)


def check_digest(life: ProcessLife, change: MemberChange, before: int, after: int) -> None:
    """Suspicion never moves the digest."""
    old, new = change.before, change.after
    same = old is not None and new is not None and old.checksum == new.checksum and old.present and new.present
    if same and before != after:
        raise InvariantViolation(
            "digest-stands", f"{life.host.key} moved its digest by a mere suspicion of {_tell(new)}"
        )


class PolicyInvariants:
    """The laws about what operators say. Whether all come to hold the same is part of one view: of equal digests."""

    def __init__(self) -> None:
        self._written: set[int] = set()

    def check(self, life: ProcessLife, before: SignedPolicy | None, after: SignedPolicy) -> None:
        """A policy has taken the place of another, or of none. Raises :class:`InvariantViolation`."""
        new = after.record
        if after.checksum not in self._written:
            self._written.add(after.checksum)
            if new.writer != node_name(life.node):
                raise InvariantViolation(
                    "policy-writer", f"{life.host.key} holds {new}, which {new.writer} never wrote"
                )
        if before is None:
            return
        old = before.record
        if (new.counter, new.writer, after.checksum) < (old.counter, old.writer, before.checksum):
            raise InvariantViolation("policy-order", f"{life.host.key} went back from {old} to {new}")


def check_policies(nodes: list[Node]) -> None:
    """Equal digests, equal policies."""
    held: dict[int, list[PolicyRecord]] = {}
    for node in nodes:
        policies = list(node.view.policies)
        if held.setdefault(node.table_digest, policies) != policies:
            raise InvariantViolation(
                "policies", f"{node_name(node)} holds {policies}; {held[node.table_digest]} elsewhere"
            )


def check_datagram(host: SimulatedHost, data: bytes) -> None:
    if len(data) > MAX_DATAGRAM:
        raise InvariantViolation("bounds", f"{host.key} sent a datagram of {len(data)} bytes")


def check_node(life: ProcessLife, max_members: int) -> None:
    """Everything about one member that no single change shows."""
    node, table, key = life.node, node_table(life.node), life.host.key
    contested = (holder := table.settled.get(node_name(node))) is not None and holder.instance not in life.incarnations
    held = any(row.instance in life.incarnations for row in table)
    if node.stopped is None and not life.leaving and not held and not contested:
        raise InvariantViolation("own-row", f"{key} does not hold its own row")
    if len(table) > 2 * max_members:
        raise InvariantViolation("bounds", f"{key} holds {len(table)} rows")
    if node.counters["outbox_full"]:
        raise InvariantViolation("bounds", f"the outbox of {key} overflowed its {MAX_OUTBOX}")
    check_bookkeeping(key, table)


def check_bookkeeping(key: str, table: MemberTable) -> None:
    """Digest, buckets, order and suspects are what the rows say."""
    digest, buckets = 0, [0] * 256
    present = [row for row in table if row.present]
    for member_id, checksum in [(row.member_id, row.checksum) for row in present] + [
        (p.member_id, p.checksum) for p in table.policies
    ]:
        digest ^= checksum
        buckets[sync_bucket(member_id)] ^= checksum & 0xFFFFFFFF
    if digest != table.digest:
        raise InvariantViolation("bookkeeping", f"the digest of {key} is not that of its rows")
    if b"".join(part.to_bytes(4, "little") for part in buckets) != table.buckets():
        raise InvariantViolation("bookkeeping", f"the buckets of {key} are not those of its rows")
    if sorted(row.member_id for row in present) != table.present_ids:
        raise InvariantViolation("bookkeeping", f"the order of {key} is not that of its rows")
    if {row.member_id for row in present if row.liveness is Liveness.SUSPECT} != set(table.suspects):
        raise InvariantViolation("bookkeeping", f"the suspects of {key} are not those of its rows")


def node_table(node: Node) -> MemberTable:
    return node.inspect().table


def node_name(node: Node) -> str:
    return node.inspect().me.name


def _tell(row: MemberState | None) -> str:
    if row is None:
        return "nobody"
    return (
        f"{row.name} (life {row.generation}, {row.member_id.hex()}, incarnation {row.incarnation}, {row.liveness.word})"
    )
