"""Which requests go on because their worker is busy or only its sidecar died, and which end because it is gone."""

from __future__ import annotations

import random
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx2
import msgspec
import pytest
import trio
from callers import KEYED
from stage import ALIVE, CRITICAL, SUSPECT, Exchange, Stage, Worker, stage, until_true

from rumormill.client import Pool, RequestNotReplayableError, ResponseInterruptedError
from rumormill.client.connections import direct_check
from rumormill.client.connections.direct_check import DirectCheck
from rumormill.client.connections.in_flight import InFlightRegistry, WorkerInFlight, WorkerLost
from rumormill.client.connections.streamed_body import AsyncStep
from rumormill.client.connections.upstream import Upstream
from rumormill.client.rules.retries import Attempt
from rumormill.client.runtime.shared_lock import shared_lock
from rumormill.client.selection.worker_selector import WorkerSelector
from rumormill.ring import Worker as PoolWorker

LIMIT = 0.2
WORKER = PoolWorker("w", 1, "i", "embed", "http://w", "", "", 1.0, "alive", "passing", None, {}, "")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_check, "ANSWER_TIMEOUT", LIMIT)
    monkeypatch.setattr(direct_check, "CHECK_EVERY", 0.05)


class Busy:
    """A worker's behaviour: requests wait until it is free. HEAD may be answered at once."""

    def __init__(self, *, answers_checks: bool) -> None:
        self.free = trio.Event()
        self.answers_checks = answers_checks
        self.checks = 0

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.seen.method == "HEAD":
            self.checks += 1
            if self.answers_checks:
                await exchange.answer(b"")
                return
        await self.free.wait()
        await exchange.answer()


@asynccontextmanager
async def one_under_way(busy: Busy, **settings: Any) -> AsyncIterator[tuple[Stage, Pool, Worker, list[Any]]]:
    """A request that must not be replayed, at a slow worker, and its outcome."""
    outcome: list[Any] = []
    async with (
        stage() as scene,
        Pool(scene.urls, "embed", replay="never", **settings) as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
    ):
        first = scene.owners("user-1")[0]
        first.behaviour = busy

        async def ask() -> None:
            try:
                outcome.append((await http.post("/", content=b"x", headers=KEYED)).text)
            except httpx2.HTTPError as error:
                outcome.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await first.arrived.wait()
            yield scene, pool, first, outcome
            await until_true(lambda: bool(outcome))


@pytest.mark.parametrize("changes", [{"readiness": CRITICAL}, {"liveness": SUSPECT}], ids=["critical", "suspect"])
async def test_requests_in_flight_at_a_critical_or_suspect_worker_go_on(changes):
    busy = Busy(answers_checks=False)
    async with one_under_way(busy) as (scene, pool, first, outcome):
        known = pool.topology
        scene.change(first.name, **changes)
        await pool.changed(known)
        await trio.sleep(2 * LIMIT)
        assert outcome == []
        busy.free.set()
    assert outcome == [first.name]
    assert busy.checks <= ("liveness" in changes), "only a suspect is asked, and once"


async def test_silence_as_a_suspect_counts_at_the_eviction():
    """The worker and its sidecar freeze. It is not asked anew once it is evicted."""
    busy = Busy(answers_checks=False)
    async with one_under_way(busy) as (scene, _, first, outcome):
        scene.change(first.name, liveness=SUSPECT)
        await until_true(lambda: busy.checks == 1)
        await trio.sleep(5 * LIMIT)
        assert outcome == [], "silence is no reason while it is only suspect"
        scene.evict(first.name)
        await until_true(lambda: bool(outcome))
        assert busy.checks == 1
    assert isinstance(outcome[0], RequestNotReplayableError)


async def test_a_suspect_that_answers_is_asked_again_at_its_eviction():
    busy = Busy(answers_checks=True)
    async with one_under_way(busy) as (scene, _, first, outcome):
        scene.change(first.name, liveness=SUSPECT)
        await until_true(lambda: busy.checks == 1)
        busy.answers_checks = False
        scene.evict(first.name)
        await until_true(lambda: busy.checks == 2)
    assert isinstance(outcome[0], RequestNotReplayableError), "its answer as a suspect does not count"


async def test_a_sidecar_that_ends_while_it_is_suspect_leaves_its_busy_worker_alone():
    busy = Busy(answers_checks=False)
    async with one_under_way(busy) as (scene, _, first, outcome):
        scene.change(first.name, liveness=SUSPECT)
        await until_true(lambda: busy.checks == 1)
        await trio.sleep(2 * LIMIT)
        scene.kill_sidecar(first.name)
        await trio.sleep(3 * LIMIT)
        assert outcome == []
        busy.free.set()
    assert outcome == [first.name]


