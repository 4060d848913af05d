"""Workers as real processes that are killed and frozen during a stream of keyed requests."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx2
import pytest
import trio
from limits import LIVENESS_LIMIT
from members import member
from stage import CRITICAL, Stage, hang, stage, until_true

from rumormill.client import Pool, RequestNotReplayableError

RATE = 100
BODY = {"input": "a caller that never sees the death", "model": "hashed-ngrams"}


@contextmanager
def worker_process(name: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An embedding server as a separate process, and its URL."""
    command = [sys.executable, "-m", "rumormill.cli.demo.worker", "--port", "0", "--name", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1].removesuffix("/v1/embeddings")
            yield process, url
        finally:
            process.kill()


@dataclass
class Outcomes:
    """The outcomes of a stream of requests."""

    answered: list[tuple[str, float]] = field(default_factory=list)
    """The worker that answered, and after how many seconds."""
    failed: list[Exception] = field(default_factory=list)
    begun: int = 0

    async def ask(self, http: httpx2.AsyncClient) -> None:
        self.begun += 1
        began = trio.current_time()
        try:
            response = await http.post(
                "/v1/embeddings", json=BODY, headers={"Rumormill-Key": f"user-{self.begun % 97}"}
            )
        except httpx2.HTTPError as error:
            self.failed.append(error)
        else:
            assert response.status_code == 200
            self.answered.append((response.headers["X-Answered-By"], trio.current_time() - began))

    async def stream(self, http: httpx2.AsyncClient, requests: int) -> None:
        """Send this many requests at a fixed rate, without waiting for earlier answers."""
        async with trio.open_nursery() as nursery:
            due = trio.current_time()
            for _ in range(requests):
                nursery.start_soon(self.ask, http)
                due += 1 / RATE
                await trio.sleep_until(due)


@asynccontextmanager
async def three_processes() -> AsyncIterator[tuple[Stage, list[subprocess.Popen[str]]]]:
    with worker_process("w0") as one, worker_process("w1") as two, worker_process("w2") as three:
        async with stage(workers=0) as scene:
            for index, (_, url) in enumerate((one, two, three)):
                scene.members[f"w{index}"] = member(f"w{index}", url=url)
            scene.publish()
            yield scene, [one[0], two[0], three[0]]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_no_replayable_request_fails_when_its_worker_is_killed_or_frozen(how):
    outcomes = Outcomes()
    async with (
        three_processes() as (scene, processes),
        Pool(scene.urls, "embed", replay="always") as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http,
    ):
        await outcomes.stream(http, 40)
        assert {name for name, _ in outcomes.answered} == {"w0", "w1", "w2"}
        # No sidecar evicts it: this client has to notice and avoid it by itself.
        processes[1].send_signal(how)
        await outcomes.stream(http, 60)
        scene.evict("w1")
        served: set[str] = set()
        with trio.fail_after(LIVENESS_LIMIT):
            while not served >= {"w0", "w2"}:  # on a busy machine one of them may be slow, and asked less, for a while
                await outcomes.stream(http, 20)
                served |= {name for name, _ in outcomes.answered[-20:]}
    assert outcomes.failed == []
    assert len(outcomes.answered) == outcomes.begun >= 120
    assert served == {"w0", "w2"}


async def test_what_must_not_be_replayed_fails_only_if_it_was_sent_and_says_so():
    outcomes = Outcomes()
    async with (
        three_processes() as (scene, processes),
        Pool(scene.urls, "embed", replay="never") as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
    ):
        await outcomes.stream(http, 20)
        processes[1].send_signal(signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcomes.stream, http, 40)
            await until_true(lambda: _in_flight(pool, "w1") > 0)
            processes[1].send_signal(signal.SIGKILL)
        sent_after = outcomes.begun
        await outcomes.stream(http, 20)
    assert outcomes.begun == sent_after + 20
    assert outcomes.failed
    for error in outcomes.failed:
        assert isinstance(error, RequestNotReplayableError)
        assert error.worker.name == "w1"
        assert "was sent to w1" in str(error)
    assert len(outcomes.failed) + len(outcomes.answered) == outcomes.begun


def _in_flight(pool: Pool, name: str) -> int:
    (worker,) = (worker for worker in pool.workers if worker.name == name)
    return pool._require_open().upstreams.selector.stats(worker).in_flight


async def test_what_the_last_ready_worker_had_under_way_goes_to_those_that_only_look_critical():
    """Busy workers may miss their checks. The death of the one that did not is no outage."""
    async with (
        stage() as scene,
        Pool(scene.urls, "embed", replay="always", hedge=False) as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
    ):
        *others, last = scene.workers.values()
        for other in others:
            scene.change(other.name, readiness=CRITICAL)
        await until_true(lambda: pool.explain("user-1").places[0].worker.name == last.name)
        last.behaviour = hang
        answered: list[str] = []

        async def ask() -> None:
            answered.append((await http.post("/", content=b"x")).text)

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(ask)
            await until_true(lambda: len(last.seen) + len(answered) == 30)
            last.kill()
    assert len(answered) == 30
    assert set(answered) <= {other.name for other in others}
