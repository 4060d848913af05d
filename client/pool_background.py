"""What runs in the background while a pool is open, of either kind: it watches the sidecars and the evicted workers.

It lives in one event loop. An asynchronous pool has it in its own; a synchronous pool in that of another thread, and
its requests pass that loop by.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread
import httpx2
import trio

from rumormill.client.connections.direct_check import check_evicted
from rumormill.client.connections.upstream import Upstream
from rumormill.client.connections.upstreams import Upstreams
from rumormill.client.discovery.load_watcher import LoadWatcher
from rumormill.client.discovery.snapshot import UnusableSnapshot, load_snapshot, save_snapshot
from rumormill.client.discovery.topology import Topology, with_answer, with_status
from rumormill.client.discovery.topology_watcher import TopologyWatcher
from rumormill.client.options import UNIX, PoolOptions
from rumormill.client.requests.dispatch import Dispatcher
from rumormill.client.requests.hedge_schedule import HedgingOptions
from rumormill.client.runtime.background_context import BackgroundContext
from rumormill.client.runtime.shared_lock import shared_lock
from rumormill.client.runtime.timers import RunInLoop, Timers
from rumormill.client.selection.worker_selector import WorkerSelector

if TYPE_CHECKING:
    from rumormill.client.observability.telemetry import Telemetry

SNAPSHOT_PAUSE = 1.0
"""Minimum seconds between two writes of the snapshot."""

MakeUpstream = Callable[[str, Callable[[], ssl.SSLContext]], Upstream]

log = logging.getLogger("rumormill.client")


class PoolBackground:
    """The background of one pool, from its opening to its closing."""

    def __init__(self, options: PoolOptions, make_upstream: MakeUpstream, run_in_loop: RunInLoop) -> None:
        """Create it in the event loop in which it is to run."""
        self._options = options
        self._make_upstream = make_upstream
        self._run_in_loop = run_in_loop
        self._context = BackgroundContext(self._run())
        self._default_tls: ssl.SSLContext | None = None
        self._dispatcher: Dispatcher | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._changed = anyio.Event()

    async def start(self) -> None:
        """Return when there is a list of workers, or after `patience`."""
        await self._context.start()

    async def stop(self) -> BaseException | None:
        """Stop watching and close every connection. Safe to repeat. Returns the error that crashed it, if any."""
        await self._context.stop()
        return self._context.failure

    @property
    def dispatcher(self) -> Dispatcher:
        """Raises RuntimeError if the background has ended."""
        if self._dispatcher is None:
            raise RuntimeError(
                "this pool is being closed, or it has crashed (see the log); close it, and open it again"
            ) from self._context.failure
        return self._dispatcher

    @property
    def tasks(self) -> anyio.abc.TaskGroup:
        """For tasks that end with the pool. Raises RuntimeError if the background has ended."""
        if self._tasks is None:
            raise RuntimeError("this pool is being closed, or it has crashed (see the log)") from self._context.failure
        return self._tasks

    async def changed(self, known: Topology) -> Topology:
        """Wait until the topology differs from `known`, and return it."""
        while self.dispatcher.topology == known:
            await self._changed.wait()
        return self.dispatcher.topology

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        options = self._options
        rng = options.rng or random.Random()
        sources = [*options.sources]
        base_urls = {url: f"http://{n}.localhost" for n, url in enumerate(sources) if url.startswith(UNIX)}
        async with self._sidecar_client(base_urls) as http:
            self._dispatcher = dispatcher = self._new_dispatcher(rng)
            watcher = TopologyWatcher(
                sources,
                options.service,
                http=http,
                base_urls=base_urls,
                cluster=options.cluster,
                rng=rng,
                on_change=self._set_topology,
            )
            loads = LoadWatcher(
                options.service,
                http=http,
                base_urls=base_urls,
                choose_source=watcher.steady_source,
                counts=dispatcher.upstreams.selector.counts,
                lock=dispatcher.lock,
                on_loads=self._set_loads,
            )
            upstreams: list[Upstream] = []
            try:
                async with anyio.create_task_group() as self._tasks:
                    self._tasks.start_soon(loads.run)
                    await self._start(self._tasks, watcher, dispatcher)
                    yield
                    upstreams += dispatcher.close()
                    self._tasks.cancel_scope.cancel()
            finally:
                upstreams += dispatcher.close()
                self._dispatcher = self._tasks = None
                self._changed.set()
                with anyio.CancelScope(shield=True):
                    for upstream in upstreams:
                        await upstream.aclose()

    def _new_dispatcher(self, rng: random.Random) -> Dispatcher:
        options, lock = self._options, shared_lock()
        clock = (
            trio.lowlevel.current_clock().current_time
            if trio.lowlevel.in_trio_task()
            else asyncio.get_running_loop().time
        )
        selector = WorkerSelector(options.service, rng, zone=options.zone, bounded=options.bounded_load)
        selector.counts.run_in_loop = self._run_in_loop
        upstreams = Upstreams(
            selector,
            lambda url: self._make_upstream(url, self._tls),
            clock=clock,
            lock=lock,
            run_in_loop=self._run_in_loop,
        )
        timers = Timers(clock, lock, self._run_in_loop)
        telemetry = _telemetry(options.service) if options.telemetry else None
        hedging = HedgingOptions(options.hedge, options.hedge_after)
        return Dispatcher(
            upstreams,
            timers,
            clock=clock,
            lock=lock,
            hedging=hedging,
            telemetry=telemetry,
            classify=options.classify,
        )

    def _sidecar_client(self, base_urls: Mapping[str, str]) -> httpx2.AsyncClient:
        """The HTTP client for the sidecars. `base_urls` has one for each Unix domain socket."""
        options = self._options
        https = any(url.startswith("https:") for url in options.sources)
        return httpx2.AsyncClient(
            headers={} if options.token is None else {"Authorization": f"Bearer {options.token}"},
            timeout=None,  # each query has its own timeout
            trust_env=False,
            verify=self._tls() if https else False,
            limits=httpx2.Limits(max_connections=None),
            mounts={
                f"all://{base.removeprefix('http://')}": httpx2.AsyncHTTPTransport(uds=url.removeprefix(UNIX))
                for url, base in base_urls.items()
            },
        )

    async def _start(self, tasks: anyio.abc.TaskGroup, watcher: TopologyWatcher, dispatcher: Dispatcher) -> None:
        options = self._options
        tasks.start_soon(watcher.run)
        tasks.start_soon(check_evicted, dispatcher.upstreams.in_flight, self._tls)
        tasks.start_soon(dispatcher.timers.run)
        with anyio.move_on_after(options.patience):
            await watcher.ready.wait()
        if options.snapshot is not None:
            path = Path(options.snapshot)
            if dispatcher.topology.origin == "nobody":
                _load_snapshot(watcher, path, options)
            tasks.start_soon(self._keep_snapshot, watcher, path)
        if dispatcher.topology.origin == "nobody":
            log.warning("the pool of %r starts without a list: %s", options.service, dispatcher.topology.describe(0))

    def _set_topology(self, topology: Topology) -> None:
        if self._dispatcher is None or self._tasks is None:
            return
        before = self._dispatcher.topology
        for upstream in self._dispatcher.update(topology):
            self._tasks.start_soon(_close, upstream)
        if topology != before:
            self._changed.set()
            self._changed = anyio.Event()

    def _set_loads(self, utilization: Mapping[str, float]) -> None:
        if self._dispatcher is not None:
            with self._dispatcher.lock:
                self._dispatcher.upstreams.selector.set_loads(utilization, self._dispatcher.clock())

    async def _keep_snapshot(self, watcher: TopologyWatcher, path: Path) -> None:
        """Write the sidecars' answer to the snapshot whenever it has changed."""
        written = None
        while True:
            answer, changed = watcher.answer, self._changed
            if answer is not written and watcher.topology.origin == "sidecar" and answer is not None:
                try:
                    await anyio.to_thread.run_sync(save_snapshot, path, answer, time.time())
                except OSError as error:
                    log.warning("the list cannot be written to %s (%s); it is kept in memory only", path, error)
                written = answer
            await changed.wait()
            await anyio.sleep(SNAPSHOT_PAUSE)

    def _tls(self) -> ssl.SSLContext:
        if self._options.verify is not None:
            return self._options.verify
        if self._default_tls is None:
            self._default_tls = httpx2.create_ssl_context(trust_env=False)
        return self._default_tls


def _load_snapshot(watcher: TopologyWatcher, path: Path, options: PoolOptions) -> None:
    try:
        answer, age = load_snapshot(path, options.service, options.cluster, time.time())
    except UnusableSnapshot as error:
        log.warning("no list from the snapshot: %s", error)
        return
    now = anyio.current_time()
    topology = with_answer(watcher.topology, answer, source=str(path), origin="snapshot", now=now)
    watcher.set_topology(answer, with_status(topology, heard=now - age, troubles=watcher.topology.troubles))
    log.warning("no sidecar answers; using the list of %.0f s ago from %s", age, path)


def _telemetry(service: str) -> Telemetry | None:
    """None if OpenTelemetry is not installed."""
    try:
        from rumormill.client.observability.telemetry import Telemetry
    except ImportError:
        return None
    except OSError as error:  # no descriptor is left to read it with
        log.warning("no telemetry from the pool of %r: %s", service, error)
        return None
    return Telemetry(service)


async def _close(upstream: Upstream) -> None:
    await upstream.aclose()
