"""The events of all members, in order: for measurements, and as context of a violated invariant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rumormill.membership.view import Event
from rumormill.simulations.scheduler import SECOND


@dataclass(frozen=True, slots=True)
class ObservedEvent:
    """One member's event about another, with the world's time."""

    at: float
    """Seconds since the world began."""
    observer: str
    """Key of the host whose member reported the event."""
    kind: str
    member: str
    """Name of the member it is about."""
    text: str

    def __str__(self) -> str:
        return f"{self.at:9.3f} s  {self.observer:>6}: {self.text}"


class History:
    """Events in the order they happened. Kinds in ``counted_only`` are counted but not kept."""

    def __init__(self, counted_only: Collection[str] = ("joined",)) -> None:
        self.counts: Counter[str] = Counter()
        self._counted_only = frozenset(counted_only)
        self._kept: list[ObservedEvent] = []

    def add(self, now: int, observer: str, events: Sequence[Event]) -> None:
        """``now`` in microseconds of the world."""
        for event in events:
            self.counts[event.kind] += 1
            if event.kind not in self._counted_only:
                self._kept.append(ObservedEvent(now / SECOND, observer, event.kind, event.member, event.text))

    def __iter__(self) -> Iterator[ObservedEvent]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, kind: str, member: str | None = None, since: float = 0.0) -> list[ObservedEvent]:
        """Events of one kind since a time, optionally about one member only."""
        return [c for c in self._kept if c.kind == kind and c.at >= since and member in (None, c.member)]

    def tail(self, count: int = 40) -> str:
        """The last ``count`` events, one per line."""
        return "\n".join(map(str, self._kept[-count:]))
