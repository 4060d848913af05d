"""The judge: holds every member of a world to the laws, after each datagram and each virtual second.

    world = World(seed=7)
    judge = Judge(world)
    ...
    judge.calm()        # and now that nothing disturbs them, they must come to one view in time

It stands outside: it sees what leaves and what is taken in, and is told of each change of a row by the table itself. A
law that is broken raises :class:`~rumormill.simulations.invariants.InvariantViolation` out of ``world.run``, with the
seed and the last things anybody concluded.
"""

from __future__ import annotations

from collections.abc import Callable

from rumormill.gossip import Node, ProtocolSettings
from rumormill.membership import Address, MemberChange
from rumormill.membership.member_state import MemberState
from rumormill.membership.policy import SignedPolicy
from rumormill.membership.record import MemberId
from rumormill.simulations.factories import CLUSTER
from rumormill.simulations.ground_truth import GroundTruth, sender_id
from rumormill.simulations.host import SimulatedHost
from rumormill.simulations.invariants import (
    InvariantViolation,
    MemberInvariants,
    PolicyInvariants,
    ProcessLife,
    ProcessRegistry,
    check_datagram,
    check_digest,
    check_node,
    check_policies,
    node_table,
)
from rumormill.simulations.liveness_bounds import LivenessBounds
from rumormill.simulations.routing_invariants import RoutingInvariants
from rumormill.simulations.scheduler import SECOND, microseconds
from rumormill.simulations.world import World


