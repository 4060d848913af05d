"""What the sidecar knows of requests and load: the engine's readings, callers' reports and gossip, put together.

The other sidecars tell what their callers report of this worker (report_relay.py), so a drain ends a moment after its
last request, and a worker without counters is seen to make progress.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from rumormill.discovery.activity import CallerReport
from rumormill.discovery.schema.load import DrainState
from rumormill.gossip import Node
from rumormill.gossip.udp.transport import boot_clock
from rumormill.membership.load import MemberLoad
from rumormill.membership.record import InstanceId, member_id_of
from rumormill.sidecar.client_reports import REPORT_LIFE, ClientReports
from rumormill.sidecar.counters.reading import CounterReading
from rumormill.sidecar.drain import DrainWatch
from rumormill.sidecar.report_relay import ReportRelay
from rumormill.sidecar.utilization import UtilizationMeter
from rumormill.sidecar.worker_load import WorkerLoad

STALE_READING = 3.0
"""Seconds after which a reading of the engine says nothing any more."""
LOOK_AGAIN = 0.1
"""Seconds between two looks at a drain that somebody waits for."""


class WorkerActivity:
    """Implements :class:`rumormill.discovery.activity.Activity`."""

    def __init__(self, node: Node, engine: Callable[[], WorkerLoad | None], wake: Callable[[], None]) -> None:
        """``engine`` returns the last reading of the worker's own metrics; None where there is none. ``wake`` makes the
        node's datagrams leave now."""
        self._node = node
        self._engine = engine
        self._meter = UtilizationMeter()
        self._measured_at: float | None = None
        self._reports = ClientReports()
        self._relay = ReportRelay(node, self._reports, wake)
        self.on_doubt: Callable[[], None] = lambda: None
        """Called when a caller of this sidecar doubts this worker."""
        self._drain = DrainWatch()
        self.drain_time = 0.0

    def loads(self) -> Mapping[InstanceId, MemberLoad]:
        return self._node.load_view.loads(boot_clock())

    def now(self) -> float:
        return boot_clock()

    def take_report(self, report: CallerReport) -> None:
        """A caller says what it has under way and has seen finished."""
        now = boot_clock()
        self._reports.take(report, now)
        self._relay.pass_on(report, now)

    def take_doubts(self, member_ids: Sequence[bytes]) -> None:
        """A caller says that these workers failed it. Each worker's own sidecar looks at it, and judges for itself."""
        if member_id_of(self._node.instance) in member_ids:
            self.on_doubt()
        self._relay.doubt(member_ids, boot_clock())

    def finished_requests(self) -> int:
        """Requests that callers reported finished at this worker, here or elsewhere. Only growth means anything."""
        return self._reports.finished(member_id_of(self._node.instance)) + self._node.load_view.finished_here

    def callers_reading(self) -> CounterReading | None:
        """What callers report of this worker; None if nobody reports."""
        under_way = self._clients(boot_clock())
        if under_way is None:
            return None
        return CounterReading(running=under_way, progress=self.finished_requests())

    def own_load(self) -> tuple[float, int, float] | None:
        """Utilization and queue of this worker, and how many seconds ago they were read; None if they are unknown."""
        load, own = self._reading(), self.loads().get(self._node.instance)
        return None if load is None or own is None else (own.utilization, own.queue, boot_clock() - load.read_at)

    def measure(self) -> None:
        """Tell the pool how busy the worker is, by the last reading of its engine."""
        load = self._reading()
        read_at = load.read_at if load is not None else None
        if read_at is None or read_at != self._measured_at:
            self._measured_at = read_at
            self._node.measure_load(*self._meter.measure(load), boot_clock())

    # --- draining

    def set_draining(self, draining: bool) -> None:
        if draining:
            self._drain.begin(boot_clock())
        else:
            self._drain.end()

    def drain_state(self) -> DrainState:
        now = boot_clock()
        return self._drain.state(now, engine=self._reading(), clients=self._clients(now), drain_time=self.drain_time)

    async def wait_drained(self, worker_gone: Callable[[], Awaitable[None]], deadline: float) -> None:
        """Return when the worker has finished what it had, or is gone. The deadline is for requests that are counted;
        a longer ``drain-time`` is kept."""
        with trio.move_on_after(max(deadline, self.drain_time)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_after, worker_gone, nursery.cancel_scope)
                while not self.drain_state().drained:
                    await trio.sleep(LOOK_AGAIN)
                nursery.cancel_scope.cancel()

    @staticmethod
    async def _cancel_after(wait: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        await wait()
        scope.cancel()

    def _clients(self, now: float) -> int | None:
        """Requests under way here, as callers report them to this sidecar and to others; None if nobody does."""
        here = self._reports.under_way(member_id_of(self._node.instance), now)
        elsewhere = self._node.load_view.under_way_here(now, REPORT_LIFE)
        if here is None and elsewhere is None:
            return None
        return (here or 0) + (elsewhere or 0)

    def _reading(self) -> WorkerLoad | None:
        load = self._engine()
        return load if load is not None and boot_clock() - load.read_at <= STALE_READING else None
