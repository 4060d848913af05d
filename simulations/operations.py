"""Operations on a world, as data. Each operation is a small frozen value that prints as one line of a story.

A :class:`Story` is a seed and a list of operations. A failed search shrinks to a story, ``rumormill simulate replay``
reads one, and a scenario produces one. In JSON, the field ``do`` names the operation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Annotated, Literal

import msgspec

from rumormill.discovery.schema.policy_bodies import CanaryPolicy, Share, encode_body
from rumormill.gossip import Node, ProtocolSettings
from rumormill.gossip.dissemination.policy_replication import PolicyRefused
from rumormill.simulations.factories import SERVICE, RumormillFactory
from rumormill.simulations.network import LAN, WAN, LinkFault
from rumormill.simulations.protocol import SimulatedNode
from rumormill.simulations.world import World

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Names = tuple[str, ...]
LatencyName = Literal["lan", "wan"]
LATENCIES = {"lan": LAN, "wan": WAN}
LONGEST = 86_400
"""Seconds. The longest duration in one operation."""


class Operation(msgspec.Struct, frozen=True, tag_field="do", tag=str.lower, forbid_unknown_fields=True):
    """Base of all operations."""

    def apply(self, world: World) -> None:
        """Apply this. Raises KeyError for an unknown host, ValueError for a host that exists already."""
        raise NotImplementedError


class Start(Operation, frozen=True):
    count: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    over: Seconds = 0.0

    def apply(self, world: World) -> None:
        world.start(self.count, over=self.over)

    def __str__(self) -> str:
        spread = f", spread over {self.over:g} s" if self.over else ""
        return f"start {self.count} members{spread}"


class Rival(Operation, frozen=True):
    """Starts a second process under a name that is in use."""

    key: str
    name: str

    def apply(self, world: World) -> None:
        world.start_one(self.key, name=self.name)

    def __str__(self) -> str:
        return f"start {self.key} under the name {self.name}, which is in use"


class Run(Operation, frozen=True):
    seconds: Seconds

    def apply(self, world: World) -> None:
        world.run(self.seconds)

    def __str__(self) -> str:
        return f"run {self.seconds:g} s"


class Crash(Operation, frozen=True):
    keys: Names

    def apply(self, world: World) -> None:
        world.crash(*self.keys)

    def __str__(self) -> str:
        return f"crash {_list(self.keys)}"


class Restart(Operation, frozen=True):
    keys: Names
    new_address: bool = False

    def apply(self, world: World) -> None:
        world.restart(*self.keys, new_address=self.new_address)

    def __str__(self) -> str:
        return f"restart {_list(self.keys)}" + (" at a new address" if self.new_address else "")


class LeavePool(Operation, frozen=True, tag="leave"):
    keys: Names

    def apply(self, world: World) -> None:
        world.leave(*self.keys)

    def __str__(self) -> str:
        return f"leave {_list(self.keys)}"


class Freeze(Operation, frozen=True):
    keys: Names

    def apply(self, world: World) -> None:
        world.freeze(*self.keys)

    def __str__(self) -> str:
        return f"freeze {_list(self.keys)}"


class Resume(Operation, frozen=True, tag="thaw"):
    keys: Names

    def apply(self, world: World) -> None:
        world.resume(*self.keys)

    def __str__(self) -> str:
        return f"resume {_list(self.keys)}"


class Slow(Operation, frozen=True):
    keys: Names
    lag: Seconds
    """Seconds. 0 restores full speed."""

    def apply(self, world: World) -> None:
        world.slow(self.lag, *self.keys)

    def __str__(self) -> str:
        pace = f"each step about {self.lag:g} s late" if self.lag else "full speed"
        return f"slow {_list(self.keys)}: {pace}"


class JumpClock(Operation, frozen=True):
    keys: Names
    seconds: Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]

    def apply(self, world: World) -> None:
        world.jump_clock(self.seconds, *self.keys)

    def __str__(self) -> str:
        return f"jump the clock of {_list(self.keys)} by {self.seconds:+g} s"


class DriftClock(Operation, frozen=True):
    keys: Names
    rate: Annotated[float, msgspec.Meta(gt=-0.5, lt=0.5)]

    def apply(self, world: World) -> None:
        world.drift_clock(self.rate, *self.keys)

    def __str__(self) -> str:
        return f"drift the clock of {_list(self.keys)} by {self.rate:g} s per second"


class Canary(Operation, frozen=True):
    """An operator sets a release's share of the keys at one member, which may refuse."""

    key: str
    release: str
    share: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    """Basis points."""

    def apply(self, world: World) -> None:
        body = canary(self.release, self.share)

        def write(node: SimulatedNode, now: float) -> None:
            if isinstance(node, Node):
                with contextlib.suppress(PolicyRefused):
                    node.write_policy(SERVICE, encode_body(body), at=0, now=now)

        world.command(self.key, write)

    def __str__(self) -> str:
        return f"set the canary {self.release} to {self.share / 100:g} % at {self.key}"