class InvariantChecker:
    """Watches one world of real Nodes from its beginning. ``settings`` are those its members run with.

    Nodes of another ``cluster`` are strangers: the laws are not about them, and nobody may ever hold their rows.
    """

    def __init__(self, world: World, settings: ProtocolSettings | None = None, cluster: str = CLUSTER) -> None:
        self._world = world
        self._cluster = cluster
        self._settings = settings or ProtocolSettings()
        silence = self._settings.misses * microseconds(self._settings.period)
        self._evidence = GroundTruth(silence - silence // 20)
        self._registry = ProcessRegistry()
        self._rows = MemberInvariants(self._registry, self._evidence, self._settings)
        self._policy_replication = PolicyInvariants()
        self._routing = RoutingInvariants()
        world.on_birth.append(self._born)
        world.network.on_send = self._sent
        world.network.on_faults = self._faults_changed
        world.scheduler.push(SECOND, self._each_second)

    def check_all(self) -> None:
        """Everything that is not seen at a single change. Raises :class:`InvariantViolation`."""
        running = [life for life in self._registry.lives.values() if life.runs]
        for life in running:
            check_node(life, self._settings.max_members)
        awake = [life for life in running if not life.host.frozen]
        self._routing.check({life.host.key: life.node.view for life in awake})
        check_policies([life.node for life in awake])

    def disturbances(self) -> str:
        """What still stands in the way of one view, in words; empty if all was put right."""
        faults = [str(fault.trouble) for fault in self._world.network.faults]
        hosts = [
            f"{key} is {host.hindrance}" for key, host in self._world.hosts.items() if host.node and host.hindrance
        ]
        return ", ".join(([f"there still is trouble ({'; '.join(faults)})"] if faults else []) + hosts)

    def calm(self) -> float:
        """Leave the world alone until all who run hold one view; returns the seconds it took.

        Faults and hindrances are the caller's to end. Raises :class:`InvariantViolation` ("one-view") where it takes
        longer than the settings allow.
        """
        world = self._world
        bound = LivenessBounds(self._settings, len(world.running()), len(world.hosts)).one_view
        took = world.run_until(world.one_view, within=bound, every=0.1)
        if took is None:
            raise self._with_context(
                InvariantViolation("one-view", f"after {bound:.1f} calm seconds: {self._differences()}")
            )
        return took

    def _differences(self) -> str:
        world = self._world
        running = sorted(world.name_of(key) for key in world.running())
        lines = []
        for key, view in world.views().items():
            odd = [
                f"{m.name} {m.liveness.word}{' pending' if m.pending else ''} life {m.generation} inc {m.incarnation}"
                for m in view.members
                if (m.name in running) != (m.liveness == 0) or m.pending
            ]
            missing = [name for name in running if name not in {m.name for m in view.members}]
            lines.append(f"{key}: {', '.join(odd) or '-'}" + (f"; lacks {', '.join(missing)}" if missing else ""))
        stopped = [f"{key} stopped" for key, host in world.hosts.items() if host.node is None]
        return "\n".join(["", f"running: {', '.join(running)}", *lines, *stopped])

    # -- What the world tells

    def _born(self, host: SimulatedHost) -> None:
        node = host.node
        if not isinstance(node, Node):
            raise TypeError(f"the laws are about Node, not {type(node).__name__}")
        if node.inspect().cluster != self._cluster:
            return
        life = ProcessLife(host, node, self._world.scheduler.now)
        before = self._registry.lives.get(host.key)
        if before is not None and before.host is host:
            before.replaced = True
        self._registry.lives[host.key] = life
        self._registry.rewritten(life, node.inspect().me)
        self._evidence.born(host, self._world.scheduler.now)
        self._routing.born(host.key)
        host.tap = self._taken_in
        host.refusal_tap = self._refused
        self._witness(life)

    def _witness(self, life: ProcessLife) -> None:
        """Be told of each change in a member's table, by standing before the methods that make them."""
        table = node_table(life.node)
        apply, withdraw, apply_policy = table.apply, table.withdraw_suspicion, table.apply_policy

        def watched_apply(row: MemberState) -> MemberChange | None:
            return self._changed(life, lambda: apply(row))

        def watched_withdraw(member_id: MemberId) -> MemberChange | None:
            change = withdraw(member_id)
            if change is not None:
                self._raising(lambda: self._rows.withdrawn(life, change))
            return change

        def watched_policy(policy: SignedPolicy) -> bool:
            before = table.policies.get(policy.member_id)
            changed = apply_policy(policy)
            after = table.policies.get(policy.member_id)
            if changed and after is not None:
                self._raising(lambda: self._policy_replication.check(life, before, after))
            return changed

        for name, method in (
            ("apply", watched_apply),
            ("withdraw_suspicion", watched_withdraw),
            ("apply_policy", watched_policy),
        ):
            setattr(table, name, method)

    def _changed(self, life: ProcessLife, apply: Callable[[], MemberChange | None]) -> MemberChange | None:
        table = node_table(life.node)
        digest = table.digest
        change = apply()
        if change is None:
            return None
        if change.after is life.node.inspect().me:
            self._registry.rewritten(life, change.after)
        self._raising(lambda: self._rows.check(life, change, self._world.scheduler.now))
        self._raising(lambda: check_digest(life, change, digest, table.digest))
        return change

    def _sent(self, host: SimulatedHost, to: Address, data: bytes) -> None:
        del to
        self._raising(lambda: check_datagram(host, data))
        self._evidence.sent(self._world.scheduler.now, data)

    def _taken_in(self, host: SimulatedHost, data: bytes) -> None:
        """What overtook its sender's record cannot be opened, and is no sign of life of anybody."""
        node, sender = self._registry.lives[host.key].node, sender_id(data)
        if node.inspect().can_open(sender):
            self._evidence.taken_in(host.key, node.inspect().me.member_id, self._world.scheduler.now, data)

    def _refused(self, host: SimulatedHost, data: bytes) -> None:
        if isinstance(host.node, Node):
            self._evidence.refused(host.key, host.node.inspect().me.member_id, self._world.scheduler.now, data)

    def _faults_changed(self) -> None:
        self._evidence.faults_changed(self._world.scheduler.now, self._world.network.faults)

    def _each_second(self, _: None, __: None) -> None:
        self._raising(self.check_all)
        self._world.scheduler.push(self._world.scheduler.now + SECOND, self._each_second)

    def _raising(self, check: Callable[[], None]) -> None:
        try:
            check()
        except InvariantViolation as violation:
            raise self._with_context(violation) from None

    def _with_context(self, violation: InvariantViolation) -> InvariantViolation:
        world = self._world
        told = f"{violation}\nat {world.now:.6f} s of seed {world.seed}; concluded before:\n{world.history.tail()}"
        return InvariantViolation(violation.law, told.removeprefix(f"{violation.law}: "))
