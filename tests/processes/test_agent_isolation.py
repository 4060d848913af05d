"""The last of a pool goes on: its worker serves, and its sidecar says what it knows of the others and how."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import httpx2
import pytest
import trio
from agents import Agent, Predicate, gone, has, pool, rumormill
from limits import LIVENESS_LIMIT

from rumormill.discovery.schema.workers import WorkersAnswer


async def readiness(agent: Agent) -> tuple[int, str]:
    async with httpx2.AsyncClient(base_url=agent.http, timeout=LIVENESS_LIMIT, trust_env=False) as client:
        response = await client.get("/readyz")
        return response.status_code, response.json()["why"]


async def first_owners(agent: Agent) -> set[str]:
    return {(await agent.ask(f"/v1/lookup?key=user-{number}"))["owners"][0]["name"] for number in range(60)}


def kill(agents: Sequence[Agent]) -> None:
    for agent in agents:
        agent.signal(signal.SIGKILL)


@pytest.mark.parametrize("size", [3, 4])
async def test_where_kernels_refuse_the_last_one_knows_within_moments_that_the_others_are_gone(size: int) -> None:
    async with pool(size) as ([w1, *others], _):
        kill(others)
        for other in others:
            await w1.until(gone(other.name))
        assert await readiness(w1) == (200, "")
        assert await first_owners(w1) == {"w1"}
        assert (await w1.ask("/v1/pool"))["failures_to_spare"] == 0
        evictions = [one["text"] for one in (await w1.ask("/v1/events"))["events"] if one["kind"] == "evicted"]
        assert len(evictions) == size - 1
        assert all("its host refuses" in text for text in evictions)


def cut_off(names: Sequence[str]) -> Predicate:
    def holds(answer: WorkersAnswer) -> bool:
        return answer.isolated and all(has(name, liveness="suspect")(answer) for name in names)

    return holds


async def test_where_they_vanish_the_last_one_stays_ready_says_that_it_is_deaf_and_names_itself_first() -> None:
    async with pool(4, "--no-icmp-evidence") as ([w1, *others], _):
        digest = (await w1.workers("embed")).routing_digest
        kill(others)
        await w1.until(cut_off([other.name for other in others]), "embed")
        assert await readiness(w1) == (200, "")
        assert await first_owners(w1) == {"w1"}
        assert (await w1.workers("embed")).routing_digest == digest
        assert (await w1.ask("/v1/pool"))["failures_to_spare"] == 0
        status, members = await w1.ask("/v1/status"), await w1.ask("/v1/members")
        assert (status["isolated"], status["peers"], status["suspects"], status["unready"]) == (True, 0, 3, "")
        for answer in (status, members):
            assert answer["connectivity"] == "deaf"
            assert answer["connectivity_why"].startswith("none of the others is heard")
        async with httpx2.AsyncClient(base_url=w1.http, timeout=LIVENESS_LIMIT, trust_env=False) as client:
            metrics = (await client.get("/metrics")).text
            assert 'rumormill_connectivity{state="deaf"} 1.0' in metrics
            assert 'rumormill_connectivity{state="connected"} 0.0' in metrics
            for route in ("/v1/workers", "/v1/members", "/v1/pool"):
                assert (await client.get(route)).headers["X-Rumormill-Connectivity"] == "deaf"
        with trio.fail_after(LIVENESS_LIMIT):
            shown = [(await rumormill(verb, "--http", w1.http)).stdout for verb in ("members", "status")]
        assert all("deaf: none of the others is heard" in text for text in shown)
