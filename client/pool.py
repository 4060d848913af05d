"""The pool for asynchronous callers, on trio or asyncio."""

from __future__ import annotations

import logging
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType

import anyio
import anyio.abc
import anyio.to_thread
import httpx2

from rumormill.client.background_context import BackgroundContext
from rumormill.client.dispatch import Dispatcher
from rumormill.client.fallbacks import AsyncFallback
from rumormill.client.keys import KeyFunction
from rumormill.client.load_watcher import LoadWatcher
from rumormill.client.options import UNIX, PoolOptions
from rumormill.client.replay import Replay, checked_replay
from rumormill.client.snapshot import UnusableSnapshot, load_snapshot, save_snapshot
from rumormill.client.topology import Topology, with_answer, with_status
from rumormill.client.topology_watcher import TopologyWatcher
from rumormill.client.transports import PoolTransport
from rumormill.client.upstream import Upstream
from rumormill.client.upstreams import Upstreams
from rumormill.client.worker_selector import WorkerSelector
from rumormill.ring.worker import Worker

SNAPSHOT_PAUSE = 1.0
"""Minimum seconds between two writes of the snapshot."""

log = logging.getLogger("rumormill.client")


class Pool(PoolOptions):
    """The workers of one service, watched through several sidecars. It sends requests to them.

    async with Pool(["http://127.0.0.1:7380"], service="embed") as pool:
        http = httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed")
        await http.post("/v1/embeddings", json=body, headers={"Rumormill-Key": user_id})

    Where no block fits, such as in an app's lifespan, `await pool.open()` and `await pool.aclose()` do the same, from
    any task. A pool belongs to the process and the event loop in which it was opened. A closed pool can be opened
    again. Threads use :class:`rumormill.client.SyncPool`.

    The arguments are the fields of :class:`rumormill.client.PoolOptions`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._default_tls: ssl.SSLContext | None = None
        self._process = 0
        self._background: BackgroundContext | None = None
        self._dispatcher: Dispatcher | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._changed: anyio.Event

    async def __aenter__(self) -> Pool:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        crash = await self._close()
        # The block's own error takes precedence. The crash is in the log.
        if crash is not None and error is None:
            raise crash

    async def open(self) -> Pool:
        """Start watching. Return when there is a list of workers, or after `patience`. An empty pool is no error here.

        Raises RuntimeError if the pool is open already.
        """
        if self._background is not None and self._process == os.getpid():
            raise RuntimeError("this pool is open already; close it first, or make another")
        self._process = os.getpid()
        background = self._background = BackgroundContext(self._run())
        try:
            await background.start()
        except BaseException:
            self._background = None
            raise
        return self

    async def aclose(self) -> None:
        """Stop watching and close every connection. Any task of the pool's event loop may call it, and repeat it.

        Raises the error that crashed the background task, if any.
        """
        crash = await self._close()
        if crash is not None:
            raise crash

    async def _close(self) -> BaseException | None:
        background = self._background
        # A pool that was opened before this process was forked is the parent's to close.
        if background is None or self._process != os.getpid():
            return None
        await background.stop()
        self._background = None
        return background.failure

    @property
    def topology(self) -> Topology:
        """What the pool believes now."""
        return self._require_open().topology

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Alive and suspect workers, in every readiness, sorted by name."""
        return self.topology.workers

    def owners(self, key: str | bytes, n: int | None = None) -> list[Worker]:
        """The owners of a key in order of preference. Without a zone, sidecars with the same digest give the same."""
        return self._require_open().upstreams.selector.owners(key, n)

    def transport(
        self,
        *,
        replay: Replay | None = None,
        key: KeyFunction | None = None,
        fallbacks: Sequence[AsyncFallback] = (),
    ) -> PoolTransport:
        """A transport for any httpx2.AsyncClient. Closing that client leaves the pool open.

        `key` reads the key from a request without a `Rumormill-Key` header (keys.py). `fallbacks` are for requests
        that no worker can serve, in order (fallbacks.py).
        An httpx.AsyncClient takes it wrapped: :func:`rumormill.client.legacy_httpx.httpx_transport`.
        """
        mode = self.replay if replay is None else checked_replay(replay)
        return PoolTransport(self, mode, key=key, fallbacks=fallbacks)

    @contextmanager
    def acquire(self, key: str | bytes | None = None) -> Iterator[Worker]:
        """A worker for a client of your own. It counts as busy until the block ends.

        A connection error (OSError, or the TransportError of httpx2 or httpx) that leaves the block ranks the worker
        behind the others for a moment. Raises :class:`NoWorkersError`.
        """
        with self._require_open().upstreams.lease(key) as worker:
            yield worker

    async def changed(self, known: Topology) -> Topology:
        """Wait until the topology differs from `known`, and return it."""
        while self.topology == known:
            await self._changed.wait()
        return self.topology

    async def send(self, request: httpx2.Request, *, replay: Replay | None = None) -> httpx2.Response:
        """Send one request, as the transports do. The scheme and host of its URL do not matter. Raises PoolError.

        The header `Rumormill-Key` chooses the worker. The response's extensions hold `rumormill_worker`, the
        :class:`Worker` that answered, and `rumormill_attempts`.
        """
        return await self._require_open().send(request, self.replay if replay is None else replay)

    def _require_open(self) -> Dispatcher:
        if self._background is None:
            raise RuntimeError("this pool is not open; use it inside `async with Pool(...) as pool`")
        if self._process != os.getpid():
            raise RuntimeError(
                "this pool was opened before the process forked, and its event loop stayed in the parent; "
                "open it in this process too, with `await pool.open()`"
            )
        if self._dispatcher is None:
            raise RuntimeError(
                "this pool is being closed, or it has crashed (see the log); close it, and open it again"
            ) from self._background.failure
        return self._dispatcher

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        rng = self.rng or random.Random()
        base_urls = {url: f"http://{n}.localhost" for n, url in enumerate(self.sources) if url.startswith(UNIX)}
        async with self._sidecar_client(base_urls) as http:
            selector = WorkerSelector(self.service, rng, zone=self.zone, bounded=self.bounded_load)
            upstreams = Upstreams(selector, self._tls)
            self._dispatcher = Dispatcher(upstreams, hedge=self.hedge, now=anyio.current_time())
            watcher = TopologyWatcher(
                list(self.sources),
                self.service,
                http=http,
                base_urls=base_urls,
                cluster=self.cluster,
                rng=rng,
                on_change=self._set_topology,
            )
            loads = LoadWatcher(
                self.service,
                http=http,
                base_urls=base_urls,
                choose_source=watcher.steady_source,
                counts=selector.counts,
                on_loads=lambda known: selector.set_loads(known, anyio.current_time()),
            )
            self._changed = anyio.Event()
            try:
                async with anyio.create_task_group() as self._tasks:
                    await self._start(self._tasks, watcher, loads, upstreams)
                    yield
                    self._tasks.cancel_scope.cancel()
            finally:
                self._dispatcher = self._tasks = None
                self._changed.set()
                with anyio.CancelScope(shield=True):
                    for upstream in upstreams.remove_all():
                        await upstream.aclose()

    def _sidecar_client(self, base_urls: Mapping[str, str]) -> httpx2.AsyncClient:
        """The HTTP client for the sidecars. `base_urls` has one for each Unix domain socket."""
        https = any(url.startswith("https:") for url in self.sources)
        return httpx2.AsyncClient(
            headers={} if self.token is None else {"Authorization": f"Bearer {self.token}"},
            timeout=None,  # each query has its own timeout
            trust_env=False,
            verify=self._tls() if https else False,
            limits=httpx2.Limits(max_connections=None),
            mounts={
                f"all://{base.removeprefix('http://')}": httpx2.AsyncHTTPTransport(uds=url.removeprefix(UNIX))
                for url, base in base_urls.items()
            },
        )

    async def _start(
        self, tasks: anyio.abc.TaskGroup, watcher: TopologyWatcher, loads: LoadWatcher, upstreams: Upstreams
    ) -> None:
        tasks.start_soon(watcher.run)
        tasks.start_soon(loads.run)
        tasks.start_soon(upstreams.check_evicted)
        with anyio.move_on_after(self.patience):
            await watcher.ready.wait()
        if self.snapshot is not None:
            if self.topology.origin == "nobody":
                self._load_snapshot(watcher, Path(self.snapshot))
            tasks.start_soon(self._keep_snapshot, watcher, Path(self.snapshot))
        if self.topology.origin == "nobody":
            log.warning("the pool of %r starts without a list: %s", self.service, self.topology.describe(0))

    def _set_topology(self, topology: Topology) -> None:
        if self._dispatcher is None or self._tasks is None:
            return
        before = self._dispatcher.topology
        for upstream in self._dispatcher.update(topology):
            self._tasks.start_soon(_close, upstream)
        if topology != before:
            self._changed.set()
            self._changed = anyio.Event()

    def _load_snapshot(self, watcher: TopologyWatcher, path: Path) -> None:
        try:
            answer, age = load_snapshot(path, self.service, self.cluster, time.time())
        except UnusableSnapshot as error:
            log.warning("no list from the snapshot: %s", error)
            return
        now = anyio.current_time()
        topology = with_answer(watcher.topology, answer, source=str(path), origin="snapshot", now=now)
        watcher.set_topology(answer, with_status(topology, heard=now - age, troubles=watcher.topology.troubles))
        log.warning("no sidecar answers; using the list of %.0f s ago from %s", age, path)

    async def _keep_snapshot(self, watcher: TopologyWatcher, path: Path) -> None:
        """Write the sidecars' answer to the snapshot whenever it has changed."""
        written = None
        while True:
            answer, changed = watcher.answer, self._changed
            if answer is not written and self.topology.origin == "sidecar" and answer is not None:
                try:
                    await anyio.to_thread.run_sync(save_snapshot, path, answer, time.time())
                except OSError as error:
                    log.warning("the list cannot be written to %s (%s); it is kept in memory only", path, error)
                written = answer
            await changed.wait()
            await anyio.sleep(SNAPSHOT_PAUSE)

    def _tls(self) -> ssl.SSLContext:
        if self.verify is not None:
            return self.verify
        if self._default_tls is None:
            self._default_tls = httpx2.create_ssl_context(trust_env=False)
        return self._default_tls


async def _close(upstream: Upstream) -> None:
    await upstream.aclose()
