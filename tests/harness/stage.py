"""A stage for clients: real HTTP workers and real discovery endpoints on loopback, which the test controls.

Everything lives in one trio nursery. `stage()` is for tests on trio; `stage_in_thread()` runs the same in a thread of
its own, for tests on asyncio and on threads.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import h11
import trio
import trio.testing
from anyio.from_thread import start_blocking_portal
from limits import LIVENESS_LIMIT
from members import member

from rumormill.discovery.activity import CallerReport
from rumormill.discovery.http.access import Access
from rumormill.discovery.server import DiscoveryServer
from rumormill.membership.load import MemberLoad
from rumormill.membership.policy import PolicyRecord
from rumormill.membership.record import InstanceId, Liveness, Readiness
from rumormill.membership.view import Connectivity, Member, PoolView
from rumormill.ring import HashRing

SUSPECT, ALIVE = Liveness.SUSPECT, Liveness.ALIVE
PASSING, CRITICAL, DRAINING, STARTING = Readiness.PASSING, Readiness.CRITICAL, Readiness.DRAINING, Readiness.STARTING


@dataclass
class Seen:
    """A request as a worker received it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Exchange:
    """One request at a worker. The test answers it, in whole or in part, or not at all."""

    def __init__(self, worker: Worker, stream: trio.SocketStream, machine: h11.Connection, seen: Seen) -> None:
        self.worker = worker
        self.seen = seen
        self._stream = stream
        self._machine = machine

    async def answer(
        self, body: bytes | None = None, content_type: str = "text/plain", *, status: int = 200, **headers: str
    ) -> None:
        body = self.worker.name.encode() if body is None else body
        await self.begin(content_type, len(body), status=status, **headers)
        await self.part(body)
        await self.end()

    async def begin(self, content_type: str, length: int | None = None, *, status: int = 200, **headers: str) -> None:
        """Send the head of an answer, chunked if no length is given. In header names, _ stands for -."""
        size = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
        more = [(name.replace("_", "-"), value) for name, value in headers.items()]
        await self._send(h11.Response(status_code=status, headers=[("Content-Type", content_type), size, *more]))

    async def part(self, data: bytes) -> None:
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        await self._send(h11.EndOfMessage())

    async def die(self) -> None:
        """Break the connection as a killed process does."""
        self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self._stream)

    async def close(self) -> None:
        """Close the connection in good order."""
        await self._stream.aclose()

    async def hang(self) -> None:
        """Send nothing more until the caller closes the connection."""
        while await self._stream.receive_some(65536):
            pass
        self.worker.hung_up.set()
        raise trio.BrokenResourceError

    async def _send(self, event: h11.Event) -> None:
        await self._stream.send_all(self._machine.send(event) or b"")


Behaviour = Callable[[Exchange], Awaitable[None]]


async def answer(exchange: Exchange) -> None:
    await exchange.answer()


async def hang(exchange: Exchange) -> None:
    await exchange.hang()


def answering(status: int, **headers: str) -> Behaviour:
    """Answers at once, with this status."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(status=status, **headers)

    return behave


async def die(exchange: Exchange) -> None:
    await exchange.die()


@dataclass
class Worker:
    """An HTTP server that records its requests."""

    name: str
    port: int = 0
    behaviour: Behaviour = answer
    seen: list[Seen] = field(default_factory=list)
    arrived: trio.Event = field(default_factory=trio.Event)
    """Set by the first request."""
    hung_up: trio.Event = field(default_factory=trio.Event)
    """Set when a caller drops a request that hangs."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Close the listener and every connection."""
        self.scope.cancel()

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        with self.scope:
            await trio.serve_listeners(self._connection, [listener])

    async def _connection(self, stream: trio.SocketStream) -> None:
        machine = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while (seen := await self._receive(stream, machine)) is not None:
                    self.seen.append(seen)
                    self.arrived.set()
                    await self.behaviour(Exchange(self, stream, machine, seen))
                    machine.start_next_cycle()
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
                return

    async def _receive(self, stream: trio.SocketStream, machine: h11.Connection) -> Seen | None:
        head, body = None, b""
        while True:
            match event := machine.next_event():
                case h11.NEED_DATA:
                    machine.receive_data(bytes(await stream.receive_some(65536)))
                case h11.Request():
                    head = event
                case h11.Data():
                    body += bytes(event.data)
                case h11.EndOfMessage():
                    assert head is not None
                    headers = {name.decode(): value.decode() for name, value in head.headers}
                    return Seen(head.method.decode(), head.target.decode(), headers, body)
                case _:
                    return None


class StagedActivity:
    """The loads that the test states, and the reports that came."""

    def __init__(self) -> None:
        self.stated: dict[InstanceId, MemberLoad] = {}
        self.reports: list[CallerReport] = []
        self.doubts: list[bytes] = []

    def loads(self) -> dict[InstanceId, MemberLoad]:
        return dict(self.stated)

    def now(self) -> float:
        return 100.0

    def take_report(self, report: CallerReport) -> None:
        self.reports.append(report)

    def take_doubts(self, member_ids: Sequence[bytes]) -> None:
        self.doubts += member_ids


