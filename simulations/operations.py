"""What can be done to a world, as data: each operation is a small frozen value that prints as a line of a story.

A :class:`Story` is a seed and a list of them. It is what a failed search shrinks to, what ``rumormill simulate replay``
reads, and what a scenario is made of. As JSON each operation is an object whose ``do`` says which one it is.
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
"""Seconds: what a story may ask for at once."""


class Operation(msgspec.Struct, frozen=True, tag_field="do", tag=str.lower, forbid_unknown_fields=True):
    """Base of all operations."""

    def apply(self, world: World) -> None:
        """Do it. Raises KeyError for a host that does not exist, ValueError for one that exists already."""
        raise NotImplementedError


class Start(Operation, frozen=True):
    count: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    over: Seconds = 0.0

    def apply(self, world: World) -> None:
        world.start(self.count, over=self.over)

    def __str__(self) -> str:
        spread = f", one after the other over {self.over:g} s" if self.over else ""
        return f"start {self.count} members{spread}"


class Rival(Operation, frozen=True):
    """A second process under a name that is in use."""

    key: str
    name: str

    def apply(self, world: World) -> None:
        world.start_one(self.key, name=self.name)

    def __str__(self) -> str:
        return f"start {self.key}, which also calls itself {self.name}"


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


class Leave(Operation, frozen=True):
    keys: Names

    def apply(self, world: World) -> None:
        world.leave(*self.keys)

    def __str__(self) -> str:
        return f"let {_list(self.keys)} leave"


class Freeze(Operation, frozen=True):
    keys: Names

    def apply(self, world: World) -> None:
        world.freeze(*self.keys)

    def __str__(self) -> str:
        return f"freeze {_list(self.keys)}"


class Thaw(Operation, frozen=True):
    keys: Names

    def apply(self, world: World) -> None:
        world.thaw(*self.keys)

    def __str__(self) -> str:
        return f"thaw {_list(self.keys)}"


class Slow(Operation, frozen=True):
    keys: Names
    lag: Seconds
    """0 is full speed again."""

    def apply(self, world: World) -> None:
        world.slow(self.lag, *self.keys)

    def __str__(self) -> str:
        pace = f"every step about {self.lag:g} s late" if self.lag else "full speed again"
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
        return f"let the clock of {_list(self.keys)} gain {self.rate:g} s a second"


class Canary(Operation, frozen=True):
    """An operator gives a release a share of the keys, at one of the members; it may refuse."""

    key: str
    release: str
    share: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    """Basis points."""

    def apply(self, world: World) -> None:
        body = canary(self.release, self.share)

        def write(participant: SimulatedNode, now: float) -> None:
            if isinstance(participant, Node):
                with contextlib.suppress(PolicyRefused):
                    participant.write_policy(SERVICE, encode_body(body), at=0, now=now)

        world.command(self.key, write)

    def __str__(self) -> str:
        return f"set the canary {self.release} to {self.share / 100:g} % at {self.key}"


class Cut(Operation, frozen=True):
    """``other`` empty is everyone else."""

    one: Names
    other: Names = ()

    def apply(self, world: World) -> None:
        _exist(world, self.one, self.other)
        world.cut(self.one, self.other or None)

    def __str__(self) -> str:
        return f"cut {_list(self.one)} off from {_list(self.other) if self.other else 'everyone else'}"


class CutOneWay(Operation, frozen=True):
    """Empty is everyone."""

    sources: Names
    targets: Names

    def apply(self, world: World) -> None:
        _exist(world, self.sources, self.targets)
        world.cut_one_way(self.sources or None, self.targets or None)

    def __str__(self) -> str:
        return f"let nothing through from {_all(self.sources)} to {_all(self.targets)}"


class Degrade(Operation, frozen=True):
    """Empty is everyone."""

    trouble: LinkFault
    sources: Names = ()
    targets: Names = ()

    def __post_init__(self) -> None:
        """Raises ValueError for trouble that no network makes: a probability over 1, time that runs backwards."""
        trouble, burst = self.trouble, self.trouble.burst
        shares = {"loss": trouble.loss, "duplicate": trouble.duplicate, "burst.loss": burst.loss if burst else 0.0}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, not {share:g}")
        for name, seconds in (("delay", trouble.delay), ("jitter", trouble.jitter)):
            if not 0 <= seconds <= LONGEST:
                raise ValueError(f"{name} is from 0 to {LONGEST} seconds, not {seconds:g}")
        if burst is not None and not (0 < burst.mean_good <= LONGEST and 0 < burst.mean_bad <= LONGEST):
            raise ValueError(f"mean_good and mean_bad are seconds, more than 0 and at most {LONGEST}")
        if trouble.mtu < 0:
            raise ValueError(f"mtu is a number of bytes, or 0 for no limit, not {trouble.mtu}")

    def apply(self, world: World) -> None:
        _exist(world, self.sources, self.targets)
        world.degrade(self.trouble, self.sources or None, self.targets or None)

    def __str__(self) -> str:
        return f"trouble from {_all(self.sources)} to {_all(self.targets)}: {self.trouble}"


class Heal(Operation, frozen=True):
    def apply(self, world: World) -> None:
        world.heal()

    def __str__(self) -> str:
        return "heal the network"


class Refuse(Operation, frozen=True):
    """Hosts without a process refuse datagrams, or are silent (as they are at first)."""

    refuses: bool = True

    def apply(self, world: World) -> None:
        world.refuse(self.refuses)

    def __str__(self) -> str:
        return f"hosts without a process {'refuse what is sent to them' if self.refuses else 'are silent'}"


AnyOperation = (
    Start
    | Rival
    | Run
    | Crash
    | Restart
    | Leave
    | Freeze
    | Thaw
    | Slow
    | JumpClock
    | DriftClock
    | Canary
    | Cut
    | CutOneWay
    | Degrade
    | Heal
    | Refuse
)


class InvalidStory(ValueError):
    """A story file that cannot be read, or that names a host which does not exist then. Says where."""


class Story(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A seed and what happens. Played twice, it leaves the same trace."""

    seed: int
    operations: tuple[AnyOperation, ...]
    title: str = ""
    latency: LatencyName = "lan"
    """Of every link, before any trouble."""
    period: Annotated[float, msgspec.Meta(ge=0.02, le=10)] = 0.2
    """Of the protocol, seconds."""

    def __str__(self) -> str:
        head = f"{self.title} (seed {self.seed})" if self.title else f"seed {self.seed}"
        unusual = [f"period {self.period:g} s"] * (self.period != 0.2) + ["links of a WAN"] * (self.latency == "wan")
        return "\n".join([", ".join([head, *unusual]), *(f"  {operation}" for operation in self.operations)])

    @property
    def settings(self) -> ProtocolSettings:
        """What the members run with."""
        return ProtocolSettings(period=self.period)

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        runs = (operation.seconds for operation in self.operations if isinstance(operation, Run))
        return sum(runs) + sum(operation.over for operation in self.operations if isinstance(operation, Start))

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Story:
        """Read what :meth:`to_json` wrote, or what somebody wrote by hand. Raises :class:`InvalidStory`."""
        try:
            story = msgspec.json.decode(text, type=cls)
            _nothing_ignored(msgspec.json.decode(text), msgspec.to_builtins(story), "$")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidStory(str(error)) from None
        return story

    def world(self) -> World:
        """A world to play it in, of the real Node."""
        factory = RumormillFactory(settings=self.settings)
        return World(seed=self.seed, factory=factory, latency=LATENCIES[self.latency])

    def play(self, world: World) -> None:
        """Do all of it, in a world made with this story's seed. Raises :class:`InvalidStory`."""
        for number, operation in enumerate(self.operations, 1):
            try:
                operation.apply(world)
            except KeyError as error:
                raise InvalidStory(f"operation {number} ({operation}): there is no host {error}") from None
            except ValueError as error:
                if not isinstance(operation, Start | Rival):
                    raise
                raise InvalidStory(f"operation {number} ({operation}): {error}") from None


def _nothing_ignored(written: object, read: object, place: str) -> None:
    """Raises :class:`InvalidStory` for a field that was written and means nothing: trouble has no spelling to lose."""
    if isinstance(written, dict) and isinstance(read, dict):
        for name, value in written.items():
            if name not in read:
                raise InvalidStory(f"Object contains unknown field `{name}` - at `{place}`")
            _nothing_ignored(value, read[name], f"{place}.{name}")
    elif isinstance(written, list) and isinstance(read, list | tuple):
        for number, (one, other) in enumerate(zip(written, read, strict=True)):
            _nothing_ignored(one, other, f"{place}[{number}]")


def _exist(world: World, *keys: Collection[str]) -> None:
    """Raises KeyError for a host that was never started: a fault would stand on no link, and nobody would notice."""
    for key in (key for group in keys for key in group):
        if key not in world.hosts:
            raise KeyError(key)


def canary(release: str, share: int) -> CanaryPolicy:
    """A policy that gives one release so many basis points."""
    return CanaryPolicy([Share(release, share)])


def _list(keys: Names) -> str:
    return ", ".join(keys) if keys else "nobody"


def _all(keys: Names) -> str:
    return ", ".join(keys) if keys else "everyone"
