"""The state of each member over time: one character per member and tenth of a second.

=====  ==============================================================================
``.``  it holds exactly the running members alive
``s``  it suspects a member
``i``  it is isolated: it freezes its view and evicts no one
``x``  it lacks, or holds dead, a member that runs or is frozen
``g``  it holds a member alive that no longer runs
``z``  it is frozen
``-``  it does not run
=====  ==============================================================================
"""

from __future__ import annotations

import msgspec

from rumormill.membership import Liveness, PoolView
from rumormill.simulations.host import SimulatedHost
from rumormill.simulations.scheduler import microseconds
from rumormill.simulations.world import World

STEP = 0.1
MAX_MEMBERS = 64
MAX_STEPS = 3000


class Timeline(msgspec.Struct, frozen=True):
    """``rows`` has one string per member, with one character per step."""

    step: float
    members: tuple[str, ...]
    rows: tuple[str, ...]


class TimelineRecorder:
    """Samples a world of at most :data:`MAX_MEMBERS` members, for at most five minutes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._columns: list[dict[str, str]] = []
        self._cached: dict[str, tuple[PoolView, frozenset[str], str]] = {}
        world.scheduler.push(0, self._sample)

    def timeline(self) -> Timeline | None:
        """The timeline so far; None if the world is too large."""
        members = tuple(self._world.hosts)
        if not self._columns or len(members) > MAX_MEMBERS:
            return None
        rows = tuple("".join(column.get(key, "-") for column in self._columns) for key in members)
        return Timeline(STEP, members, rows)

    def _sample(self, _: None, __: None) -> None:
        world = self._world
        if len(world.hosts) > MAX_MEMBERS or len(self._columns) >= MAX_STEPS:
            return
        truth = frozenset(world.name_of(key) for key, host in world.hosts.items() if host.node is not None)
        self._columns.append({key: self._member_state(key, host, truth) for key, host in world.hosts.items()})
        world.scheduler.push(world.scheduler.now + microseconds(STEP), self._sample)

    def _member_state(self, key: str, host: SimulatedHost, truth: frozenset[str]) -> str:
        if host.node is None:
            return "-"
        if host.frozen:
            return "z"
        view = host.node.view
        cached = self._cached.get(key)
        if cached is None or cached[0] is not view or cached[1] != truth:
            cached = self._cached[key] = (view, truth, _view_state(view, truth))
        return cached[2]


def _view_state(view: PoolView, truth: frozenset[str]) -> str:
    if view.isolated:
        return "i"
    present = {m.name: m.liveness for m in view.members if m.liveness.present}
    if truth - present.keys():
        return "x"
    if Liveness.SUSPECT in present.values():
        return "s"
    return "g" if present.keys() - truth else "."
