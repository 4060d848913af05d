"""A discovery endpoint on a real socket, a sidecar for it to ask, and callers that speak to it byte by byte."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import httpx2
import msgspec
import trio
import trio.testing
from limits import LIVENESS_LIMIT
from members import member

from rumormill.discovery.activity import CallerReport
from rumormill.discovery.commands import CommandRejected, KeyRow, KeysAnswer, SidecarMeasurements, Status
from rumormill.discovery.formats import FormatName
from rumormill.discovery.http.access import Access
from rumormill.discovery.http.limits import Limits
from rumormill.discovery.schema.key_proof import proof_text
from rumormill.discovery.schema.load import DrainState
from rumormill.discovery.schema.policy_bodies import PolicyBody, encode_body
from rumormill.discovery.server import DiscoveryServer
from rumormill.gossip.security.keyring import proof_of
from rumormill.membership.load import MemberLoad
from rumormill.membership.measurements import NETWORK_SECONDS, GossipMeasurements, Histogram
from rumormill.membership.policy import InvalidPolicy, PolicyRecord, encode_policy
from rumormill.membership.record import InstanceId
from rumormill.membership.view import Connectivity, Member, MemberDetail, PoolView

WALL_OFFSET = 1_700_000_000.0
PROCESS = "6f1c2d"


def pool(
    *members: Member, connectivity: Connectivity = Connectivity.CONNECTED, policies: tuple[PolicyRecord, ...] = ()
) -> PoolView:
    ordered = tuple(sorted(members, key=lambda one: (one.name, one.pending)))
    return PoolView("prod", "w1", connectivity, ordered, policies)


THREE = pool(member("w1"), member("w2"), member("w3"))


HELD = b"h" * 32
"""The group key that a caller must hold to change keys."""
ONE_KEY = KeysAnswer(PROCESS, 1, [KeyRow("3c45ae74", True, True, 3)], 3, [], [], True, "")


def proven(method: str, target: str, body: bytes = b"", key: bytes = HELD) -> dict[str, str]:
    """The header of a caller that holds a key."""
    return {"Rumormill_Key_Proof": proof_of(key, proof_text(PROCESS, method, target, body)).hex()}


@dataclass
class KnownActivity:
    """What a sidecar knows of loads, as the test sets it."""

    known: dict[InstanceId, MemberLoad] = field(default_factory=dict)
    reports: list[CallerReport] = field(default_factory=list)
    doubts: list[bytes] = field(default_factory=list)
    drain: DrainState = field(default_factory=lambda: DrainState(False, False, None, "time", None, 0.0))
    clock: float = 100.0

    def loads(self) -> dict[InstanceId, MemberLoad]:
        return dict(self.known)

    def now(self) -> float:
        return self.clock

    def take_report(self, report: CallerReport) -> None:
        self.reports.append(report)

    def take_doubts(self, member_ids: Sequence[bytes]) -> None:
        self.doubts += member_ids

    def drain_state(self) -> DrainState:
        return self.drain


@dataclass
class Sidecar:
    """The commands of a sidecar. It records each call."""

    pool: PoolView = THREE
    told: list[str] = field(default_factory=list)
    reason: str | None = None
    restart: str | None = None
    known: dict[bytes, MemberDetail] = field(default_factory=dict)
    broken: bool = False
    written: dict[tuple[str, str], PolicyRecord] = field(default_factory=dict)
    refusal: str = ""
    ring: KeysAnswer = field(default_factory=lambda: ONE_KEY)
    measured: SidecarMeasurements = field(
        default_factory=lambda: SidecarMeasurements(GossipMeasurements(), Histogram(NETWORK_SECONDS))
    )

    activity: KnownActivity = field(default_factory=KnownActivity)

    def view(self) -> PoolView:
        return self.pool

    def details(self) -> dict[bytes, MemberDetail]:
        if self.broken:
            raise RuntimeError("a bug")
        return self.known

    def status(self) -> Status:
        draining = self.told[-1:] in (["drain"], ["leave"])
        return Status(
            name="w1",
            cluster="prod",
            service="embed",
            process=PROCESS,
            generation=1,
            instance="00" * 16,
            gossip="127.0.0.1:7946",
            readiness="draining" if draining else "passing",
            draining=draining,
            unready=self.reason or "",
            joined=True,
            isolated=False,
            stopped=None,
            peers=2,
            table_digest="0123456789abcdef",
            seal="plaintext",
            keys=0,
            seal_trouble="",
            shares_worker_with=[],
            loop_lag=0.001,
            counters={"sent": 12},
            settings={"period": 0.2, "join": ["127.0.0.1:7947"], "zone": None},
        )

    def measurements(self) -> SidecarMeasurements:
        return self.measured

    def record(self) -> bytes:
        return b"\x93"

    def keys(self) -> KeysAnswer:
        return self.ring

    def proves_key(self, proof: bytes, text: bytes) -> bool:
        return hmac.compare_digest(proof, proof_of(HELD, text))

    def install_key(self, text: str) -> None:
        if text == "bad":
            raise CommandRejected("the key cannot be installed: it is bad", "make another")
        self.told.append("install")

    def use_key(self, key_id: str) -> None:
        self.told.append(f"use {key_id}")

    def remove_key(self, key_id: str) -> None:
        self.told.append(f"remove {key_id}")

    def policies(self) -> list[PolicyRecord]:
        return list(self.written.values())

    def policy_history(self) -> list[tuple[PolicyRecord, str]]:
        return [(record, f"{record.kind} of {record.service}") for record in self.written.values()]

    def write_policy(self, service: str, body: PolicyBody) -> PolicyRecord:
        if self.refusal:
            raise CommandRejected(self.refusal, "ask again in a moment")
        counter = max((record.counter for record in self.written.values()), default=0) + 1
        try:
            record = PolicyRecord(service, counter, "w1", 1_700_000_000_000, encode_body(body))
            encode_policy(record)
        except InvalidPolicy as error:
            raise CommandRejected(str(error), "write it otherwise") from None
        self.written[service, record.kind] = record
        return record

    def worker_restart_reason(self) -> str | None:
        return self.restart

    def unready(self) -> str | None:
        return self.reason

    def drain(self, *, restart: bool = False) -> None:
        self.told.append("drain for a restart" if restart else "drain")

    def set_weight(self, weight: float) -> None:
        self.told.append(f"weight {weight:g}")

    def undrain(self) -> None:
        if "leave" not in self.told:
            self.told.append("undrain")

    def reload(self) -> None:
        self.told.append("reload")

    def leave(self) -> None:
        self.told.append("leave")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Caller:
    """One connection. h11 reads the answers, and rejects any error of the server."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def get(self, target: str, **headers: str) -> Answer:
        return await self.ask("GET", target, **headers)

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        """One request and its answer; `If_None_Match=` becomes `If-None-Match:`."""
        headers |= {"Content_Length": str(len(body))} if body else {}
        lines = [(name.replace("_", "-"), value) for name, value in {"Host": "localhost", **headers}.items()]
        request = h11.Request(method=method, target=target, headers=lines)
        events = (request, h11.Data(data=body), h11.EndOfMessage()) if body else (request, h11.EndOfMessage())
        await self.send(b"".join(self._h11.send(event) or b"" for event in events))
        answer = await self.read_answer()
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return answer

    async def read_answer(self) -> Answer:
        """The next answer. Raises h11.RemoteProtocolError if the bytes are not one."""
        if self._h11.our_state is h11.IDLE:
            self._h11.send(h11.Request(method="GET", target="/", headers=[("Host", "written-by-hand")]))
            self._h11.send(h11.EndOfMessage())
        head, body = None, b""
        while True:
            event = self._h11.next_event()
            match event:
                case h11.NEED_DATA:
                    self._h11.receive_data(bytes(await self.stream.receive_some(65536)))
                case h11.Response():
                    head = event
                case h11.Data():
                    body += bytes(event.data)
                case h11.EndOfMessage():
                    assert head is not None
                    return Answer(head.status_code, {k.decode(): v.decode() for k, v in head.headers}, body)
                case h11.InformationalResponse():
                    pass
                case _:
                    raise AssertionError(f"unexpected {event}")

    def next_cycle(self) -> None:
        self._h11.start_next_cycle()

    async def read_to_end(self) -> bytes:
        """Everything until the other side closes."""
        data = b""
        while chunk := await self.stream.receive_some(65536):
            data += chunk
        return data