class Measure(Operation, frozen=True):
    """A member's sidecar measures the load of its worker."""

    key: str
    utilization: Annotated[float, msgspec.Meta(ge=0, le=2)] | None
    queue: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0

    def apply(self, world: World) -> None:
        def measure(node: SimulatedNode, now: float) -> None:
            if isinstance(node, Node):
                node.measure_load(self.utilization, self.queue, now)

        world.command(self.key, measure)

    def __str__(self) -> str:
        load = "unknown" if self.utilization is None else f"{self.utilization:.0%} with {self.queue} waiting"
        return f"the load of {self.key} is {load}"


class Cut(Operation, frozen=True):
    """An empty ``other`` means every other host."""

    one: Names
    other: Names = ()

    def apply(self, world: World) -> None:
        _require_hosts(world, self.one, self.other)
        world.cut(self.one, self.other or None)

    def __str__(self) -> str:
        return f"cut {_list(self.one)} off from {_list(self.other) if self.other else 'everyone else'}"


class CutOneWay(Operation, frozen=True):
    """An empty tuple means every host."""

    sources: Names
    targets: Names

    def apply(self, world: World) -> None:
        _require_hosts(world, self.sources, self.targets)
        world.cut_one_way(self.sources or None, self.targets or None)

    def __str__(self) -> str:
        return f"cut {_all(self.sources)} to {_all(self.targets)}, one way"


class Degrade(Operation, frozen=True, rename={"fault": "trouble"}):
    """An empty tuple means every host."""

    fault: LinkFault
    sources: Names = ()
    targets: Names = ()

    def __post_init__(self) -> None:
        """Raises ValueError for impossible faults: a probability above 1, a negative delay."""
        fault, burst = self.fault, self.fault.burst
        shares = {"loss": fault.loss, "duplicate": fault.duplicate, "burst.loss": burst.loss if burst else 0.0}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, not {share:g}")
        for name, seconds in (("delay", fault.delay), ("jitter", fault.jitter)):
            if not 0 <= seconds <= LONGEST:
                raise ValueError(f"{name} is from 0 to {LONGEST} seconds, not {seconds:g}")
        if burst is not None and not (0 < burst.mean_good <= LONGEST and 0 < burst.mean_bad <= LONGEST):
            raise ValueError(f"mean_good and mean_bad are seconds, more than 0 and at most {LONGEST}")
        if fault.mtu < 0:
            raise ValueError(f"mtu is a number of bytes, or 0 for no limit, not {fault.mtu}")

    def apply(self, world: World) -> None:
        _require_hosts(world, self.sources, self.targets)
        world.degrade(self.fault, self.sources or None, self.targets or None)

    def __str__(self) -> str:
        return f"fault from {_all(self.sources)} to {_all(self.targets)}: {self.fault}"


class Heal(Operation, frozen=True):
    def apply(self, world: World) -> None:
        world.heal()

    def __str__(self) -> str:
        return "heal the network"


