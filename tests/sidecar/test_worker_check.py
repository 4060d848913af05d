"""The worker check against real servers: what is a pass, what is a miss, and when which readiness follows."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from certificates import Authority
from limits import LIVENESS_LIMIT

from rumormill.membership.record import Readiness
from rumormill.sidecar.health import HealthSettings
from rumormill.sidecar.health.plan import WorkerPlan
from rumormill.sidecar.health.worker_check import WorkerCheck
from rumormill.sidecar.probes.build import build_probe
from rumormill.sidecar.probes.specification import CommandSpec, ProbeSpec, TcpSpec
from rumormill.sidecar.settings_values import NO_CHECK, Seconds, WorkerUrl
from rumormill.sidecar.worker_process import ProcessSource, WorkerProcess


@asynccontextmanager
async def server(answer: bytes | None, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Answers every request with these bytes, or with silence; gives the port."""

    async def serve(stream: trio.abc.Stream) -> None:
        try:
            await stream.receive_some(4096)
            if answer is None:
                await trio.sleep_forever()
            await stream.send_all(answer or b"")
            await stream.aclose()
        except trio.BrokenResourceError:
            return  # the caller has seen enough

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener | trio.SSLListener[trio.SocketStream]]
        if context is None:
            listeners = list(await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1")))
        else:
            listeners = list(await nursery.start(partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1")))
        listener = listeners[0]
        plain = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
        assert isinstance(plain, trio.SocketListener)
        yield plain.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def plan(url: str, path: str = "/health", *, period: float = 0.02, timeout: float = 0.25) -> WorkerPlan:
    return WorkerPlan(url=WorkerUrl.parse(url), path=path, timeout=timeout, judge=HealthSettings(period=period))


def probed_only(url: str, spec: ProbeSpec) -> WorkerPlan:
    judge = HealthSettings(period=0.02, probe_budget=30)
    worker = WorkerUrl.parse(url)
    return WorkerPlan(url=worker, path=NO_CHECK, timeout=0.25, judge=judge, probe=build_probe(spec, worker))


class Watch:
    """A check that runs, and what it has said."""

    def __init__(self, url: str, path: str = "/health", *, period: float = 0.02, timeout: float = 0.25) -> None:
        self.missed: list[str] = []
        self.check = WorkerCheck(
            plan(url, path, period=period, timeout=timeout),
            on_change=self._on_change,
            on_failure=self._on_failure,
            on_miss=self.missed.append,
        )
        self.said: list[tuple[Readiness, str]] = []
        self.failures = 0
        self._news = trio.Event()

    def _on_change(self, readiness: Readiness, why: str) -> None:
        self.said.append((readiness, why))
        self._news.set()

    def _on_failure(self) -> None:
        self.failures += 1

    async def news(self) -> tuple[Readiness, str]:
        with trio.fail_after(LIVENESS_LIMIT):
            await self._news.wait()
        self._news = trio.Event()
        return self.said[-1]

    async def misses(self, number: int) -> str:
        """Wait for so many misses, and say why the last one was one."""
        with trio.fail_after(LIVENESS_LIMIT):
            while self.check.misses < number:
                await trio.lowlevel.checkpoint()
        return self.check.last_miss


@asynccontextmanager
async def running(watch: Watch) -> AsyncIterator[Watch]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.check.run)
        yield watch
        nursery.cancel_scope.cancel()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.0 204 No Content\r\n\r\n",
        b"HTTP/1.1 299 Odd\r\n\r\nuntil the end",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 200_000,
        b"HTTP/1.1 204 No Content\r\n\r\nbut there is",
    ],
    ids=["plain", "http/1.0", "no length", "announced", "chunked", "endless", "body where none may be"],
)
async def test_a_pass(answer: bytes) -> None:
    async with server(answer) as port, running(Watch(f"http://127.0.0.1:{port}")) as watch:
        assert await watch.news() == (Readiness.PASSING, "it answers")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "GET /health answered 503"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            "GET /health answered 302; set --worker-check to a path that answers 2xx",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the response is not HTTP"),
        (b"", "the connection was closed without an answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Padding: y\r\n" * 10_000, "no end of headers"),
        (None, "no answer within 0.25 s"),
    ],
    ids=["503", "redirect", "not http", "closed", "endless head", "silence"],
)
async def test_a_miss_says_why(answer: bytes | None, why: str) -> None:
    async with server(answer) as port, running(Watch(f"http://127.0.0.1:{port}")) as watch:
        assert why in await watch.misses(1)
        assert watch.check.verdict.readiness is Readiness.STARTING


async def test_a_refused_connection_is_a_miss_by_address_and_by_name() -> None:
    async with server(OK) as port:
        pass
    for host in ("127.0.0.1", "localhost"):
        async with running(Watch(f"http://{host}:{port}")) as watch:
            assert await watch.misses(3) == f"nothing listens on {host}:{port}"
            assert len(watch.missed) == 1
    async with running(Watch("http://no.such.host.invalid")) as watch:
        assert await watch.misses(1)


