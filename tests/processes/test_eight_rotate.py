"""Eight real agents change keys three times round, one of them stopped each time."""

from __future__ import annotations

import base64
import signal
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from agents import Agent, Worker, all_routable, has
from key_files import key_file
from limits import LIVENESS_LIMIT

from rumormill.discovery.schema.key_proof import proof_text
from rumormill.gossip.security.keyring import key_name_of, proof_of

NAMES = [f"w{number}" for number in range(1, 9)]


async def step(agent: Agent, held: bytes, method: str, body: bytes = b"", key: bytes = b"") -> dict[str, Any]:
    """One step of a rotation, at one sidecar; tried again while it is refused for the sake of somebody who sleeps."""
    process = (await agent.ask("/v1/status"))["process"]
    target = f"/v1/keys?id={key_name_of(key)}" if key else "/v1/keys"
    proof = {"Rumormill-Key-Proof": proof_of(held, proof_text(process, method, target, body)).hex()}
    async with httpx2.AsyncClient(base_url=agent.http, timeout=LIVENESS_LIMIT, trust_env=False) as client:
        with trio.fail_after(2 * LIVENESS_LIMIT):
            while True:
                answer = await client.request(method, target, content=body, headers=proof)
                if answer.status_code == 200 and answer.json()["settled"]:
                    found: dict[str, Any] = answer.json()
                    return found
                assert answer.status_code in (200, 409), answer.text


async def callers(agents: list[Agent], asked: list[int]) -> None:
    """A caller of every sidecar in turn, the whole time, each lookup as soon as the one before is answered."""
    async with httpx2.AsyncClient(timeout=LIVENESS_LIMIT, trust_env=False) as client:
        for number in count():
            agent = agents[number % len(agents)]
            answer = await client.get(f"{agent.http}/v1/lookup", params={"service": "embed", "key": str(number)})
            assert answer.status_code == 200
            asked[0] += 1


async def refused(agent: Agent) -> int:
    counters = (await agent.ask("/v1/status"))["counters"]
    return int(counters.get("dropped_unknown_key", 0) + counters.get("dropped_key", 0))


@pytest.mark.slow
async def test_eight_agents_three_rounds_one_asleep_during_each(tmp_path: Path) -> None:
    keys = [bytes([number]) * 32 for number in range(4)]
    asked = [0]
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        agents: list[Agent] = []
        for name in NAMES:
            path = key_file(tmp_path / f"{name}.key", keys[0])
            join = ("--join", agents[0].gossip) if agents else ()
            agents.append(await Agent.start(nursery, name, worker, "--key-file", str(path), *join))
        for agent in agents:
            await agent.until(all_routable(*NAMES))
        operator, sleepers = agents[0], agents[1:4]
        awake = [agent for agent in agents if agent not in sleepers]
        nursery.start_soon(callers, awake, asked)
        marks = [len(agent.lines) for agent in agents]
        for turn, sleeper in enumerate(sleepers, 1):
            sleeper.signal(signal.SIGSTOP)
            await operator.logged("evicted", who=sleeper.name)
            before, after = keys[turn - 1], keys[turn]
            await step(operator, before, "POST", b'{"key": "%s"}' % base64.b64encode(after))
            await step(operator, before, "PUT", key=after)
            if turn > 1:
                await step(operator, after, "DELETE", key=keys[turn - 2])
            sleeper.signal(signal.SIGCONT)
            for agent in awake:
                await agent.until(has(sleeper.name, liveness="alive"))
            await step(operator, after, "PUT", key=after)  # settled: the sleeper has the ring too
        for agent in agents:
            await agent.until(all_routable(*NAMES))
        evicted = {
            (line["who"])
            for agent, mark in zip(agents, marks, strict=True)
            for line in agent.lines[mark:]
            if line["event"] == "evicted"
        }
        assert evicted == {sleeper.name for sleeper in sleepers}
        assert {agent.name: await refused(agent) for agent in awake} == {agent.name: 0 for agent in awake}
        print(f"\n{asked[0]} lookups; refused at the sleepers: {[await refused(agent) for agent in sleepers]}")
        nursery.cancel_scope.cancel()
