"""The world: hosts, a network, one virtual clock, and one seed that decides everything.

    world = World(seed=7)
    world.start(8)
    world.run(2.0)
    world.cut({"n0", "n1"}, {"n2", "n3", "n4", "n5", "n6", "n7"})
    world.run(10.0)
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None

Hosts have keys (``n0``, ``n1``, …). A key is also the name of the member on that host, unless :meth:`World.start_one`
sets another. Times in this interface are seconds; internally they are integer microseconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from rumormill.membership.record import Address, Liveness
from rumormill.membership.view import Event, PoolView
from rumormill.simulations.factories import RumormillFactory
from rumormill.simulations.history import History
from rumormill.simulations.host import SimulatedHost
from rumormill.simulations.huge_pages import HugePages
from rumormill.simulations.network import LAN, ActiveFault, Latency, LinkFault, Network
from rumormill.simulations.protocol import NodeFactory, NodeStart, SimulatedNode
from rumormill.simulations.scheduler import SECOND, Scheduler, microseconds
from rumormill.simulations.trace import Trace

RESOLVE_AFTER = 1.0
"""Seconds after a seed moved until all members have resolved the seeds' names again."""
GOSSIP_PORT = 7946

Keys = Collection[str]


class World:
    """A network of hosts under virtual time. The same seed and the same story always leave the same trace.

    ``factory`` makes the members, by default production Nodes. All join through the first ``seeds`` hosts. The members
    share ``machines`` machines, each member at its own port; 0 gives each member its own machine.
    """

    def __init__(
        self,
        *,
        seed: int,
        factory: NodeFactory | None = None,
        latency: Latency = LAN,
        seeds: int = 1,
        machines: int = 0,
        history: History | None = None,
    ) -> None:
        self.seed = seed
        self.scheduler = Scheduler()
        self.trace = Trace()
        self.network = Network(self.scheduler, self._stream("network"), latency, self.trace)
        self.hosts: dict[str, SimulatedHost] = {}
        """By key, in the order of their first start. Where a member moved, its current host."""
        self.history = history if history is not None else History()
        self.on_start: list[Callable[[SimulatedHost], None]] = []
        """Called with the host of each process that starts, before its first step."""
        self.on_events: list[Callable[[SimulatedHost, Sequence[Event]], None]] = []
        """Called with the events of each process, as they happen."""
        self._factory: NodeFactory = factory if factory is not None else RumormillFactory()
        self._memory = HugePages()
        self._seeds = seeds
        self._machines = machines
        self._addresses = 0
        self._process_numbers: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._factories: dict[str, NodeFactory] = {}
        """By key, where it is not the world's factory."""

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self.scheduler.now / SECOND

    # -- Time

    def run(self, seconds: float) -> None:
        """Let that much virtual time pass."""
        self._memory.cover()
        self.scheduler.run_until(self.scheduler.now + microseconds(seconds))

    def run_until(self, condition: Callable[[], bool], *, within: float, every: float = 0.01) -> float | None:
        """Let time pass until the condition holds, checking it ``every`` few seconds.

        Returns the seconds it took, or None after ``within`` seconds.
        """
        begin = self.scheduler.now
        end = begin + microseconds(within)
        while not condition():
            if self.scheduler.now >= end:
                return None
            self.scheduler.run_until(min(end, self.scheduler.now + microseconds(every)))
        return (self.scheduler.now - begin) / SECOND

    def at(self, seconds: float, act: Callable[[], None]) -> None:
        """Call ``act`` at a time of the world, between datagrams."""
        self.scheduler.push(microseconds(seconds), _call, act)

    # -- Members

    def start(self, count: int, *, over: float = 0.0) -> tuple[str, ...]:
        """Start new members at once, or spread evenly ``over`` some seconds, which pass. Returns their keys."""
        first = len(self.hosts)
        keys = tuple(f"n{first + i}" for i in range(count))
        for key in keys:
            self.start_one(key)
            if over:
                self.run(over / count)
        return keys

    def start_one(
        self,
        key: str,
        *,
        name: str | None = None,
        contacts: Iterable[Address] | None = None,
        factory: NodeFactory | None = None,
    ) -> None:
        """Start one member on a new host.

        ``contacts`` default to the seeds' addresses. A ``factory`` makes another kind of member, for example one of
        another pool or of an older version.
        """
        if key in self.hosts:
            raise ValueError(f"there is a host {key} already; restart() starts it again")
        self._names[key] = name if name is not None else key
        self._new_host(key)
        if factory is not None:
            self._factories[key] = factory
        self._boot(key, list(contacts) if contacts is not None else None)

    def crash(self, *keys: str) -> None:
        """Kill processes. Their hosts remain."""
        for key in keys:
            self.hosts[key].kill()

    def restart(self, *keys: str, new_address: bool = False, factory: NodeFactory | None = None) -> None:
        """Kill running processes, and start new ones with new keys that know only the seeds. A ``factory`` makes the
        new ones another kind of member."""
        for key in keys:
            self.hosts[key].kill()
            if factory is not None:
                self._factories[key] = factory
            if new_address:
                self._new_host(key)
                self._seeds_moved(key)
            self._boot(key, None)

    def leave(self, *keys: str) -> None:
        """Ask members to leave. Each process ends when it has announced it."""
        for key in keys:
            self.hosts[key].leave()

    def command(self, key: str, act: Callable[[SimulatedNode, float], None]) -> None:
        """Call ``act`` on a process with its local time, then let it step. Does nothing unless the process runs."""
        host = self.hosts[key]
        if host.node is not None and host.runs:
            act(host.node, host.local_time())
            host.poke()

    def freeze(self, *keys: str) -> None:
        for key in keys:
            self.hosts[key].freeze()

    def resume(self, *keys: str) -> None:
        for key in keys:
            self.hosts[key].resume()

    def slow(self, lag: float, *keys: str) -> None:
        """Delay every step of these hosts by about ``lag`` seconds. 0 restores full speed."""
        for key in keys:
            self.hosts[key].slow_down(lag)

    def jump_clock(self, seconds: float, *keys: str) -> None:
        for key in keys:
            self.hosts[key].jump_clock(seconds)

    def drift_clock(self, rate: float, *keys: str) -> None:
        for key in keys:
            self.hosts[key].drift_clock(rate)

    # -- The network

    def cut(self, one: Keys, other: Keys | None = None) -> list[ActiveFault]:
        """Drop all datagrams between the two sets, both ways. ``other`` defaults to all other hosts."""
        other = self._others(one) if other is None else other
        return [*self.cut_one_way(one, other), *self.cut_one_way(other, one)]

    def cut_one_way(self, sources: Keys | None, targets: Keys | None) -> list[ActiveFault]:
        """Drop all datagrams from ``sources`` to ``targets``."""
        return [self.network.add(LinkFault(cut=True), sources, targets)]

    def degrade(self, fault: LinkFault, sources: Keys | None = None, targets: Keys | None = None) -> list[ActiveFault]:
        """Add a fault to the links from ``sources`` to ``targets``. None means every host."""
        return [self.network.add(fault, sources, targets)]

    def refuse(self, refuses: bool = True) -> None:
        """Set whether hosts without a process refuse datagrams (ICMP)."""
        self.network.refuses = refuses

    def heal(self, faults: Iterable[ActiveFault] | None = None) -> None:
        """Remove these faults, or all faults."""
        self.network.remove(list(self.network.faults if faults is None else faults))

    def inject(self, data: bytes, to: str, source: Address = ("198.51.100.1", 666)) -> None:
        """Deliver a datagram from outside to a member, now."""
        self.scheduler.push(self.scheduler.now, self.hosts[to].arrive, data, source)

    # -- Queries

    def running(self) -> dict[str, SimulatedNode]:
        """Processes that run and have not stopped themselves, by key. Frozen processes are excluded."""
        found = {}
        for key, host in self.hosts.items():
            if host.node is not None and host.runs and host.node.stopped is None:
                found[key] = host.node
        return found

    def node(self, key: str) -> SimulatedNode:
        """The process on a host. Raises :class:`LookupError` if there is none."""
        node = self.hosts[key].node
        if node is None:
            raise LookupError(f"no process runs on {key}")
        return node

    def name_of(self, key: str) -> str:
        return self._names[key]

    def hosts_named(self, name: str) -> list[SimulatedHost]:
        """The hosts whose members have this name, usually one."""
        return [self.hosts[key] for key, known in self._names.items() if known == name]

    def views(self) -> Mapping[str, PoolView]:
        """The view of every running member, by key."""
        return {key: node.view for key, node in self.running().items()}

    def one_view(self) -> bool:
        """Whether all running members hold equal tables, in which exactly they are alive and none is pending."""
        running = self.running()
        if len({node.table_digest for node in running.values()}) > 1:
            return False
        names = sorted(self._names[key] for key in running)
        return all(_alive_names(node.view) == names for node in running.values())

    def liveness_of(self, observer: str, subject: str) -> Liveness | None:
        """The subject's liveness in the observer's view, None without a row. Both are given by key."""
        name = self._names[subject]
        rows = [member.liveness for member in self.node(observer).view.members if member.name == name]
        return min(rows, default=None)

    def observers_of(self, subject: str) -> dict[str, Liveness | None]:
        """The subject's liveness in the view of every other running member."""
        return {key: self.liveness_of(key, subject) for key in self.running() if key != subject}

    # -- Internals

    def _others(self, keys: Keys) -> list[str]:
        return [key for key in self.hosts if key not in keys]

    def _stream(self, *what: object) -> random.Random:
        """A separate random stream per purpose, so that an extra draw in one does not change another."""
        return random.Random("/".join(map(str, (self.seed, *what))))

    def _new_host(self, key: str) -> None:
        index = self._addresses
        self._addresses += 1
        slot, machine = divmod(index, self._machines) if self._machines else (0, index)
        address = (f"10.{machine >> 16 & 255}.{machine >> 8 & 255}.{machine & 255}", GOSSIP_PORT + slot)
        self.hosts[key] = SimulatedHost(key, index, address, self.network, self._stream("host", index), self._on_events)

    def _boot(self, key: str, contacts: Sequence[Address] | None) -> None:
        process_number = self._process_numbers[key] = self._process_numbers.get(key, 0) + 1
        host = self.hosts[key]
        start = NodeStart(
            name=self._names[key],
            address=host.address,
            generation=1,
            rng=self._stream("node", key, process_number),
            token_bytes=self._stream("secrets", key, process_number).randbytes,
            now=host.local_time(),
        )
        node = self._factories.get(key, self._factory)(start)
        node.set_seeds(contacts if contacts is not None else self._seed_addresses())
        host.boot(node)
        for callback in self.on_start:
            callback(host)

    def _seed_addresses(self) -> list[Address]:
        return [host.address for host in list(self.hosts.values())[: self._seeds]]

    def _seeds_moved(self, key: str) -> None:
        if key in list(self.hosts)[: self._seeds]:
            self.at(self.now + RESOLVE_AFTER, self._resolve)

    def _resolve(self) -> None:
        addresses = self._seed_addresses()
        for host in self.hosts.values():
            if host.node is not None:
                host.node.set_seeds(addresses)
                host.poke()

    def _on_events(self, host: SimulatedHost, events: Sequence[Event]) -> None:
        self.history.add(self.scheduler.now, host.key, events)
        for callback in self.on_events:
            callback(host, events)


def _call(act: Callable[[], None], _: None) -> None:
    act()


def _alive_names(view: PoolView) -> list[str]:
    return [m.name for m in view.members if m.liveness is Liveness.ALIVE and not m.pending]
