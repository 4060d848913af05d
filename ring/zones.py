"""How many of a caller's keys stay in its own zone. Pure arithmetic on whole numbers, so that every language agrees.

We assume that callers are spread evenly over the zones that have routable workers, so each zone should have an even
part of the capacity. A zone with the fraction c of its even part keeps min(1, 1.25 c) of its callers' keys. That loads
its workers with at most 1.25 times the mean, the same limit as bounded load. The other keys go to the other zones. So a
zone that loses workers sheds load in proportion, worker by worker, and never all of it at once (the idea of Envoy's
zone-aware routing and overprovisioning factor). A hash of the key decides which keys leave, so they are the same each
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import mmh3

SLOTS: Final = 10_000
"""A key's zone slot is below this; below the kept basis points it stays in the caller's zone."""
MAX_ZONE_LOAD: Final = 12_500
"""Basis points of an even share that a zone may carry."""
_SEED: Final = 0x7A6F6E65

_hash = mmh3.hash


def zone_slot(key: str | bytes) -> int:
    """A key's zone slot, by a hash that neither the ring nor the traffic split uses."""
    return _hash(key, _SEED, False) * SLOTS >> 32


def zone_basis_points(zone: str, capacities: Mapping[str, int], zones: int) -> int:
    """How many of 10 000 keys of a caller in `zone` stay there.

    `capacities` are the thousandths of weight of each zone, of the workers that may serve these keys; `zones` counts
    the zones of the whole service.
    """
    total = sum(capacities.values())
    return min(SLOTS, MAX_ZONE_LOAD * capacities.get(zone, 0) * zones // total) if total else 0


def capacity_by_zone(weighted: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Zone to thousandths of weight."""
    totals: dict[str, int] = {}
    for zone, thousandths in weighted:
        totals[zone] = totals.get(zone, 0) + thousandths
    return totals
