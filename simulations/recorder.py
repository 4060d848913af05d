"""The recorder: plays a story and measures the outcome, for any protocol that the world can run.

The invariant checker looks for violations. The recorder counts: how soon each survivor learned of each crash, which
healthy members were evicted, what was sent. A member is *healthy* while its process runs, is neither frozen nor slowed,
and is not cut off from its observer by an active fault. Packet loss and past faults do not excuse an eviction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rumormill.membership import Event
from rumormill.simulations.host import SimulatedHost
from rumormill.simulations.network import LAN, Latency
from rumormill.simulations.operations import (
    AnyOperation,
    Crash,
    Freeze,
    Heal,
    Names,
    Restart,
    Resume,
    Run,
    Start,
    Story,
)
from rumormill.simulations.outcome import Block, Detection, FalseEviction, RunOutcome, TrafficSecond, median
from rumormill.simulations.protocol import NodeFactory
from rumormill.simulations.scheduler import SECOND
from rumormill.simulations.timeline import TimelineRecorder
from rumormill.simulations.world import World

RESTARTED = 2.0
"""Seconds after a restart in which an eviction of that name concerns the previous process."""
POLL_INTERVAL = 0.01
"""Seconds between two checks for one view."""
QUIET = 2.0
"""Seconds after an operation before traffic counts as steady. Traffic under a fault of some links never does."""


@dataclass(slots=True)
class _Crash:
    key: str
    at: float
    survivors: frozenset[str]
    learned: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Block:
    key: str
    began: float
    missing: dict[str, None]
    """The members that lack it now, some perhaps since an earlier block."""
    ended: float | None = None
    over: float | None = None
    """When the next block began."""
    evicted_by: dict[str, None] = field(default_factory=dict)
    evictions: int = 0
    back: float | None = None


class Recorder:
    """Measures one world. Attach it before anything is started."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.false_evictions: list[FalseEviction] = []
        self.traffic: list[TrafficSecond] = []
        self.joined_after: float | None = None
        self.one_view_after: float | None = None
        self.heals: list[float | None] = []
        self._crashes: dict[str, _Crash] = {}
        self._closed: list[_Crash] = []
        self._blocks: dict[str, _Block] = {}
        self._past_blocks: list[_Block] = []
        self._last_operation = 0.0
        self._sent: dict[int, tuple[int, int]] = {}
        self._quiet: set[float] = set()
        self._timeline = TimelineRecorder(world)
        self._on_progress: Callable[[float], None] | None = None
        world.on_events.append(self._on_events)
        world.scheduler.push(SECOND, self._each_second)

    def play(self, story: Story, *, settle: float = 60.0, on_progress: Callable[[float], None] | None = None) -> None:
        """Apply the operations in order, then run until there is one view, for at most ``settle`` seconds.

        ``on_progress`` receives the world's time each virtual second.
        """
        self._on_progress = on_progress
        for operation in story.operations:
            self._before(operation)
            operation.apply(self.world)
            if not isinstance(operation, Run):
                self._last_operation = self.world.now
        self.one_view_after = self.world.run_until(self.world.one_view, within=settle, every=0.05)

    def outcome(self, story: Story, protocol: str, nodes: int) -> RunOutcome:
        """All measurements so far."""
        history = self.world.history
        quiet = [t for t in self.traffic if t.members and t.at in self._quiet]
        return RunOutcome(
            scenario=story.title,
            protocol=protocol,
            nodes=nodes,
            seed=story.seed,
            seconds=round(self.world.now, 6),
            detections=tuple(_detection(crash) for crash in (*self._closed, *self._crashes.values())),
            blocks=tuple(_block(block, self.world.now) for block in (*self._past_blocks, *self._blocks.values())),
            false_evictions=tuple(self.false_evictions),
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
            timeline=self._timeline.timeline(),
        )

    # -- The story's operations

    def _before(self, operation: AnyOperation) -> None:
        match operation:
            case Crash(keys=keys):
                self._crashed(keys)
            case Restart(keys=keys):
                self._restarted(keys)
            case Freeze(keys=keys):
                self._frozen(keys)
            case Resume(keys=keys):
                self._resumed(keys)
            case Start(over=over) if not self.world.hosts and not over:
                self._await_join()
            case Heal():
                self._await_view(len(self.heals), self.world.now)

    def _crashed(self, keys: Names) -> None:
        for key in keys:
            if self.world.hosts[key].node is not None:
                survivors = frozenset(self.world.running()).difference(keys)
                self._crashes[key] = _Crash(key, self.world.now, survivors)

    def _restarted(self, keys: Names) -> None:
        for key in keys:
            if (crash := self._crashes.pop(key, None)) is not None:
                self._closed.append(crash)

    def _frozen(self, keys: Names) -> None:
        for key in keys:
            missing: dict[str, None] = {}
            if (former := self._blocks.pop(key, None)) is not None:
                former.over = self.world.now
                self._past_blocks.append(former)
                missing = dict(former.missing)
            self._blocks[key] = _Block(key, self.world.now, missing)

    def _resumed(self, keys: Names) -> None:
        for key in keys:
            if key in self._blocks:
                self._blocks[key].ended = self.world.now

    def _await_join(self) -> None:
        """Poll until the members started together have one view, for at most a minute."""
        world = self.world
        if world.hosts and world.one_view():
            self.joined_after = world.now
        elif world.now < 60.0:
            world.at(world.now + POLL_INTERVAL, self._await_join)

    def _await_view(self, number: int, healed: float) -> None:
        """Poll until there is one view after a heal, or until another operation."""
        world = self.world
        if number == len(self.heals):
            self.heals.append(None)
        if world.now > healed and world.one_view():
            self.heals[number] = round(world.now - healed, 3)
        elif self._last_operation <= healed:
            world.at(world.now + POLL_INTERVAL, lambda: self._await_view(number, healed))

    # -- Events

    def _on_events(self, observer: SimulatedHost, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind == "evicted":
                self._evicted(observer, event.member)
            elif event.kind in ("returned", "restarted"):
                self._returned(observer, event.member)

    def _evicted(self, observer: SimulatedHost, name: str) -> None:
        now = self.world.now
        for host in self.world.hosts_named(name):
            if (crash := self._crashes.get(host.key)) is not None and observer.key in crash.survivors:
                crash.learned.setdefault(observer.key, now - crash.at)
            block = self._blocks.get(host.key)
            if block is not None and (host.frozen or block.ended is not None):
                block.evicted_by[observer.key] = block.missing[observer.key] = None
                block.evictions += 1
            if self._is_healthy(host, observer) and (block is None or block.ended is None or now - block.ended > 1.0):
                self.false_evictions.append(
                    FalseEviction(round(now, 6), observer.key, host.key, observer.impairment == "")
                )

    def _returned(self, observer: SimulatedHost, name: str) -> None:
        for host in self.world.hosts_named(name):
            block = self._blocks.get(host.key)
            if block is not None and observer.key in block.missing:
                del block.missing[observer.key]
                if block.ended is not None and not block.missing:
                    block.back = self.world.now - block.ended

    def _is_healthy(self, host: SimulatedHost, observer: SimulatedHost) -> bool:
        if not host.runs or host.leaving or host.impairment or host is observer:
            return False
        if self.world.now - host.booted_at / SECOND < RESTARTED:
            return False  # the eviction concerns the previous process
        met = (observer.outgoing_faults & host.incoming_faults) | (host.outgoing_faults & observer.incoming_faults)
        return not any(active.bit & met and active.fault.cut for active in self.world.network.faults)

    # -- Traffic

    def _each_second(self, _: None, __: None) -> None:
        datagrams = total = most = members = 0
        for host in self.world.hosts.values():
            before = self._sent.get(host.index, (0, 0))
            self._sent[host.index] = (host.sent, host.sent_bytes)
            datagrams += host.sent - before[0]
            total += host.sent_bytes - before[1]
            most = max(most, host.sent - before[0])
            members += host.runs
        self.traffic.append(TrafficSecond(self.world.now, members, datagrams, total, most))
        if self._on_progress is not None:
            self._on_progress(self.world.now)
        everywhere = all(f.sources is None and f.targets is None for f in self.world.network.faults)
        if self.world.now - self._last_operation > QUIET and everywhere:
            self._quiet.add(self.world.now)
        self.world.scheduler.push(self.world.scheduler.now + SECOND, self._each_second)


def _detection(crash: _Crash) -> Detection:
    return Detection(
        crash.key, crash.at, len(crash.survivors), tuple(sorted(round(d, 6) for d in crash.learned.values()))
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
    settle: float = 60.0,
    on_world: Callable[[World], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> RunOutcome:
    """Play a story and measure it. ``on_world`` receives the world before the first operation."""
    world = World(seed=story.seed, factory=factory, latency=latency)
    recorder = Recorder(world)
    if on_world is not None:
        on_world(world)
    recorder.play(story, settle=settle, on_progress=on_progress)
    nodes = max((traffic.members for traffic in recorder.traffic), default=0)
    return recorder.outcome(story, protocol, nodes)
