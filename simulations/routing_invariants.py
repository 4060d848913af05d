"""Invariants of the answers to callers: the routing view that discovery builds from each member's view.

==============  =====================================================================================================
index           the index of a process's answers never falls, and changes whenever the routing digest changes
owners          members with equal routing digests name equal owners in equal order, for every sampled key
==============  =====================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping

from rumormill.discovery.view import RoutingView
from rumormill.membership import PoolView
from rumormill.ring import Routing
from rumormill.simulations.factories import SERVICE
from rumormill.simulations.invariants import InvariantViolation

_KEYS = tuple(f"user-{number}" for number in range(40))


class RoutingInvariants:
    """Keeps a routing view for each process, as its sidecar does."""

    def __init__(self) -> None:
        self._views: dict[str, RoutingView] = {}
        self._seen: dict[str, tuple[int, str]] = {}
        self._answers: dict[str, tuple[Routing, list[tuple[str, ...]]]] = {}
        """By process: the routing that it last answered from, and the owners that this names for each key."""
        self._starts = 0

    def process_started(self, key: str) -> None:
        self._starts += 1
        self._views[key] = RoutingView(process=f"{key}-{self._starts}", wall_offset=0.0)
        self._seen.pop(key, None)

    def check(self, views: Mapping[str, PoolView]) -> None:
        """Raises :class:`InvariantViolation`."""
        by_digest: dict[str, list[str]] = {}
        for key, view in views.items():
            self._views[key].update(view)
            service = self._views[key].service(SERVICE)
            self._check_index(key, service.index, service.routing_digest)
            by_digest.setdefault(service.routing_digest, []).append(key)
        for digest, keys in by_digest.items():  # three per digest, because a ring costs 256 points per member
            self._check_owners(digest, [keys[0], keys[len(keys) // 2], keys[-1]])

    def _check_index(self, key: str, index: int, digest: str) -> None:
        before = self._seen.get(key)
        self._seen[key] = (index, digest)
        if before is None:
            return
        if index < before[0] or (index == before[0] and digest != before[1]):
            raise InvariantViolation(
                "index", f"{key} went from index {before[0]} to {index}, digest {before[1]} to {digest}"
            )

    def _check_owners(self, digest: str, keys: list[str]) -> None:
        answers = [self._owners_by(key) for key in keys]
        if any(answer != answers[0] for answer in answers):
            raise InvariantViolation("owners", f"{keys} agree on digest {digest} and differ on owners")

    def _owners_by(self, key: str) -> list[tuple[str, ...]]:
        """The owners of each key, as one process names them. A routing never changes, so it is asked once."""
        service = self._views[key].service(SERVICE)
        routing = service.routing or service.build_routing()
        service.set_routing(routing)
        before = self._answers.get(key)
        if before is None or before[0] is not routing:
            before = self._answers[key] = (
                routing,
                [tuple(worker.name for worker in routing.owners(user)) for user in _KEYS],
            )
        return before[1]
