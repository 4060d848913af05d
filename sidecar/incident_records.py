"""Writes the flight recorder's record to a file at each incident, so that it is there when somebody asks why.

An incident is an event of :data:`INCIDENTS`, a crash or a kill of the agent, or a member whose table has differed from
ours for :data:`DIFFERENCE_SECONDS`. Of records within a minute, which would mostly hold the same, one is written.
Only the latest :data:`MAX_FILES` are kept. A kill cannot be written down when it happens: the next start keeps what
live_record.py has written until then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from rumormill.gossip import Node
from rumormill.membership.view import Event
from rumormill.recording.recorder import FlightRecorder, RecordedNode
from rumormill.sidecar.file_writer import replace_file
from rumormill.sidecar.live_record import LIVE_SUFFIX, LiveRecord

INCIDENTS: Final = frozenset({"isolated", "rejoined", "paused", "taken"})
"""Events after which the record is kept: this member was cut off, and back; was paused; or lost its name."""
DIFFERENCE_SECONDS: Final = 10.0
"""Tables become equal within about a second of a change."""
POLL_SECONDS: Final = 1.0
AFTER_SECONDS: Final = 5.0
"""Seconds from the event until the record is written, so that what followed is in it too."""
MIN_INTERVAL: Final = 60.0
MAX_FILES: Final = 20
SUFFIX: Final = ".rumor"
STAMPS: Final = "[0-9]" * 8 + "T" + "[0-9]" * 6 + "Z"
"""What the time in a file's name matches. Without it, the files of a member `w1-b` would be taken for those of `w1`."""


def incident_records(folder: Path | None, node: Node, name: str, warn: Callable[[str], None]) -> IncidentRecords:
    """Those of this Node, if it has a flight recorder."""
    recorder = node.recorder if isinstance(node, RecordedNode) else None
    return IncidentRecords(folder, name, recorder, lambda: node.inspect().digests_differ_for, warn)


class IncidentRecords:
    """The files of one agent in a folder. Without a folder it does nothing."""

    def __init__(
        self,
        folder: Path | None,
        name: str,
        recorder: FlightRecorder | None,
        digests_differ_for: Callable[[], float],
        warn: Callable[[str], None],
    ) -> None:
        """`digests_differ_for` is in seconds (NodeInspection.digests_differ_for)."""
        self._folder = folder if recorder is not None else None
        self._name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
        self._recorder = recorder
        self._digests_differ_for = digests_differ_for
        self._warn = warn
        self._incident = ""
        self._seen = trio.Event()
        self._next_at = -math.inf

    def note(self, events: Sequence[Event]) -> None:
        """Take in what the Node concluded."""
        for event in events:
            if event.kind in INCIDENTS:
                self._begin(event.kind)

    def _begin(self, incident: str) -> None:
        self._incident = incident
        self._seen.set()

    async def run(self) -> None:
        """Write a record some seconds after each incident. Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_digests)
            nursery.start_soon(self._write_each)
            nursery.start_soon(self._write_live)

    async def _watch_digests(self) -> None:
        while True:
            await trio.sleep(POLL_SECONDS)
            if self._digests_differ_for() >= DIFFERENCE_SECONDS and not self._seen.is_set():
                self._begin("digests-differ")

    async def _write_each(self) -> None:
        while True:
            await self._seen.wait()
            await trio.sleep(max(AFTER_SECONDS, self._next_at - trio.current_time()))
            self._seen = trio.Event()
            self._next_at = trio.current_time() + MIN_INTERVAL
            if self._recorder is not None and self._folder is not None:
                data = self._recorder.dump()
                await trio.to_thread.run_sync(self._write, self._incident, data, abandon_on_cancel=True)

    async def _write_live(self) -> None:
        if self._recorder is None or self._folder is None:
            return
        live = LiveRecord(self._folder / f"{self._name}{LIVE_SUFFIX}{SUFFIX}", self._recorder, self._warn)
        await trio.to_thread.run_sync(self._keep_that_of_a_kill, live.path)
        await live.run()

    def write_now(self, incident: str) -> None:
        """Write a record at once, because the process is about to end. Blocks for the disk."""
        if self._recorder is not None and self._folder is not None:
            self._write(incident, self._recorder.dump())

    def _write(self, incident: str, data: bytes) -> None:
        path = self._path(incident, datetime.now(UTC))
        try:
            self._make_room(path.parent)
            replace_file(path, data)
        except OSError as error:
            self._warn(f"{path}: {error.strerror or error}")

    def _keep_that_of_a_kill(self, live: Path) -> None:
        """Give the live record of an agent that was killed a name of its own. Blocks for the disk."""
        try:
            self._make_room(live.parent)
            if live.exists():
                live.rename(self._path("killed", datetime.fromtimestamp(live.stat().st_mtime, UTC)))
        except OSError as error:
            self._warn(f"{live}: {error.strerror or error}")

    def _path(self, incident: str, at: datetime) -> Path:
        assert self._folder is not None  # noqa: S101  for the type checker
        return self._folder / f"{self._name}-{at:%Y%m%dT%H%M%SZ}-{incident}{SUFFIX}"

    def _make_room(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob(f"{self._name}-{STAMPS}-*{SUFFIX}"))[: 1 - MAX_FILES]:
            old.unlink(missing_ok=True)
