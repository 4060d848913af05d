"""Whether the worker makes progress: its counters move, stand still with work to do, or are not known. Pure; times in
seconds.

A counter that stands still says nothing while there is no work. So what counts is the time for which requests were
known to run or wait, and no counter moved. A prefill of a long prompt also stands still. The longest such pause that
ended by itself is remembered, and twice as long is granted from then on. A pause that was taken for a stall is granted
as long as it was: otherwise each fault that heals would double the time until the next one is found.
"""

from __future__ import annotations

from typing import Final

from rumormill.sidecar.counters.reading import CounterReading

STALE_SECONDS: Final = 3.0
"""Older figures say nothing any more. Larger: a frozen metrics page hides for longer that nothing is known."""
PAUSE_GRACE: Final = 2.0
"""How many times the longest pause so far may last. Larger: a stall is noticed later; smaller: a somewhat longer prompt
than all before looks like a stall."""
PAUSE_MEMORY_SECONDS: Final = 3600.0
"""A pause is remembered for this long, and at most twice as long."""


class LongestPause:
    """The longest pause of late."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._now = self._before = 0.0
        """The longest pause in this period, and in the one before it."""

    def record(self, seconds: float, now: float) -> None:
        self._turn(now)
        self._now = max(self._now, seconds)

    def seconds(self, now: float) -> float:
        self._turn(now)
        return max(self._now, self._before)

    def _turn(self, now: float) -> None:
        if now - self._since >= PAUSE_MEMORY_SECONDS:
            recent = now - self._since < 2 * PAUSE_MEMORY_SECONDS
            self._before, self._now, self._since = (self._now if recent else 0.0), 0.0, now


class ProgressTracker:
    """One source of counters: the engine's own, or what the callers report."""

    def __init__(self, unit: str) -> None:
        """``unit`` is one step of progress, as in "token was produced"."""
        self._unit = unit
        self._reading = CounterReading()
        self.read_at = float("-inf")
        self._working_since: float | None = None
        """Since when requests are known to run or wait."""
        self._pause = LongestPause()
        self.moved_at = float("-inf")
        """When a counter last moved."""
        self.moves = 0
        """How often one has moved."""

    def read(self, reading: CounterReading, now: float, *, stalled: bool = False) -> bool:
        """Take the next figures. Returns whether the worker has made progress since the last ones.

        ``stalled`` says what it was held to be until now.
        """
        before, self._reading, self.read_at = self._reading, reading, now
        moved = None not in (before.progress, reading.progress) and before.progress != reading.progress
        if moved:
            self._learn(now, stalled)
            self.moved_at = now
            self.moves += 1
        if not reading.at_work:
            self._working_since = None
        elif self._working_since is None:
            self._working_since = now
        return moved

    def forget(self) -> None:
        """Another process is the worker now: its counters begin anew, and its pauses are its own."""
        self._reading, self.read_at, self._working_since = CounterReading(), float("-inf"), None
        self._pause, self.moves = LongestPause(), 0

    def _learn(self, now: float, stalled: bool) -> None:
        if self._working_since is not None:
            pause = now - max(self._working_since, self.moved_at)
            self._pause.record(pause / PAUSE_GRACE if stalled else pause, now)

    def usable(self, now: float) -> bool:
        """Whether its counters are known now, so that they can be seen to stand still."""
        return self._reading.progress is not None and now - self.read_at <= STALE_SECONDS

    def asleep(self, now: float) -> bool:
        """Whether the engine says that it sleeps."""
        return self._reading.asleep and now - self.read_at <= STALE_SECONDS

    @property
    def at_work(self) -> int:
        """Requests that are known to run or wait."""
        return self._reading.at_work or 0

    @property
    def working(self) -> bool:
        """Whether requests are known to run or wait."""
        return self.at_work > 0

    def standing_since(self, asked_since: float | None) -> float | None:
        """Since when there is work and no movement; None without work. An unanswered probe, sent at ``asked_since``,
        is work that the counters may not show."""
        known = [since for since in (self._working_since, asked_since) if since is not None]
        return max(min(known), self.moved_at) if known else None

    def allowed(self, stall_time: float, longest: float, now: float) -> float:
        """For how long it may stand still: ``stall_time``, or more by what was learned, up to ``longest``."""
        return max(stall_time, min(PAUSE_GRACE * self._pause.seconds(now), longest))

    def describe_stall(self, seconds: float) -> str:
        """ "3 requests wait and no token was produced for 5.0 s"."""
        waiting, running = self._reading.waiting or 0, self._reading.running or 0
        work = [f"{count} {word}" for count, word in ((waiting, "wait"), (running, "run")) if count]
        if not work:
            what = "the probe waits"
        elif waiting + running == 1:
            what = f"1 request {'waits' if waiting else 'runs'}"
        else:
            first, *rest = work
            count, word = first.split()
            what = ", ".join([f"{count} request{'s' * (count != '1')} {word}{'s' * (count == '1')}", *rest])
        return f"{what} and no {self._unit} for {seconds:.1f} s"
