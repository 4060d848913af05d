"""The referee: plays a story and measures what becomes of it, for any protocol the world can drive.

Where the judge asks whether a law was broken, the referee counts: how long each survivor took to learn of each death,
who was evicted although it was well, what was sent. *Well* is a member whose process runs, is not frozen or slowed at
the moment, and is not cut off from its observer by a fault. Loss is no excuse, and neither is a fault that is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rumormill.membership import Event
from rumormill.simulations.host import SimulatedHost
from rumormill.simulations.network import LAN, Latency
from rumormill.simulations.operations import AnyOperation, Crash, Freeze, Heal, Names, Restart, Run, Start, Story, Thaw
from rumormill.simulations.outcome import Block, Detection, FalseEviction, RunOutcome, Traffic, median
from rumormill.simulations.protocol import NodeFactory
from rumormill.simulations.scheduler import SECOND
from rumormill.simulations.timeline import TimelineRecorder
from rumormill.simulations.world import World

RESTARTED = 2.0
"""Seconds after a restart in which an eviction under that name is about the life before."""
LOOK = 0.01
"""Seconds between two looks whether there is one view."""
QUIET = 2.0
"""Seconds after an operation in which traffic does not count as steady; nor does any under a fault of some links."""


@dataclass(slots=True)
class _Death:
    key: str
    at: float
    survivors: frozenset[str]
    learned: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Block:
    key: str
    began: float
    missing: dict[str, None]
    """Who lacks the member now; some may since an earlier block."""
    ended: float | None = None
    over: float | None = None
    """When the next one began."""
    evicted_by: dict[str, None] = field(default_factory=dict)
    evictions: int = 0
    back: float | None = None


class Recorder:
    """Measures one world. Attach it before anything is started."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wrong: list[FalseEviction] = []
        self.traffic: list[Traffic] = []
        self.joined_after: float | None = None
        self.one_view_after: float | None = None
        self.heals: list[float | None] = []
        self._deaths: dict[str, _Death] = {}
        self._closed: list[_Death] = []
        self._blocks: dict[str, _Block] = {}
        self._past_blocks: list[_Block] = []
        self._disturbed = 0.0
        self._sent: dict[int, tuple[int, int]] = {}
        self._quiet: set[float] = set()
        self._camera = TimelineRecorder(world)
        self._on_progress: Callable[[float], None] | None = None
        world.on_conclusions.append(self._concluded)
        world.scheduler.push(SECOND, self._each_second)

    def play(self, story: Story, *, calm: float = 60.0, on_progress: Callable[[float], None] | None = None) -> None:
        """Do the operations one by one, then leave the world alone until it has one view, ``calm`` seconds at most.

        ``on_progress`` is told the world's time each second of it.
        """
        self._on_progress = on_progress
        for operation in story.operations:
            self._before(operation)
            operation.apply(self.world)
            if not isinstance(operation, Run):
                self._disturbed = self.world.now
        self.one_view_after = self.world.run_until(self.world.one_view, within=calm, every=0.05)

    def outcome(self, story: Story, protocol: str, nodes: int) -> RunOutcome:
        """What has been measured so far."""
        history = self.world.history
        quiet = [t for t in self.traffic if t.members and t.at in self._quiet]
        return RunOutcome(
            scenario=story.title,
            protocol=protocol,
            nodes=nodes,
            seed=story.seed,
            seconds=round(self.world.now, 6),
            detections=tuple(_detection(death) for death in (*self._closed, *self._deaths.values())),
            blocks=tuple(_block(block, self.world.now) for block in (*self._past_blocks, *self._blocks.values())),
            wrong=tuple(self.wrong),
            evictions=history.counts["evicted"],
            suspicions=history.counts["suspected"],
            joined_after=self.joined_after,
            heals=tuple(self.heals),
            one_view_after=self.one_view_after,
            traffic=tuple(self.traffic),
            steady=(
                round(median(t.datagrams / t.members for t in quiet) or 0.0, 2),
                round(median(t.bytes / t.members for t in quiet) or 0.0, 1),
            ),
            trace=self.world.trace.digest(),
            raster=self._camera.develop(),
        )

    # -- The story's operations

    def _before(self, operation: AnyOperation) -> None:
        match operation:
            case Crash(keys=keys):
                self._died(keys)
            case Restart(keys=keys):
                self._came_back(keys)
            case Freeze(keys=keys):
                self._froze(keys)
            case Thaw(keys=keys):
                self._thawed(keys)
            case Start(over=over) if not self.world.hosts and not over:
                self._await_join()
            case Heal():
                self._await_view(len(self.heals), self.world.now)

    def _died(self, keys: Names) -> None:
        for key in keys:
            if self.world.hosts[key].node is not None:
                survivors = frozenset(self.world.running()).difference(keys)
                self._deaths[key] = _Death(key, self.world.now, survivors)

    def _came_back(self, keys: Names) -> None:
        for key in keys:
            if (death := self._deaths.pop(key, None)) is not None:
                self._closed.append(death)

    def _froze(self, keys: Names) -> None:
        for key in keys:
            missing: dict[str, None] = {}
            if (former := self._blocks.pop(key, None)) is not None:
                former.over = self.world.now
                self._past_blocks.append(former)
                missing = dict(former.missing)
            self._blocks[key] = _Block(key, self.world.now, missing)

    def _thawed(self, keys: Names) -> None:
        for key in keys:
            if key in self._blocks:
                self._blocks[key].ended = self.world.now

    def _await_join(self) -> None:
        """Look every 10 ms whether those who were started together have one view, for a minute at most."""
        world = self.world
        if world.hosts and world.one_view():
            self.joined_after = world.now
        elif world.now < 60.0:
            world.at(world.now + LOOK, self._await_join)

    def _await_view(self, number: int, healed: float) -> None:
        """The same after the network was healed, until something else is done to the pool."""
        world = self.world
        if number == len(self.heals):
            self.heals.append(None)
        if world.now > healed and world.one_view():
            self.heals[number] = round(world.now - healed, 3)
        elif self._disturbed <= healed:
            world.at(world.now + LOOK, lambda: self._await_view(number, healed))

    # -- What is concluded

    def _concluded(self, observer: SimulatedHost, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind == "evicted":
                self._evicted(observer, event.member)
            elif event.kind in ("returned", "restarted"):
                self._returned(observer, event.member)

    def _evicted(self, observer: SimulatedHost, name: str) -> None:
        now = self.world.now
        for host in self.world.called(name):
            if (death := self._deaths.get(host.key)) is not None and observer.key in death.survivors:
                death.learned.setdefault(observer.key, now - death.at)
            block = self._blocks.get(host.key)
            if block is not None and (host.frozen or block.ended is not None):
                block.evicted_by[observer.key] = block.missing[observer.key] = None
                block.evictions += 1
            if self._is_well(host, observer) and (block is None or block.ended is None or now - block.ended > 1.0):
                self.wrong.append(FalseEviction(round(now, 6), observer.key, host.key, observer.hindrance == ""))

    def _returned(self, observer: SimulatedHost, name: str) -> None:
        for host in self.world.called(name):
            block = self._blocks.get(host.key)
            if block is not None and observer.key in block.missing:
                del block.missing[observer.key]
                if block.ended is not None and not block.missing:
                    block.back = self.world.now - block.ended

    def _is_well(self, host: SimulatedHost, observer: SimulatedHost) -> bool:
        if not host.runs or host.leaving or host.hindrance or host is observer:
            return False
        if self.world.now - host.booted_at / SECOND < RESTARTED:
            return False  # it is the former life that was evicted
        met = (observer.sends_into & host.receives_from) | (host.sends_into & observer.receives_from)
        return not any(fault.bit & met and fault.trouble.cut for fault in self.world.network.faults)

    # -- What is sent

    def _each_second(self, _: None, __: None) -> None:
        datagrams = total = most = members = 0
        for host in self.world.hosts.values():
            before = self._sent.get(host.index, (0, 0))
            self._sent[host.index] = (host.sent, host.sent_bytes)
            datagrams += host.sent - before[0]
            total += host.sent_bytes - before[1]
            most = max(most, host.sent - before[0])
            members += host.runs
        self.traffic.append(Traffic(self.world.now, members, datagrams, total, most))
        if self._on_progress is not None:
            self._on_progress(self.world.now)
        everywhere = all(f.sources is None and f.targets is None for f in self.world.network.faults)
        if self.world.now - self._disturbed > QUIET and everywhere:
            self._quiet.add(self.world.now)
        self.world.scheduler.push(self.world.scheduler.now + SECOND, self._each_second)


def _detection(death: _Death) -> Detection:
    return Detection(
        death.key, death.at, len(death.survivors), tuple(sorted(round(d, 6) for d in death.learned.values()))
    )


def _block(block: _Block, end: float) -> Block:
    over = end if block.over is None else block.over
    ended = over if block.ended is None else block.ended
    return Block(
        member=block.key,
        seconds=round(ended - block.began, 6),
        evicted_by=len(block.evicted_by),
        evictions=block.evictions,
        free=round(over - ended, 6),
        back_after=None if block.back is None else round(block.back, 6),
        missing=len(block.missing),
    )


def play(
    story: Story,
    *,
    factory: NodeFactory | None = None,
    protocol: str = "rumormill",
    latency: Latency = LAN,
    calm: float = 60.0,
    on_world: Callable[[World], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> RunOutcome:
    """Play a story from its beginning and measure it. ``on_world`` sees the world before anything happens in it."""
    world = World(seed=story.seed, factory=factory, latency=latency)
    referee = Recorder(world)
    if on_world is not None:
        on_world(world)
    referee.play(story, calm=calm, on_progress=on_progress)
    nodes = max((traffic.members for traffic in referee.traffic), default=0)
    return referee.outcome(story, protocol, nodes)
