"""Why a key goes where it goes: each stage of the choice, and every worker in the order of preference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from rumormill.ring.admission import (
    admit_fraction_by_age,
    admit_fraction_by_readiness,
    admit_fraction_by_utilization,
    key_fraction,
    utilization_bound,
)
from rumormill.ring.hash_ring import Key, key_position
from rumormill.ring.routing import Routing
from rumormill.ring.worker import LivenessWord, ReadinessWord, Worker
from rumormill.ring.zones import zone_slot

CIRCLE: Final = 2**32
SLOTS: Final = 10_000


class Candidate(msgspec.Struct, frozen=True):
    """One worker in a key's order."""

    name: str
    release: str
    zone: str
    weight: float
    liveness: LivenessWord
    utilization: float | None
    point: int
    """The position of its first point on the walk around its release's ring, 0 to 2**32 - 1."""
    admits: float
    """The fraction of its keys that it admits now, by slow start, a warning of its sidecar, and load."""
    objection: str
    """Why a caller goes on to the next worker; empty if it does not."""
    why: str
    """Why it is at this place in the order, in words."""


class Explanation(msgspec.Struct, frozen=True):
    """One key's way through the traffic split, the zones, the ring, slow start, warnings and load."""

    service: str
    key: str
    routing_digest: str
    position: int
    """The key's own hash on the ring, 0 to 2**32 - 1."""
    gate_slot: int
    """The key's slot in the traffic split, of 10 000."""
    release: str | None
    """The candidate release that serves it; null for the rest, or if no worker is routable."""
    gate: str
    """What the traffic split did, in words."""
    zone: str
    """The zone preferred; empty for none."""
    zone_slot: int
    """The key's slot for the choice of the zone, of 10 000."""
    zone_kept: int
    """Basis points of that zone's keys that stay in it; 10 000 if no zone is preferred."""
    zoned: str
    """What the zone did, in words."""
    place: float
    """The key's own fraction, 0 to 1, that slow start, warnings and load compare with what a worker admits."""
    chosen: str | None
    """The worker that a caller would use now: the first without an objection, or the first with the least objection."""
    candidates: list[Candidate]


def explain(
    routing: Routing,
    key: Key,
    *,
    zone: str | None = None,
    utilization: Mapping[str, float] | None = None,
    ages: Mapping[str, float] | None = None,
    liveness: Mapping[str, LivenessWord] | None = None,
    readiness: Mapping[str, ReadinessWord] | None = None,
) -> Explanation:
    """Explain a key. `zone` is the caller's, as for :meth:`Routing.walk`.

    By name, where known: `utilization` (0 to 1), `liveness` and `readiness` as they are now, which a routing may be too
    old to know, and `ages`, the seconds since each worker became routable; one without an age counts as warm.
    """
    preferred = routing.policy.zone if zone is None else zone
    group = next(routing.groups(key), None)
    local = routing.local_basis_points(preferred, group) if preferred and routing.rings else SLOTS
    candidates = _CandidateList(routing, key, utilization or {}, ages or {}, liveness or {}, readiness or {}).all(zone)
    best = min(
        candidates, key=lambda candidate: _OBJECTION_RANKS.index(candidate.objection.partition(":")[0]), default=None
    )
    return Explanation(
        service=routing.service,
        key=key if isinstance(key, str) else key.decode(errors="replace"),
        routing_digest=routing.digest,
        position=key_position(key),
        gate_slot=routing.traffic_split.slot(key),
        release=group,
        gate=_describe_gate(routing, key),
        zone=preferred,
        zone_slot=zone_slot(key),
        zone_kept=local,
        zoned=_describe_zone(preferred, zone_slot(key), local),
        place=round(key_fraction(key), 4),
        chosen=best.name if best else None,
        candidates=candidates,
    )


_OBJECTION_RANKS = ["", "slow start", "warning", "load", "suspect"]
"""Objections from the least to the greatest."""


