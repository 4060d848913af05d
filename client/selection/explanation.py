"""Why a key goes where it goes: `pool.explain(key)`.

    print(pool.explain("user-7"))
    1. w3   first owner of the key
    2. w1   owner 3 of the key
    3. w2   owner 2 of the key; breaker open for 3.2 s more

The order is the one in which the pool would ask the workers for a request with this key that began now. It asks the
same questions as the choice itself (worker_selector.py), so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rumormill.client.selection.admission import OVERLOADED, SLOW, STARTING
from rumormill.client.selection.worker_selector import BREAKER_OPEN, SUSPECT, WorkerSelector
from rumormill.ring.admission import SLOW_START_SECONDS, WARNING_FRACTION, key_fraction
from rumormill.ring.traffic_split import Group
from rumormill.ring.worker import Worker

ReasonKind = Literal[
    "owner",
    "canary",
    "zone",
    "suspect",
    "breaker_open",
    "refused",
    "load",
    "warning",
    "slow",
    "slow_start",
    "not_ready",
    "evicted",
]


@dataclass(frozen=True, slots=True)
class PlaceReason:
    """One thing that decides a worker's place."""

    kind: ReasonKind
    text: str
    """For people."""
    seconds: float | None = None
    """How much longer it lasts, where that is known."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """One worker's place for a key."""

    worker: Worker
    owner: int | None
    """Its number among the key's owners, from 1. None for a last resort, which is not in the ring."""
    reasons: tuple[PlaceReason, ...]

    def __str__(self) -> str:
        return f"{self.worker.name}  {'; '.join(map(str, self.reasons))}"


@dataclass(frozen=True, slots=True)
class KeyExplanation:
    """The order of the workers for one key."""

    key: str | bytes
    places: tuple[WorkerPlace, ...]
    """In the order in which they would be asked. Workers of weight 0 are never asked, and are not in it."""

    def __str__(self) -> str:
        return "\n".join(f"{number}. {place}" for number, place in enumerate(self.places, 1)) or "no worker"


def explain_key(selector: WorkerSelector, key: str | bytes, now: float) -> KeyExplanation:
    """The order of the workers for this key, with the reasons for each place."""
    fraction = key_fraction(key)
    ranked = [
        (selector.rank(worker, fraction, now, first=number == 1), number, worker)
        for number, worker in enumerate(selector.owners(key), 1)
    ]
    ranked.sort(key=lambda place: place[:2])
    places = [
        WorkerPlace(worker, number, tuple(_owner_reasons(selector, key, number, worker, rank, now)))
        for rank, number, worker in ranked
    ]
    places += [
        WorkerPlace(worker, None, tuple(_last_resort_reasons(selector, worker, now)))
        for worker in selector.last_resort(now)
    ]
    by_url: dict[str, WorkerPlace] = {}
    for place in places:
        by_url.setdefault(place.worker.url, place)
    return KeyExplanation(key, tuple(by_url.values()))


def _owner_reasons(
    selector: WorkerSelector, key: str | bytes, number: int, worker: Worker, rank: int, now: float
) -> Iterator[PlaceReason]:
    yield PlaceReason("owner", "first owner of the key" if number == 1 else f"owner {number} of the key")
    yield from _split_reasons(selector, key, worker)
    yield from _zone_reasons(selector, key, worker)
    yield from _penalty_reasons(selector, worker, rank, now)


def _split_reasons(selector: WorkerSelector, key: str | bytes, worker: Worker) -> Iterator[PlaceReason]:
    """What the canary shares decide, if there are any."""
    routing = selector.topology.routing
    if len(routing.rings) < 2:
        return
    chosen: Group = next(iter(routing.groups(key)))
    if routing.traffic_split.group(worker.release) == chosen:
        name = "the releases without a share" if chosen is None else f"release {chosen!r}"
        yield PlaceReason("canary", f"the canary shares send this key to {name}")
    else:
        yield PlaceReason("canary", "of another release than the canary shares choose")


def _zone_reasons(selector: WorkerSelector, key: str | bytes, worker: Worker) -> Iterator[PlaceReason]:
    if zone := selector.preferred_zone:
        where = "in" if worker.zone == zone else "not in"
        group = selector.topology.routing.traffic_split.group(worker.release)
        stays = "stay in it" if selector.stays_in_zone(key, group) else "leave it"
        yield PlaceReason("zone", f"{where} the zone {zone!r}, and the key is one of those that {stays}")


def _penalty_reasons(selector: WorkerSelector, worker: Worker, rank: int, now: float) -> Iterator[PlaceReason]:
    """What ranks the worker behind others, the weightiest first."""
    stats = selector.stats(worker)
    if rank & SUSPECT:
        yield PlaceReason("suspect", "suspect: other members do not hear its sidecar")
    if rank & BREAKER_OPEN:
        left, reason = stats.breaker.time_left(now), stats.breaker.reason
        why = "unknown" if reason is None else reason.name.lower()
        yield PlaceReason("breaker_open", f"breaker open for {left:.1f} s more ({why})", left)
    if rank & OVERLOADED:
        left = stats.overloaded_until - now
        if left > 0:
            yield PlaceReason("refused", f"answered 429, and is skipped for {left:.1f} s more", left)
        else:
            busy = selector.utilization(worker)
            load = f"{stats.in_flight} requests in flight here" if busy is None else f"utilization {busy:.2f}"
            yield PlaceReason("load", f"more than its share of the load: {load}")
    if rank & SLOW and worker.readiness != "warning":
        yield PlaceReason("slow", "its answers take more than four times as long as such requests do elsewhere")
    elif rank & SLOW:
        yield PlaceReason("warning", f"warning: it admits {WARNING_FRACTION:.0%} of its keys, and not this one")
    if rank & STARTING:
        text = f"slow start: it admits all of its keys only after {SLOW_START_SECONDS:g} s, and not this one yet"
        yield PlaceReason("slow_start", text)


def _last_resort_reasons(selector: WorkerSelector, worker: Worker, now: float) -> Iterator[PlaceReason]:
    if any(worker is departed for _, departed in selector.topology.departed):
        yield PlaceReason("evicted", "evicted or gone, and asked last: perhaps only its sidecar died")
    else:
        yield PlaceReason("not_ready", f"{worker.readiness}, so not in the ring: a last resort")
    yield from _penalty_reasons(selector, worker, selector.rank(worker, 0.0, now), now)
