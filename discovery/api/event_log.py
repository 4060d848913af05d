"""The events that this run of the sidecar concluded, numbered; it keeps the last thousand. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from rumormill.discovery.http.response import PreparedResponse, prepare_json
from rumormill.discovery.schema.answers import EventRow, EventsAnswer
from rumormill.discovery.workers import timestamp
from rumormill.membership.view import Event

MAX_EVENTS: Final = 1000


class EventLog:
    """Numbers events from 1, and forgets the oldest beyond a thousand."""

    def __init__(self, *, process: str, wall_offset: float) -> None:
        self.process = process
        self.wall_offset = wall_offset
        self.index = 0
        """The number of the newest event; 0 before the first."""
        self._rows: deque[EventRow] = deque(maxlen=MAX_EVENTS)
        self._all: PreparedResponse | None = None

    def extend(self, events: Iterable[Event]) -> None:
        for event in events:
            self.index += 1
            at = timestamp(event.at + self.wall_offset)
            states = (event.old, event.new, event.reason)
            self._rows.append(EventRow(self.index, at, event.kind, event.member, event.text, *states))
            self._all = None

    def after(self, since: int) -> PreparedResponse:
        """The events above `since`, oldest first. If `since` is no number of this log, all events that are kept."""
        if since <= 0 or since > self.index:
            if self._all is None:
                self._all = self._prepare(0)
            return self._all
        return self._prepare(len(self._rows) - (self.index - since))

    def _prepare(self, skip: int) -> PreparedResponse:
        answer = EventsAnswer(self.process, self.index, list(islice(self._rows, max(skip, 0), None)))
        headers = (("X-Rumormill-Index", str(self.index)), ("X-Rumormill-Process", self.process))
        return prepare_json(answer, etag=f'W/"{self.process}-e{self.index}"', headers=headers)
