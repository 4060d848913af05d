"""What happens to a pool, and when: read from TOML, checked, compressed, and laid out in time. Pure but for the file.

Every time has a unit ("5m"). :func:`lay_out` turns the faults into moments. A fault with ``every`` comes first after
half of that time, so that there is a calm stretch before it to compare with.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from rumormill.cli.durations import parse_time
from rumormill.cli.exit_codes import BadRequest

FaultKind = Literal["kill", "restart", "freeze", "slow", "cut", "lose", "fill", "skew"]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
RANDOM = "random"
SIZES = {"KB": 1000, "MB": 1000**2, "GB": 1000**3}
HINT = "`rumormill chaos run --help` shows a schedule; docs/run/chaos.md explains every key"
MOST_FAULTS = 10_000


class TimeSpan(float):
    """A time, written with a unit."""


class ByteSize(int):
    """A size, written with a unit."""


Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class FaultSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of fault: when it comes, whom it hits, and how long it lasts."""

    kind: FaultKind
    every: TimeSpan | None = None
    at: tuple[TimeSpan, ...] = ()
    lasts: TimeSpan = TimeSpan(60.0)
    target: str = RANDOM
    """A member's name, or `random`: one that no other fault holds at that moment."""
    share: Share = 0.3
    """lose: the share of packets that are dropped. slow: the share of time for which the worker is stopped."""
    path: Path | None = None
    """fill: a folder on the file system to fill. The pool's own folder without it."""
    at_most: ByteSize = ByteSize(SIZES["GB"])
    """fill: refuse a file system with more free space than that."""
    offset: TimeSpan = TimeSpan(3600.0)
    """skew: how far the wall clock is set ahead."""


class FaultCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The user's own commands for a fault. {name} and {host} are replaced; no shell reads them."""

    do: str
    undo: str


class ObjectivesSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is promised to callers."""

    availability: Share = 0.999
    """The share of requests with a right answer. The rest is the error budget."""
    latency: TimeSpan = TimeSpan(0.25)
    """99 % of requests take at most this long."""
    recovery: TimeSpan = TimeSpan(5.0)
    """From a fault, the longest time until the last failed or slow request."""
    rejoin: TimeSpan = TimeSpan(30.0)
    """From a fault's end, the longest time until every sidecar sends work to the member again."""


class AbortSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The guard: stop, and undo everything, when more than this share of the latest requests failed."""

    errors: Share = 0.01
    over: TimeSpan = TimeSpan(30.0)


class TrafficSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The requests."""

    rate: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 50.0
    command: str | None = None
    """A program that sends the requests instead. {sidecars} is replaced by their URLs, with commas between."""
    model: str | None = None
    """The model to ask an existing pool for embeddings."""


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole run."""

    duration: TimeSpan = msgspec.field(default=TimeSpan(3600.0), name="for")
    seed: int = 1
    service: str = "embed"
    traffic: TrafficSpec = TrafficSpec()
    objectives: ObjectivesSpec = ObjectivesSpec()
    abort: AbortSpec = AbortSpec()
    fault: tuple[FaultSpec, ...] = ()
    commands: dict[FaultKind, FaultCommand] = {}

    def compressed(self, factor: float) -> Schedule:
        """The same course in a fraction of the time. What is promised to callers stays as it is."""

        def shorter(seconds: float) -> TimeSpan:
            return TimeSpan(seconds / factor)

        faults = tuple(
            msgspec.structs.replace(
                fault,
                every=None if fault.every is None else shorter(fault.every),
                at=tuple(map(shorter, fault.at)),
                lasts=shorter(fault.lasts),
            )
            for fault in self.fault
        )
        return msgspec.structs.replace(self, duration=shorter(self.duration), fault=faults)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault and its moment, in seconds from the start of the run."""

    at: float
    spec: FaultSpec


def kill_schedule(every: float, lasts: float) -> tuple[FaultSpec, ...]:
    """One worker with its sidecar killed every so often: the published practice."""
    return (FaultSpec(kind="kill", every=TimeSpan(every), lasts=TimeSpan(lasts)),)


def read_schedule(path: Path) -> Schedule:
    """Raises :class:`BadRequest`."""
    try:
        return decode_schedule(tomllib.loads(path.read_text()))
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}", "give another file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is not TOML: {error}", HINT) from None
    except msgspec.ValidationError as error:
        raise BadRequest(f"{path}: {error}", HINT) from None


def decode_schedule(given: dict[str, Any]) -> Schedule:
    """Raises msgspec.ValidationError, :class:`BadRequest`."""
    schedule = msgspec.convert(given, Schedule, dec_hook=_with_unit)
    if not schedule.fault:
        raise BadRequest("the schedule has no [[fault]]", HINT)
    return schedule


def _with_unit(kind: type, given: Any) -> Any:
    if kind is TimeSpan and isinstance(given, str):
        return TimeSpan(parse_time("the time", given))
    if kind is ByteSize and isinstance(given, str):
        number, unit = given[:-2].strip(), given[-2:]
        if unit in SIZES and number.isdigit():
            return ByteSize(int(number) * SIZES[unit])
        raise ValueError(f"{given!r} is not a size; write it with a unit: {', '.join(f'1{unit}' for unit in SIZES)}")
    raise ValueError(f"{given!r} has no unit; write it in quotes: " + ('"30s"' if kind is TimeSpan else '"1GB"'))


def lay_out(schedule: Schedule) -> list[PlannedFault]:
    """The moments of all faults, in order. Raises :class:`BadRequest` for a fault that never comes."""
    planned: list[PlannedFault] = []
    for spec in schedule.fault:
        moments: list[float] = list(spec.at)
        if spec.every is not None:
            if spec.every <= 0 or schedule.duration / spec.every > MOST_FAULTS:
                raise BadRequest(f"a {spec.kind} every {spec.every:g} s is too often", "give a longer `every`")
            moments += [(n + 0.5) * spec.every for n in range(math.ceil(schedule.duration / spec.every))]
        within = [PlannedFault(moment, spec) for moment in moments if moment < schedule.duration]
        if not within:
            raise BadRequest(
                f"the {spec.kind} never comes within {schedule.duration:g} s",
                "give it `every` or `at`, or a longer `for`",
            )
        planned += within
    return sorted(planned, key=lambda fault: fault.at)