async def test_a_suspect_that_refutes_is_no_longer_asked():
    busy = Busy(answers_checks=False)
    async with one_under_way(busy) as (scene, pool, first, outcome):
        scene.change(first.name, liveness=SUSPECT)
        await until_true(lambda: busy.checks == 1)
        known = pool.topology
        scene.change(first.name, liveness=ALIVE)
        await pool.changed(known)
        (here,) = pool._require_open().upstreams.in_flight._by_url.values()
        assert here.check is None
        assert outcome == []
        busy.free.set()
    assert outcome == [first.name]


async def test_requests_in_flight_go_on_when_the_evicted_worker_answers():
    busy = Busy(answers_checks=True)
    async with one_under_way(busy) as (scene, _, first, outcome):
        scene.evict(first.name)
        await until_true(lambda: busy.checks >= 2)
        assert outcome == []
        # It has answered since its sidecar went, so it may now be as silent as any busy worker.
        busy.answers_checks = False
        before = busy.checks
        await until_true(lambda: busy.checks > before)
        await trio.sleep(2 * LIMIT)
        assert outcome == []
        assert busy.checks == before + 1, "one check in its queue is enough"
        busy.free.set()
    assert outcome == [first.name]


async def test_a_busy_worker_whose_sidecar_died_alone_goes_on():
    busy = Busy(answers_checks=False)
    async with one_under_way(busy) as (scene, _, first, outcome):
        scene.kill_sidecar(first.name)
        await until_true(lambda: busy.checks == 1)
        await trio.sleep(2 * LIMIT)
        assert outcome == []
        busy.free.set()
    assert outcome == [first.name]


async def test_a_worker_that_froze_with_its_sidecar_counts_as_gone():
    async with one_under_way(Busy(answers_checks=False)) as (scene, _, first, outcome):
        scene.evict(first.name)
    (error,) = outcome
    assert isinstance(error, RequestNotReplayableError)
    assert f"{first.name} was evicted or left, and does not answer within {LIMIT:g} s" in str(error)


async def test_a_worker_that_dies_long_after_its_sidecar_is_found():
    busy = Busy(answers_checks=True)
    async with one_under_way(busy) as (scene, _, first, outcome):
        scene.kill_sidecar(first.name)
        await until_true(lambda: busy.checks >= 2)
        first.kill()
    assert isinstance(outcome[0], RequestNotReplayableError)


async def test_no_check_is_made_once_the_member_is_back_or_nothing_is_in_flight():
    busy = Busy(answers_checks=True)
    async with one_under_way(busy) as (scene, pool, first, _):
        scene.evict(first.name)
        await until_true(lambda: busy.checks >= 1)
        known = pool.topology
        scene.change(first.name, liveness=ALIVE, instance=b"returned".ljust(16, b"-"), generation=2)
        await pool.changed(known)
        (here,) = pool._require_open().upstreams.in_flight._by_url.values()
        assert not here.evicted
        assert here.check is None
        scene.evict(first.name)
        await until_true(lambda: here.check is not None)
        busy.free.set()


@pytest.mark.parametrize("how", ["suspected", "critical", "evicted"])
@pytest.mark.parametrize("winner", ["first", "second"])
async def test_a_replayable_request_at_a_doubtful_worker_is_hedged_and_the_first_attempt_goes_on(how, winner):
    busy, other = Busy(answers_checks=True), Busy(answers_checks=True)
    async with (
        stage() as scene,
        Pool(scene.urls, "embed") as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
        trio.open_nursery() as nursery,
    ):
        first, second, _ = scene.owners("user-1")
        first.behaviour, second.behaviour = busy, other
        answers: list[httpx2.Response] = []

        @nursery.start_soon
        async def ask() -> None:
            answers.append(await http.get("/", headers=KEYED))

        await first.arrived.wait()
        match how:
            case "suspected":
                scene.change(first.name, liveness=SUSPECT)
            case "critical":
                scene.change(first.name, readiness=CRITICAL)
            case "evicted":
                scene.evict(first.name)
        await second.arrived.wait()
        assert not first.hung_up.is_set()
        (busy if winner == "first" else other).free.set()
        await until_true(lambda: bool(answers))
        assert answers[0].text == (first if winner == "first" else second).name
        tried = answers[0].extensions["rumormill_attempts"]
        assert [(attempt.worker.name, attempt.hedge) for attempt in tried] == [(first.name, False), (second.name, True)]
        for one in (busy, other):
            one.free.set()


