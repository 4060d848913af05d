"""Who believed what, when: one character for each member and each tenth of a second.

=====  ==============================================================================
``.``  all who run are alive to it, and all who do not are gone
``s``  it suspects somebody
``i``  it calls itself isolated: it freezes its view and evicts nobody
``x``  it lacks somebody who runs or is frozen, or holds one dead
``g``  it holds somebody alive who does not run any more: not yet detected
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
    """``rows`` has one string a member, one character a step."""

    step: float
    members: tuple[str, ...]
    rows: tuple[str, ...]


class TimelineRecorder:
    """Takes the raster of a world of at most :data:`MAX_MEMBERS` members, for at most five minutes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._columns: list[dict[str, str]] = []
        self._known: dict[str, tuple[PoolView, frozenset[str], str]] = {}
        world.scheduler.push(0, self._shoot)

    def develop(self) -> Timeline | None:
        """The picture so far; None of a world that is too large for one."""
        members = tuple(self._world.hosts)
        if not self._columns or len(members) > MAX_MEMBERS:
            return None
        rows = tuple("".join(column.get(key, "-") for column in self._columns) for key in members)
        return Timeline(STEP, members, rows)

    def _shoot(self, _: None, __: None) -> None:
        world = self._world
        if len(world.hosts) > MAX_MEMBERS or len(self._columns) >= MAX_STEPS:
            return
        truth = frozenset(world.name_of(key) for key, host in world.hosts.items() if host.node is not None)
        self._columns.append({key: self._belief(key, host, truth) for key, host in world.hosts.items()})
        world.scheduler.push(world.scheduler.now + microseconds(STEP), self._shoot)

    def _belief(self, key: str, host: SimulatedHost, truth: frozenset[str]) -> str:
        if host.node is None:
            return "-"
        if host.frozen:
            return "z"
        view = host.node.view
        known = self._known.get(key)
        if known is None or known[0] is not view or known[1] != truth:
            known = self._known[key] = (view, truth, _character(view, truth))
        return known[2]


def _character(view: PoolView, truth: frozenset[str]) -> str:
    if view.isolated:
        return "i"
    present = {m.name: m.liveness for m in view.members if m.liveness.present}
    if truth - present.keys():
        return "x"
    if Liveness.SUSPECT in present.values():
        return "s"
    return "g" if present.keys() - truth else "."