class Stream:
    """A caller of /v1/watch: events as (kind, id, data); comments as (":", "", text)."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._buffer = b""

    async def open(self, target: str = "/v1/watch?service=embed") -> bytes:
        """Ask, and return the head of the answer."""
        await self._caller.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return await self._until(b"\r\n\r\n")

    async def next(self) -> tuple[str, str, Any]:
        block = (await self._until(b"\n\n")).decode()
        if block.startswith((":", "retry:")):
            kind, _, text = block.partition(":")
            return kind or ":", "", text.strip()
        fields = dict(line.split(": ", 1) for line in block.strip().split("\n"))
        return fields["event"], fields["id"], msgspec.json.decode(fields["data"])

    async def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            chunk = await self._caller.stream.receive_some(65536)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        block, _, self._buffer = self._buffer.partition(end)
        return block


@dataclass
class Serving:
    server: DiscoveryServer
    port: int
    sidecar: Sidecar
    client: httpx2.AsyncClient
    callers: list[Caller] = field(default_factory=list)

    async def caller(self) -> Caller:
        """A new connection. The end of the block closes it, unless that was done before."""
        caller = Caller(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.callers.append(caller)
        return caller

    def publish(self, view: PoolView, *, at_once: bool = True) -> None:
        """Give the sidecar this view of the pool. At once: even if the update before took long on a busy machine."""
        self.sidecar.pool = view
        if at_once:
            self.server._next_view_update = 0.0
        self.server.pool_changed()

    async def get(self, target: str, **headers: str) -> Answer:
        return await self.ask("GET", target, **headers)

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        caller = await self.caller()
        async with caller.stream:
            return await caller.ask(method, target, body, **headers)


@asynccontextmanager
async def serving(
    first: PoolView | None = THREE,
    *,
    access: Access | None = None,
    limits: Limits | None = None,
    sealed: bool = True,
    disabled_formats: Collection[FormatName] = (),
    within: float = LIVENESS_LIMIT,
) -> AsyncIterator[Serving]:
    """An endpoint on an ephemeral port; it is closed, and all its tasks are gone, when the block ends.

    ``within`` seconds, far above what anything in the block takes on a busy machine.
    """
    sidecar = Sidecar(pool=first or THREE)
    server = DiscoveryServer(
        commands=sidecar,
        process=PROCESS,
        wall_offset=WALL_OFFSET,
        access=access,
        sealed=sealed,
        limits=limits or Limits(settle=0.0),
        disabled_formats=disabled_formats,
    )
    if first is not None:
        server.pool_changed()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with trio.fail_after(within):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listeners)
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                endpoint = Serving(server, port, sidecar, client)
                try:
                    yield endpoint
                finally:
                    for caller in endpoint.callers:
                        await trio.aclose_forcefully(caller.stream)
            server.close()


async def until(condition: Callable[[], bool]) -> None:
    """Return when another task has made the condition true."""
    while not condition():
        await trio.testing.wait_all_tasks_blocked(0.001)