async def test_a_pool_that_is_busy_everywhere_is_hedged_within_the_budget_only(autojump_clock):
    async def slow(exchange: Exchange) -> None:
        await trio.sleep(30)
        await exchange.answer()

    async with (
        stage(limit=600) as scene,
        Pool(scene.urls, "embed") as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
    ):
        for worker in scene.workers.values():
            worker.behaviour = slow
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(http.get, "/")
            for name in scene.workers:
                await trio.sleep(1)
                scene.change(name, readiness=CRITICAL)
        # The budget for slow hedges: one at first, and one in fifty requests.
        assert sum(len(worker.seen) for worker in scene.workers.values()) <= 52


async def test_a_stream_goes_on_without_its_sidecar_and_ends_when_its_worker_does():
    more = trio.Event()
    checks = 0

    async def stream(exchange: Exchange) -> None:
        nonlocal checks
        if exchange.seen.method == "HEAD":
            checks += 1
            await exchange.answer(b"")
            return
        await exchange.begin("text/event-stream")
        await exchange.part(b"data: 1\n\n")
        await more.wait()
        await exchange.part(b"data: 2\n\n")
        await exchange.hang()

    async with (
        stage() as scene,
        Pool(scene.urls, "embed") as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
    ):
        first = scene.owners("user-1")[0]
        first.behaviour = stream
        async with http.stream("GET", "/", headers=KEYED) as response:
            chunks = response.aiter_bytes()
            assert await anext(chunks) == b"data: 1\n\n"
            scene.kill_sidecar(first.name)
            await until_true(lambda: checks >= 2)
            more.set()
            assert await anext(chunks) == b"data: 2\n\n"
            first.kill()
            with pytest.raises(ResponseInterruptedError, match=f"{first.name}.*in the middle of its answer"):
                await anext(chunks)


async def test_requests_begun_after_eviction_are_not_aborted_for_silence():
    async with (
        stage(workers=1) as scene,
        Pool(scene.urls, "embed", replay="never") as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
    ):
        worker, busy = scene.workers["w0"], Busy(answers_checks=False)
        worker.behaviour = busy
        known = pool.topology
        scene.evict("w0")
        await pool.changed(known)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                assert (await http.post("/", content=b"x")).text == "w0"

            await until_true(lambda: busy.checks == 1)
            await trio.sleep(2 * LIMIT)
            busy.free.set()


async def test_a_full_accept_queue_is_no_death_if_the_sidecars_port_refuses():
    """The worker accepts no connection. Only the refused port shows that its host is up."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        sidecar = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sidecar.bind(("127.0.0.1", 0))
        host, port = sidecar.getsockname()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        while _connects(stack.enter_context(socket.socket()), listener.getsockname()):
            pass
        worker = msgspec.structs.replace(WORKER, url=url, address=f"{host}:{port}")
        check = DirectCheck(WorkerInFlight(worker, evicted=True), lambda: pytest.fail("no TLS here"))
        assert await check._is_gone()
        sidecar.close()
        assert not await check._is_gone()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("address", ["", "127.0.0.1:99999", "nonsense"])
async def test_a_worker_that_accepts_connections_but_never_answers_counts_as_gone(scheme, address):
    """The sidecar's address does not matter."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        worker = msgspec.structs.replace(WORKER, url=url, address=address)
        selector = WorkerSelector("embed", random.Random(0))
        register = InFlightRegistry(selector, shared_lock(), trio.current_time, lambda function: function())
        work = register.begin(Attempt(worker, 0.0), Upstream(url, ssl.create_default_context))
        register._by_url[url].evicted = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(DirectCheck(register._by_url[url], ssl.create_default_context).run)
            reason = f"was evicted or left, and does not answer within {LIMIT:g} s"
            with pytest.raises(WorkerLost, match=reason), AsyncStep(work):
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()


def _connects(one: socket.socket, address: tuple[str, int]) -> bool:
    one.settimeout(0.3)
    return one.connect_ex(address) == 0


async def test_being_out_of_descriptors_says_nothing_of_the_worker(monkeypatch: pytest.MonkeyPatch):
    worker = msgspec.structs.replace(WORKER, url="http://127.0.0.1:9")
    check = DirectCheck(WorkerInFlight(worker, evicted=True), lambda: pytest.fail("no TLS here"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert not await check._is_gone()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await check._is_gone()