async def test_three_misses_in_a_row_are_critical_and_one_pass_ends_that() -> None:
    answers = [200, 500, 500, 200, 500, 500, 500, 200]

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        await stream.send_all(b"HTTP/1.1 %d W\r\nContent-Length: 0\r\n\r\n" % status)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        async with running(Watch(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")) as watch:
            for _ in range(3):
                await watch.news()
        nursery.cancel_scope.cancel()
    assert watch.said == [
        (Readiness.PASSING, "it answers"),
        (Readiness.CRITICAL, "3 checks missed, the last: GET /health answered 500"),
        (Readiness.PASSING, "it answers"),
    ]
    assert watch.failures == 1
    assert watch.missed == ["GET /health answered 500"] * 2, "once in a row of misses"


async def test_a_busy_worker_gets_one_check_to_answer_later_and_has_not_failed() -> None:
    """One thing at a time: each request waits for the one before it."""
    lock = trio.Lock()
    asked = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal asked
        await stream.receive_some(4096)
        asked += 1
        async with lock:
            await stream.send_all(OK)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        async with running(Watch(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")) as watch:
            await watch.news()
            async with lock:
                readiness, why = await watch.news()
                assert readiness is Readiness.CRITICAL
                assert "no answer within" in why
                before = asked
                await watch.misses(20)
                assert asked == before, "the check in its queue is the only one"
            assert await watch.news() == (Readiness.PASSING, "it answers")
            assert watch.failures == 0
        nursery.cancel_scope.cancel()


async def test_a_check_unanswered_for_long_is_asked_again_on_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rumormill.sidecar.health.readiness_check.MAX_PENDING_SECONDS", 0.3)
    asked = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal asked
        await stream.receive_some(4096)
        asked += 1
        if asked == 1:
            await trio.sleep_forever()
        await stream.send_all(OK)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        async with running(Watch(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")) as watch:
            assert await watch.news() == (Readiness.PASSING, "it answers")
        nursery.cancel_scope.cancel()
    assert asked == 2


async def test_a_busy_worker_that_then_ends_has_failed() -> None:
    busy = False
    life = trio.CancelScope()

    async def converse(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        if busy:
            await trio.sleep_forever()
        await stream.send_all(OK)

    async def serve(task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        with life:
            await trio.serve_tcp(converse, 0, host="127.0.0.1", task_status=task_status)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve)
        watch = Watch(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        nursery.start_soon(watch.check.run)
        await watch.news()
        busy = True
        assert (await watch.news())[0] is Readiness.CRITICAL
        assert watch.failures == 0
        life.cancel()
        with trio.fail_after(LIVENESS_LIMIT):
            while not watch.failures:
                await trio.lowlevel.checkpoint()
        assert watch.check.verdict.readiness is Readiness.CRITICAL
        nursery.cancel_scope.cancel()
    assert watch.failures == 1


async def test_a_worker_whose_name_does_not_resolve_has_not_failed() -> None:
    async with server(OK) as port, running(Watch(f"http://127.0.0.1:{port}")) as watch:
        await watch.news()
        watch.check.configure(plan("http://no.such.host.invalid", timeout=5))
        assert (await watch.news())[0] is Readiness.CRITICAL
        watch.check.configure(plan(f"http://127.0.0.1:{port}", timeout=5))
        assert (await watch.news())[0] is Readiness.PASSING
        assert watch.failures == 0


async def test_tls_is_checked_against_the_known_authorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with server(OK, context) as port:
        async with running(Watch(f"https://127.0.0.1:{port}")) as watch:
            assert "its certificate cannot be verified" in await watch.misses(1)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
        async with running(Watch(f"https://127.0.0.1:{port}")) as watch:
            assert await watch.news() == (Readiness.PASSING, "it answers")


async def test_the_end_of_the_process_is_critical_at_once_whatever_an_older_check_says() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    release = trio.Event()
    asked = trio.Event()
    requests = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal requests
        await stream.receive_some(4096)
        requests += 1
        asked.set()
        await release.wait()
        await stream.send_all(OK)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        watch = Watch(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", period=1000)
        watched = WorkerProcess(
            ProcessSource(process.pid),
            on_start=watch.check.process_started,
            on_end=watch.check.process_ended,
            on_event=lambda _: None,
        )
        nursery.start_soon(watch.check.run)
        nursery.start_soon(watched.run)
        await asked.wait()
        process.kill()
        assert await watch.news() == (Readiness.CRITICAL, "its process has ended")
        assert requests == 1
        release.set()
        assert await watch.news() == (Readiness.PASSING, "it answers")
        assert requests == 2, "what was asked of the former process does not count"
        nursery.cancel_scope.cancel()
    process.communicate()


async def test_without_a_check_the_probe_alone_decides() -> None:
    """A worker that speaks no HTTP: it is there, it is gone, and it is back on the same port."""
    async with server(None) as port:
        url = f"http://127.0.0.1:{port}"
        watch = Watch(url)
        watch.check.configure(probed_only(url, TcpSpec(budget=Seconds(30), give_up=Seconds(60))))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.check.run)
            assert await watch.news() == (Readiness.PASSING, "it answers")
            nursery.cancel_scope.cancel()
    async with running(watch):
        readiness, why = await watch.news()
        assert readiness is Readiness.CRITICAL
        assert why == f"3 probes failed, the last: TCP 127.0.0.1:{port}: nothing listens on 127.0.0.1:{port}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_tcp, lambda _: trio.sleep_forever(), port, host="127.0.0.1"))
            assert await watch.news() == (Readiness.PASSING, "it answers")
            nursery.cancel_scope.cancel()
    assert watch.missed == []


async def test_a_watch_that_ended_amid_a_probe_probes_again(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.touch()
    url = "http://127.0.0.1:9"
    watch = Watch(url)
    spec = CommandSpec(command=("sh", "-c", f"echo >> {begun}; sleep 60"), budget=Seconds(30), give_up=Seconds(60))
    watch.check.configure(probed_only(url, spec))
    for times in (1, 2):
        async with running(watch):
            with trio.fail_after(LIVENESS_LIMIT):
                while begun.read_text().count("\n") < times:
                    await trio.sleep(0.01)