class Silent:
    """Holds a view of the pool. A client uses none of its commands."""

    def __init__(self) -> None:
        self.activity = StagedActivity()
        self.pool = PoolView("prod", "w0", connectivity=Connectivity.CONNECTED, members=())

    def view(self) -> PoolView:
        return self.pool

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a client asked for {name}")


class Sidecar:
    """A discovery endpoint that serves what the test publishes."""

    def __init__(self, process: str, token: str | None) -> None:
        self.process = process
        self.port = 0
        self._commands = Silent()
        self.server = DiscoveryServer(
            commands=self._commands,  # type: ignore[arg-type]
            process=process,
            wall_offset=0.0,
            access=Access(read_token=token),
        )
        self.scope = trio.CancelScope()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.server.serve, listeners)
                task_status.started()

    def publish(self, pool: PoolView) -> None:
        self._commands.pool = pool
        self.server.pool_changed()

    @property
    def activity(self) -> StagedActivity:
        return self._commands.activity

    def state_loads(self, **utilization: float) -> None:
        """What it knows of workers' loads from now on."""
        self.activity.stated = {
            InstanceId(name.encode().ljust(16, b"-")): MemberLoad(busy, 0, 99.0) for name, busy in utilization.items()
        }

    def kill(self) -> None:
        self.scope.cancel()


class Stage:
    """Workers w0, w1, … and sidecars that know them."""

    def __init__(self, nursery: trio.Nursery, token: str | None) -> None:
        self._nursery = nursery
        self._token = token
        self._processes = itertools.count()
        self.workers: dict[str, Worker] = {}
        self.sidecars: list[Sidecar] = []
        self.members: dict[str, Member] = {}
        self.policies: tuple[PolicyRecord, ...] = ()
        self.gossip: dict[str, socket.socket] = {}
        """The UDP ports of the workers' sidecars. Nothing reads there, as if the sidecars were frozen."""

    @property
    def urls(self) -> list[str]:
        return [sidecar.url for sidecar in self.sidecars]

    async def add_worker(self, name: str, port: int = 0) -> Worker:
        worker = self.workers[name] = Worker(name, port)
        await self._nursery.start(worker.serve)
        self.gossip[name] = port_of = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        port_of.bind(("127.0.0.1", 0))
        self.members[name] = member(name, url=worker.url, address=port_of.getsockname())
        return worker

    async def add_sidecar(self, port: int = 0) -> Sidecar:
        sidecar = Sidecar(f"p{next(self._processes)}", self._token)
        sidecar.port = port
        self.sidecars.append(sidecar)
        self.publish(sidecar)
        await self._nursery.start(sidecar.serve)
        return sidecar

    def change(self, name: str, **changes: Any) -> None:
        """Publish a changed member to every sidecar."""
        self.members[name] = replace(self.members[name], **changes)
        self.publish()

    def evict(self, name: str) -> None:
        """Every sidecar learns that a member is dead. Its sidecar's port refuses nothing, as if frozen."""
        self.change(name, liveness=Liveness.DEAD)

    def kill_sidecar(self, name: str) -> None:
        """The sidecar beside this worker ends, its kernel refuses datagrams, and all others evict the member."""
        self.gossip[name].close()
        self.evict(name)

    def publish(self, *sidecars: Sidecar, members: list[Member] | None = None, isolated: bool = False) -> None:
        """Give these sidecars (by default all) these members (by default the stage's), and the
        stage's policies."""
        rows = sorted(self.members.values() if members is None else members, key=lambda one: one.name)
        for sidecar in sidecars or self.sidecars:
            connectivity = Connectivity.DEAF if isolated else Connectivity.CONNECTED
            sidecar.publish(PoolView("prod", "w0", connectivity, tuple(rows), self.policies))

    def owners(self, key: str) -> list[Worker]:
        """The workers in the ring's order for a key."""
        return [self.workers[name] for name in HashRing(dict.fromkeys(self.workers, 1.0)).owners(key, 99)]


async def until_true(condition: Callable[[], bool]) -> None:
    """Return when another task or thread has made the condition true."""
    while not condition():
        await trio.testing.wait_all_tasks_blocked(0.001)


@asynccontextmanager
async def stage(
    workers: int = 3, sidecars: int = 1, token: str | None = None, *, limit: float = LIVENESS_LIMIT
) -> AsyncIterator[Stage]:
    """Workers and sidecars, running until the block ends, which must be within `limit` seconds."""
    with trio.fail_after(limit):
        async with trio.open_nursery() as nursery:
            scene = Stage(nursery, token)
            for index in range(workers):
                await scene.add_worker(f"w{index}")
            for _ in range(sidecars):
                await scene.add_sidecar()
            try:
                yield scene
            finally:
                for port in scene.gossip.values():
                    port.close()
            nursery.cancel_scope.cancel()


class StageInThread:
    """The stage, for use by another thread."""

    def __init__(self, portal: Any, scene: Stage) -> None:
        self._portal = portal
        self.scene = scene

    def do(self, step: Callable[..., Any], *args: Any) -> Any:
        """Call (or await) this in the stage's loop."""
        return self._portal.call(step, *args)


@contextmanager
def stage_in_thread(workers: int = 3, sidecars: int = 1) -> Iterator[StageInThread]:
    """The stage on trio, in a separate thread."""
    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(stage(workers, sidecars)) as scene,
    ):
        yield StageInThread(portal, scene)
