"""A real Prometheus scrapes a real pool through a kill, with our rules, and answers every query of the dashboard."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from agents import Agent, Worker
from limits import LIVENESS_LIMIT

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rumormill.rules.yml"


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; as root, `make test-programs` installs it")
    return found


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    promtool = program("promtool")
    for command in (("check", "rules", RULES), ("test", "rules", DEPLOY / "prometheus" / "rumormill.test.yml")):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A running server, and its query API."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def query(self, expression: str) -> list[dict[str, Any]]:
        answer = (await self._client.get("/api/v1/query", params={"query": expression})).json()
        assert answer["status"] == "success", (expression, answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    async def rules(self) -> list[dict[str, Any]]:
        groups = (await self._client.get("/api/v1/rules")).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def until(self, expression: str, count: int) -> list[dict[str, Any]]:
        """Query until the expression has this many samples."""
        with trio.fail_after(LIVENESS_LIMIT):
            while len(found := await self.query(expression)) != count:
                await trio.sleep(0.1)
            return found


@asynccontextmanager
async def prometheus(targets: list[str], folder: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes these targets every second, until the end of the block."""
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "rumormill", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = await trio.lowlevel.open_process(command, stdout=log, stderr=log)
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            with trio.fail_after(LIVENESS_LIMIT):
                while not await _is_ready(client):
                    assert process.poll() is None, (folder / "log").read_text()
                    await trio.sleep(0.1)
            yield Prometheus(client)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _is_ready(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get("/-/ready")).status_code == 200
    except httpx2.TransportError:
        return False


async def test_prometheus_follows_a_pool_through_a_kill(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        flags = ("--insecure-plaintext",)
        w1 = await Agent.start(nursery, "w1", worker, *flags)
        w2 = await Agent.start(nursery, "w2", worker, "--join", w1.gossip, *flags)
        w3 = await Agent.start(nursery, "w3", worker, "--join", w1.gossip, *flags)
        everybody = [agent.http.removeprefix("http://") for agent in (w1, w2, w3)]
        async with prometheus(everybody, tmp_path) as server:
            await server.until('rumormill_members{liveness="alive", readiness="passing"} == 3', 3)
            await server.until("rumormill_heartbeat_gap_seconds_count > 5", 3)
            w3.process.kill()
            await server.until('sum by (instance) (rumormill_members{liveness="dead"}) == 1', 2)
            evicted = await server.until("sum by (instance) (rumormill_evictions_total) == 1", 2)
            assert {sample["metric"]["instance"] for sample in evicted} == set(everybody[:2])
            await server.until("up == 0", 1)
            await _until_all_rules_are_evaluated(server)
            for panel in json.loads((DEPLOY / "grafana" / "rumormill.json").read_text())["panels"]:
                for target in panel["targets"]:
                    await server.query(target["expr"].replace("$instance", ".*"))
        nursery.cancel_scope.cancel()


async def _until_all_rules_are_evaluated(server: Prometheus) -> None:
    with trio.fail_after(LIVENESS_LIMIT):
        while True:
            rules = await server.rules()
            assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
            if rules and all(rule["health"] == "ok" for rule in rules):
                return
            await trio.sleep(0.1)
