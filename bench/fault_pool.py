"""Workers that can be told to go wrong (fault_worker.py), each with its sidecar, as processes of their own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpx2
import trio

from bench.open_loop import UNLIMITED
from rumormill.cli.demo.pool_watch import PoolWatch, everyone_routable
from rumormill.cli.demo.processes import LocalMember, LocalPool, LocalPoolSettings
from rumormill.client import Pool
from rumormill.client.rules.replay import Replay

PATIENCE = 15.0
"""Seconds that the callers of the benches wait for an answer."""
READY_LIMIT = 120.0
"""Seconds until all processes serve. Only a hang takes so long."""


def fault_settings(size: int = 3, think: float = 0.005, *worker_flags: str) -> LocalPoolSettings:
    """So many workers; each takes ``think`` seconds for an answer."""
    own = [sys.executable, "-m", "bench.fault_worker", "--port", "{port}", "--name", "{name}"]
    command = " ".join([*own, "--think", f"{think * 1000:g}", *worker_flags])
    return LocalPoolSettings(size=size, cluster="bench", worker_command=command, agent_flags=("--probation", "0s"))


async def until_all_pass(members: Iterable[LocalMember], service: str) -> None:
    """Wait until each of these sidecars lists exactly these workers as routable."""
    watch = PoolWatch({member.name: member.url for member in members}, service)
    async with trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        await watch.until(watch.observers, everyone_routable(watch.observers), "one view", READY_LIMIT)
        nursery.cancel_scope.cancel()


async def until_served(urls: Iterable[str]) -> None:
    """Wait until each of these answers 200."""
    async with httpx2.AsyncClient(trust_env=False, timeout=1.0) as http:
        with trio.fail_after(READY_LIMIT):
            for url in urls:
                while not await _served(http, url):
                    await trio.sleep(0.05)


async def _served(http: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == 200
    except httpx2.TransportError:
        return False


async def tell(member: LocalMember, fault: str, *, health: bool = False) -> None:
    """Let a worker go wrong; with ``health``, on its health path too."""
    async with httpx2.AsyncClient(trust_env=False, timeout=READY_LIMIT) as http:
        await http.put(f"{member.worker_url}/fault/{fault}{'?health' if health else ''}")


async def received(member: LocalMember) -> list[float]:
    """When each POST came to the worker, in monotonic seconds."""
    async with httpx2.AsyncClient(trust_env=False, timeout=READY_LIMIT) as http:
        found: list[float] = (await http.get(f"{member.worker_url}/received")).json()
        return found


@asynccontextmanager
async def through_pool(
    pool: LocalPool, replay: Replay = "always", patience: float | None = PATIENCE
) -> AsyncIterator[tuple[Pool, httpx2.AsyncClient]]:
    """Our client, with all sidecars as its sources."""
    service = pool.settings.service
    async with (
        Pool(pool.urls, service=service, replay=replay) as ours,
        httpx2.AsyncClient(transport=ours.transport(), base_url=f"http://{service}", timeout=patience) as http,
    ):
        yield ours, http


@asynccontextmanager
async def through_proxy(port: int) -> AsyncIterator[httpx2.AsyncClient]:
    """The bare library, towards a proxy."""
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False, limits=UNLIMITED
    ) as http:
        yield http