class Refuse(Operation, frozen=True):
    """Sets whether hosts without a process refuse datagrams. At first they are silent."""

    refuses: bool = True

    def apply(self, world: World) -> None:
        world.refuse(self.refuses)

    def __str__(self) -> str:
        return f"hosts without a process {'refuse datagrams' if self.refuses else 'are silent'}"


AnyOperation = (
    Start
    | Rival
    | Run
    | Crash
    | Restart
    | LeavePool
    | Freeze
    | Resume
    | Slow
    | JumpClock
    | DriftClock
    | Canary
    | Measure
    | Cut
    | CutOneWay
    | Degrade
    | Heal
    | Refuse
)


class InvalidStory(ValueError):
    """A story that cannot be read, or that names a host which does not exist at that point. The text says where."""


class Story(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A seed and a list of operations. Every play leaves the same trace."""

    seed: int
    operations: tuple[AnyOperation, ...]
    title: str = ""
    latency: LatencyName = "lan"
    """The delays of every link, before faults."""
    period: Annotated[float, msgspec.Meta(ge=0.02, le=10)] = 0.2
    """The protocol's period, in seconds."""

    def __str__(self) -> str:
        head = f"{self.title} (seed {self.seed})" if self.title else f"seed {self.seed}"
        unusual = [f"period {self.period:g} s"] * (self.period != 0.2) + ["links of a WAN"] * (self.latency == "wan")
        return "\n".join([", ".join([head, *unusual]), *(f"  {operation}" for operation in self.operations)])

    @property
    def settings(self) -> ProtocolSettings:
        """The settings of all members."""
        return ProtocolSettings(period=self.period)

    @property
    def seconds(self) -> float:
        """Virtual seconds from start to end."""
        runs = (operation.seconds for operation in self.operations if isinstance(operation, Run))
        return sum(runs) + sum(operation.over for operation in self.operations if isinstance(operation, Start))

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Story:
        """Read a story that :meth:`to_json` or a person wrote. Raises :class:`InvalidStory`."""
        try:
            story = msgspec.json.decode(text, type=cls)
            _reject_unknown_fields(msgspec.json.decode(text), msgspec.to_builtins(story), "$")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidStory(str(error)) from None
        return story

    def world(self) -> World:
        """A new world of production Nodes for this story."""
        factory = RumormillFactory(settings=self.settings)
        return World(seed=self.seed, factory=factory, latency=LATENCIES[self.latency])

    def play(self, world: World) -> None:
        """Apply all operations to a world made with this story's seed. Raises :class:`InvalidStory`."""
        for number, operation in enumerate(self.operations, 1):
            try:
                operation.apply(world)
            except KeyError as error:
                raise InvalidStory(f"operation {number} ({operation}): there is no host {error}") from None
            except ValueError as error:
                if not isinstance(operation, Start | Rival):
                    raise
                raise InvalidStory(f"operation {number} ({operation}): {error}") from None


def _reject_unknown_fields(written: object, read: object, place: str) -> None:
    """Raises :class:`InvalidStory` for an unknown field, so that a misspelled fault is not silently dropped."""
    if isinstance(written, dict) and isinstance(read, dict):
        for name, value in written.items():
            if name not in read:
                raise InvalidStory(f"Object contains unknown field `{name}` - at `{place}`")
            _reject_unknown_fields(value, read[name], f"{place}.{name}")
    elif isinstance(written, list) and isinstance(read, list | tuple):
        for number, (one, other) in enumerate(zip(written, read, strict=True)):
            _reject_unknown_fields(one, other, f"{place}[{number}]")


def _require_hosts(world: World, *keys: Collection[str]) -> None:
    """Raises KeyError for a host that was never started. Otherwise its fault would affect no link, unnoticed."""
    for key in (key for group in keys for key in group):
        if key not in world.hosts:
            raise KeyError(key)


def canary(release: str, share: int) -> CanaryPolicy:
    """A policy that gives one release a share, in basis points."""
    return CanaryPolicy([Share(release, share)])


def _list(keys: Names) -> str:
    return ", ".join(keys) if keys else "nobody"


def _all(keys: Names) -> str:
    return ", ".join(keys) if keys else "everyone"