def _objection_rank(candidate: Candidate) -> int:
    return _OBJECTION_RANKS.index(candidate.objection.partition(":")[0])


class _CandidateList:
    """The workers in order, each with its objection."""

    def __init__(
        self,
        routing: Routing,
        key: Key,
        utilization: Mapping[str, float],
        ages: Mapping[str, float],
        liveness: Mapping[str, LivenessWord],
        readiness: Mapping[str, ReadinessWord],
    ) -> None:
        self._routing = routing
        self._key = key
        self._place = key_fraction(key)
        self._utilization = utilization
        self._ages = ages
        self._liveness = liveness
        self._readiness = readiness
        self._bounds = {
            group: utilization_bound(
                [(ring.weights[name], utilization[name]) for name in ring.weights if name in utilization]
            )
            for group, ring in routing.rings.items()
        }

    def all(self, zone: str | None) -> list[Candidate]:
        points: dict[str, int] = {}
        for ring in self._routing.rings.values():
            points.update((name, position) for position, name in ring.trace(self._key))
        turns: dict[str | None, int] = {}
        found = []
        for worker in self._routing.walk(self._key, zone=zone):
            group = self._routing.traffic_split.group(worker.release)
            turns[group] = turns.get(group, 0) + 1
            found.append(
                self._candidate(worker, points[worker.name], _describe_position(group, turns[group], len(turns)))
            )
        return found

    def _candidate(self, worker: Worker, point: int, why: str) -> Candidate:
        by_age = admit_fraction_by_age(self._ages.get(worker.name, float("inf")))
        by_readiness = admit_fraction_by_readiness(self._readiness.get(worker.name, worker.readiness))
        busy = self._utilization.get(worker.name)
        bound = self._bounds[self._routing.traffic_split.group(worker.release)]
        by_load = 1.0 if busy is None or bound is None else admit_fraction_by_utilization(1.0, busy, bound)
        liveness = self._liveness.get(worker.name, worker.liveness)
        objection = ""
        if liveness == "suspect":
            objection = "suspect: tried last"
        elif self._place >= by_load:
            objection = f"load: {busy:.2f} is over the bound of {bound:.2f}, it admits {by_load:.0%} of its keys"
        elif self._place >= by_readiness:
            objection = f"warning: its answers are late, and it admits {by_readiness:.0%} of its keys"
        elif self._place >= by_age:
            objection = f"slow start: it is new and admits {by_age:.0%} of its keys"
        return Candidate(
            name=worker.name,
            release=worker.release,
            zone=worker.zone,
            weight=worker.weight,
            liveness=liveness,
            utilization=busy,
            point=point,
            admits=round(min(by_age, by_readiness, by_load), 4),
            objection=objection,
            why=why,
        )


def _describe_position(group: str | None, turn: int, groups: int) -> str:
    whose = "the ring" if group is None else f"the ring of {group}"
    return f"{turn}. on {whose}" if groups == 1 else f"{turn}. on {whose}, in case the releases before it fail"


def _describe_gate(routing: Routing, key: Key) -> str:
    split = routing.traffic_split
    if not split.canary:
        return "no release has a share of its own: all workers are on one ring"
    if not routing.rings:
        return "no worker is routable"
    held, chosen = split.group_of_slot(split.slot(key)), next(routing.groups(key))
    slot = f"slot {split.slot(key)} of {SLOTS} belongs to {_named(held)} ({split.shares[held] / 100:g} %)"
    return slot if held == chosen else f"{slot}, which has no workers: drawn again for {_named(chosen)}"


def _named(group: str | None) -> str:
    return "the rest" if group is None else group


def _describe_zone(zone: str, slot: int, local: int) -> str:
    if not zone:
        return "no zone is preferred"
    if local >= SLOTS:
        return f"{zone} has its part of the capacity and keeps all of its keys"
    goes = "this one stays" if slot < local else "this one goes elsewhere"
    return f"{zone} keeps {local / 100:g} % of its keys for want of capacity; by its slot {slot} {goes}"
