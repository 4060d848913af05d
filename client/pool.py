"""The pool as asynchronous callers hold it, on trio or asyncio."""

from __future__ import annotations

import logging
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType

import anyio
import anyio.abc
import anyio.to_thread
import httpx

from rumormill.client.background import HostTask
from rumormill.client.dispatch import Dispatcher
from rumormill.client.options import UNIX, PoolOptions
from rumormill.client.replay import Replay, checked_replay
from rumormill.client.snapshot import UnusableSnapshot, load_snapshot, save_snapshot
from rumormill.client.topology import Topology, with_answer, with_status
from rumormill.client.topology_watcher import TopologyWatcher
from rumormill.client.upstream import Upstream
from rumormill.client.worker_selector import WorkerSelector
from rumormill.ring.worker import Worker

SNAPSHOT_PAUSE = 1.0
"""Seconds between two writes of the snapshot, at least."""

log = logging.getLogger("rumormill.client")


class Pool(PoolOptions):
    """The workers of one service, watched through several sidecars, and the way to them.

    async with Pool(["http://127.0.0.1:7380"], service="embed") as pool:
        http = httpx.AsyncClient(transport=pool.transport(), base_url="http://embed")
        await http.post("/v1/embeddings", json=body, headers={"Rumormill-Key": user_id})

    Where no block fits, such as an app's lifespan, `await pool.open()` and `await pool.aclose()` do the same, from any
    task. A pool belongs to the process and the event loop it was opened in, and can be opened again once it is closed;
    threads use :class:`rumormill.client.SyncPool`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._default_tls: ssl.SSLContext | None = None
        self._process = 0
        self._host: HostTask | None = None
        self._dispatcher: Dispatcher | None = None
        self._watch: TopologyWatcher | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._moved: anyio.Event

    async def __aenter__(self) -> Pool:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        crash = await self._close()
        # The block's own error goes first; the crash is in the log.
        if crash is not None and error is None:
            raise crash

    async def open(self) -> Pool:
        """Start watching; return when there is a list, or `patience` is over. An empty pool is no error here.

        Raises RuntimeError where the pool is open already.
        """
        if self._host is not None and self._process == os.getpid():
            raise RuntimeError("this pool is open already; close it first, or make another")
        self._process = os.getpid()
        host = self._host = HostTask(self._run())
        try:
            await host.start()
        except BaseException:
            self._host = None
            raise
        return self

    async def aclose(self) -> None:
        """Stop watching and close every connection; from any task of the pool's event loop, and safe to repeat.

        Raises what crashed in the background, if anything did.
        """
        crash = await self._close()
        if crash is not None:
            raise crash

    async def _close(self) -> BaseException | None:
        host = self._host
        # What the process that forked this one has opened is that one's to close.
        if host is None or self._process != os.getpid():
            return None
        await host.stop()
        self._host = None
        return host.failure

    @property
    def topology(self) -> Topology:
        """What the pool believes now."""
        return self._open().topology

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Alive and suspect workers, in every readiness, sorted by name."""
        return self.topology.workers

    def owners(self, key: str | bytes, n: int | None = None) -> list[Worker]:
        """The owners of a key in order of preference; without a zone, as all sidecars of the same digest name them."""
        return self._open().standings.owners(key, n)

    def transport(self, *, replay: Replay | None = None) -> PoolTransport:
        """A transport for any httpx.AsyncClient; closing that client leaves the pool open."""
        return PoolTransport(self, self.replay if replay is None else checked_replay(replay))

    @contextmanager
    def acquire(self, key: str | bytes | None = None) -> Iterator[Worker]:
        """A worker for a client of your own, counted as busy until the block ends.

        A connection error (OSError, httpx.TransportError) that leaves the block puts the worker behind the others for
        a moment. Raises :class:`NoWorkersError`.
        """
        with self._open().lease(key) as worker:
            yield worker

    async def changed(self, known: Topology) -> Topology:
        """Wait until the pool believes something else than `known`, and return it."""
        while self.topology == known:
            await self._moved.wait()
        return self.topology

    async def send(self, request: httpx.Request, *, replay: Replay | None = None) -> httpx.Response:
        """Send one request, whose URL's scheme and host do not matter; what the transports do. Raises PoolError.

        The header `Rumormill-Key` chooses the worker. The response's extensions tell `rumormill_worker`, the
        :class:`Worker` that answered, and `rumormill_attempts`.
        """
        return await self._open().send(request, self.replay if replay is None else replay)

    def _open(self) -> Dispatcher:
        if self._host is None:
            raise RuntimeError("this pool is not open; use it inside `async with Pool(...) as pool`")
        if self._process != os.getpid():
            raise RuntimeError(
                "this pool was opened before the process forked, and its event loop stayed behind; "
                "open it in this process too, with `await pool.open()`"
            )
        if self._dispatcher is None:
            raise RuntimeError(
                "this pool is being closed, or has crashed, which is in the log; it can be closed, and opened again"
            ) from self._host.failure
        return self._dispatcher

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        https = any(url.startswith("https:") for url in self.sources)
        bases = {url: f"http://{n}.localhost" for n, url in enumerate(self.sources) if url.startswith(UNIX)}
        rng = self.rng or random.Random()
        async with httpx.AsyncClient(
            headers=headers,
            timeout=None,  # noqa: S113 - each query has its own limit
            trust_env=False,
            verify=self._tls() if https else False,
            limits=httpx.Limits(max_connections=None),
            mounts={
                f"all://{base.removeprefix('http://')}": httpx.AsyncHTTPTransport(uds=url.removeprefix(UNIX))
                for url, base in bases.items()
            },
        ) as http:
            standings = WorkerSelector(self.service, rng, zone=self.zone, bounded=self.bounded_load)
            dispatcher = Dispatcher(standings, tls=self._tls, hedge=self.hedge, now=anyio.current_time())
            self._watch = TopologyWatcher(
                list(self.sources),
                self.service,
                http=http,
                bases=bases,
                cluster=self.cluster,
                rng=rng,
                adopt=self._adopt,
            )
            self._dispatcher = dispatcher
            self._moved = anyio.Event()
            try:
                async with anyio.create_task_group() as self._tasks:
                    await self._begin(self._tasks, self._watch)
                    yield
                    self._tasks.cancel_scope.cancel()
            finally:
                self._dispatcher = self._tasks = None
                self._moved.set()
                with anyio.CancelScope(shield=True):
                    for line in dispatcher.take_lines():
                        await line.aclose()

    async def _begin(self, tasks: anyio.abc.TaskGroup, watch: TopologyWatcher) -> None:
        tasks.start_soon(watch.run)
        if self._dispatcher is not None:
            tasks.start_soon(self._dispatcher.check_evicted)
        with anyio.move_on_after(self.patience):
            await watch.ready.wait()
        if self.snapshot is not None:
            if self.topology.origin == "nobody":
                self._recall(watch, Path(self.snapshot))
            tasks.start_soon(self._remember, watch, Path(self.snapshot))
        if self.topology.origin == "nobody":
            log.warning("the pool of %r starts without a list: %s", self.service, self.topology.describe(0))

    def _adopt(self, topology: Topology) -> None:
        if self._dispatcher is None or self._tasks is None:
            return
        before = self._dispatcher.topology
        for line in self._dispatcher.adopt(topology):
            self._tasks.start_soon(_close, line)
        if topology != before:
            self._moved.set()
            self._moved = anyio.Event()

    def _recall(self, watch: TopologyWatcher, path: Path) -> None:
        try:
            answer, age = load_snapshot(path, self.service, self.cluster, time.time())
        except UnusableSnapshot as error:
            log.warning("no list from the snapshot: %s", error)
            return
        now = anyio.current_time()
        topology = with_answer(watch.topology, answer, source=str(path), origin="snapshot", now=now)
        watch.believe(answer, with_status(topology, heard=now - age, troubles=watch.topology.troubles))
        log.warning("no sidecar answers; using the list of %.0f s ago from %s", age, path)

    async def _remember(self, watch: TopologyWatcher, path: Path) -> None:
        """Write what sidecars say to the snapshot, whenever it has changed."""
        written = None
        while True:
            answer, moved = watch.answer, self._moved
            if answer is not written and self.topology.origin == "sidecar" and answer is not None:
                try:
                    await anyio.to_thread.run_sync(save_snapshot, path, answer, time.time())
                except OSError as error:
                    log.warning("the list cannot be written to %s (%s); it is kept in memory only", path, error)
                written = answer
            await moved.wait()
            await anyio.sleep(SNAPSHOT_PAUSE)

    def _tls(self) -> ssl.SSLContext:
        if self.verify is not None:
            return self.verify
        if self._default_tls is None:
            self._default_tls = httpx.create_ssl_context(trust_env=False)
        return self._default_tls


class PoolTransport(httpx.AsyncBaseTransport):
    """Sends what an httpx.AsyncClient sends to the workers of a pool."""

    def __init__(self, pool: Pool, replay: Replay) -> None:
        self._pool = pool
        self._replay: Replay = replay

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._pool.send(request, replay=self._replay)


async def _close(line: Upstream) -> None:
    await line.aclose()
