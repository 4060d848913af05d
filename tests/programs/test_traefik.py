"""Traefik follows the pool: by its HTTP provider, failing only what was under way, and by its provider for Consul."""

from __future__ import annotations

import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from story import PoolStory, See, Seen, documented, get, program, running, story, tell
from traffic_run import TrafficRun

from bench.ports import reserved_port


@asynccontextmanager
async def traefik(pool: PoolStory, folder: Path, text: str, service: str) -> AsyncIterator[See]:
    """Traefik with this configuration, and what it has of a service."""
    path, api = program("traefik", sysconfig.get_path("scripts")), reserved_port()
    text = text.replace("entryPoints:\n", f'entryPoints:\n  traefik: {{ address: "127.0.0.1:{api}" }}\n')
    (folder / "traefik.yaml").write_text(text + "api: { insecure: true }\n")

    async def see() -> Seen:
        answer = await get(f"http://127.0.0.1:{api}/api/http/services/{service}")
        if answer is None or answer.status_code != 200:
            return {}
        ports = {worker.port: name for name, worker in pool.workers.items()}
        servers = answer.json().get("loadBalancer", {}).get("servers", [])
        return {ports[int(server["url"].rpartition(":")[2])]: server.get("weight") for server in servers}

    async with running(path, f"--configFile={folder}/traefik.yaml"):
        yield see


async def test_by_its_http_provider_it_follows_weights_too_and_fails_only_what_was_under_way(tmp_path: Path) -> None:
    port = reserved_port()
    async with story() as pool:
        text = documented("traefik.md", "yaml", 0, _7380=pool.http_port, _8000=port)
        async with traefik(pool, tmp_path, text, "embed@http") as see:
            traffic = TrafficRun(pool, f"http://127.0.0.1:{port}/", resends=False)
            await traffic.begin()
            await tell(pool, see)
            traffic.judge()


async def test_by_consuls_catalog_it_follows_who_is_there(tmp_path: Path) -> None:
    port = reserved_port()
    async with story() as pool:
        text = documented("traefik.md", "yaml", 1, _7380=pool.http_port, _8000=port)
        async with traefik(pool, tmp_path, text, "embed@consulcatalog") as see:
            await tell(pool, see)
