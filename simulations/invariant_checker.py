"""Checks the invariants of every member of a world, after each datagram and each virtual second.

    world = World(seed=7)
    checker = InvariantChecker(world)
    ...
    checker.check_convergence()        # without faults, all members must come to one view in time

It observes from outside: it sees each datagram sent and received, and each row change in each table. A violation
raises :class:`~rumormill.simulations.invariants.InvariantViolation` out of ``world.run``, with the seed and the latest
events.
"""

from __future__ import annotations

from collections.abc import Callable

from rumormill.gossip import Node, ProtocolSettings
from rumormill.membership import Address
from rumormill.simulations.factories import CLUSTER
from rumormill.simulations.ground_truth import GroundTruth, sender_id
from rumormill.simulations.host import SimulatedHost
from rumormill.simulations.invariants import (
    InvariantViolation,
    MemberInvariants,
    ObservedProcess,
    ProcessRegistry,
)
from rumormill.simulations.liveness_bounds import LivenessBounds
from rumormill.simulations.routing_invariants import RoutingInvariants
from rumormill.simulations.scheduler import SECOND, microseconds
from rumormill.simulations.table_invariants import (
    PolicyInvariants,
    check_datagram,
    check_loads,
    check_node,
    check_policies,
)
from rumormill.simulations.table_observer import TableObserver
from rumormill.simulations.world import World


class InvariantChecker:
    """Observes one world of production Nodes from its beginning. ``settings`` are the settings of its members.

    Nodes of another ``cluster`` are exempt, but no member may ever hold their rows.
    """

    def __init__(self, world: World, settings: ProtocolSettings | None = None, cluster: str = CLUSTER) -> None:
        self._world = world
        self._cluster = cluster
        self._settings = settings or ProtocolSettings()
        silence = self._settings.misses * microseconds(self._settings.period)
        self._ground_truth = GroundTruth(silence - silence // 20)
        self._registry = ProcessRegistry()
        member_invariants = MemberInvariants(self._registry, self._ground_truth, self._settings)
        self._table_observer = TableObserver(
            self._registry,
            member_invariants,
            PolicyInvariants().check,
            now=lambda: world.scheduler.now,
            run_check=self._check,
        )
        self._routing_invariants = RoutingInvariants()
        world.on_start.append(self._process_started)
        world.network.on_send = self._sent
        world.network.on_faults = self._faults_changed
        world.scheduler.push(SECOND, self._each_second)

    def check_all(self) -> None:
        """Check all invariants that no single change shows. Raises :class:`InvariantViolation`."""
        running = [process for process in self._registry.latest.values() if process.runs]
        for process in running:
            check_node(process, self._settings.max_members)
            check_loads(process, self._registry)
        awake = [process for process in running if not self._world.hosts[process.host.key].frozen]
        self._routing_invariants.check({process.host.key: process.node.view for process in awake})
        check_policies([process.node for process in awake])

    def remaining_faults(self) -> str:
        """The faults and impaired hosts that still prevent one view, as text; empty if there are none."""
        faults = [str(active.fault) for active in self._world.network.faults]
        hosts = [
            f"{key} is {host.impairment}" for key, host in self._world.hosts.items() if host.node and host.impairment
        ]
        return ", ".join(([f"faults are active ({'; '.join(faults)})"] if faults else []) + hosts)

    def check_convergence(self) -> float:
        """Run the world until all running members hold one view. Returns the virtual seconds it took.

        The caller must have ended all faults and impairments. Raises :class:`InvariantViolation` ("one-view") if it
        takes longer than the settings allow.
        """
        world = self._world
        bound = LivenessBounds(self._settings, len(world.running()), len(world.hosts)).one_view
        took = world.run_until(world.one_view, within=bound, every=0.1)
        if took is None:
            raise self._with_context(
                InvariantViolation("one-view", f"none after {bound:.1f} s without faults: {self._differences()}")
            )
        return took

    def _differences(self) -> str:
        world = self._world
        running = sorted(world.name_of(key) for key in world.running())
        lines = []
        for key, view in world.views().items():
            odd = [
                f"{m.name} {m.liveness.word}{' pending' if m.pending else ''} {m.generation}/{m.incarnation}"
                for m in view.members
                if (m.name in running) != (m.liveness == 0) or m.pending
            ]
            missing = [name for name in running if name not in {m.name for m in view.members}]
            lines.append(f"{key}: {', '.join(odd) or '-'}" + (f"; lacks {', '.join(missing)}" if missing else ""))
        stopped = [f"{key} stopped" for key, host in world.hosts.items() if host.node is None]
        return "\n".join(["", f"running: {', '.join(running)}", *lines, *stopped])

    # -- Called by the world

    def _process_started(self, host: SimulatedHost) -> None:
        node = host.node
        if not isinstance(node, Node):
            raise TypeError(f"the invariants apply to Node, not to {type(node).__name__}")
        if node.inspect().cluster != self._cluster:
            return
        process = ObservedProcess(host, node, self._world.scheduler.now)
        before = self._registry.latest.get(host.key)
        if before is not None and before.host is host:
            before.replaced = True
        self._registry.latest[host.key] = process
        self._registry.own_row_changed(process, node.inspect().me)
        self._ground_truth.process_started(host.key, self._world.scheduler.now)
        self._routing_invariants.process_started(host.key)
        host.tap = self._received
        host.refusal_tap = self._refused
        self._table_observer.observe(process)

    def _sent(self, host: SimulatedHost, to: Address, data: bytes) -> None:
        del to
        self._check(lambda: check_datagram(host, data))
        self._ground_truth.sent(self._world.scheduler.now, data)

    def _received(self, host: SimulatedHost, data: bytes) -> None:
        """A datagram that arrives before its sender's record cannot be decrypted, so it is no sign of life."""
        node, sender = self._registry.latest[host.key].node, sender_id(data)
        if node.inspect().can_open(sender):
            self._ground_truth.received(host.key, node.inspect().me.member_id, self._world.scheduler.now, data)

    def _refused(self, host: SimulatedHost, data: bytes) -> None:
        if isinstance(host.node, Node):
            self._ground_truth.refused(host.key, host.node.inspect().me.member_id, self._world.scheduler.now, data)

    def _faults_changed(self) -> None:
        self._ground_truth.faults_changed(self._world.scheduler.now, self._world.network.faults)

    def _each_second(self, _: None, __: None) -> None:
        self._check(self.check_all)
        self._world.scheduler.push(self._world.scheduler.now + SECOND, self._each_second)

    def _check(self, check: Callable[[], None]) -> None:
        try:
            check()
        except InvariantViolation as violation:
            raise self._with_context(violation) from None

    def _with_context(self, violation: InvariantViolation) -> InvariantViolation:
        world = self._world
        text = f"{violation}\nat {world.now:.6f} s of seed {world.seed}; latest events:\n{world.history.tail()}"
        return InvariantViolation(violation.invariant, text.removeprefix(f"{violation.invariant}: "))
