"""Envoy, with the whole of its configuration from the docs, follows the pool and loses no request."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from story import Seen, documented, get, program, running, story, tell
from traffic_run import TrafficRun

from bench.ports import reserved_port


async def test_envoy_follows_the_pool_and_fails_no_request(tmp_path: Path) -> None:
    envoy = program("envoy", sysconfig.get_path("scripts"))
    port, admin = reserved_port(), reserved_port()
    async with story() as pool:
        (tmp_path / "envoy.yaml").write_text(
            documented("envoy.md", "yaml", _7380=pool.http_port, _10000=port)
            + f"admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}\n"
        )

        async def see() -> Seen:
            answer = await get(f"http://127.0.0.1:{admin}/clusters?format=json")
            if answer is None:
                return {}
            clusters = {
                cluster["name"]: cluster.get("host_statuses", []) for cluster in answer.json()["cluster_statuses"]
            }
            ports = {worker.port: name for name, worker in pool.workers.items()}
            return {
                ports[host["address"]["socket_address"]["port_value"]]: host["weight"]
                for host in clusters.get("embed", [])
                if host["health_status"].get("eds_health_status") == "HEALTHY"
            }

        async with running(envoy, "-c", tmp_path / "envoy.yaml", "--log-level", "warning", "--use-dynamic-base-id"):
            traffic = TrafficRun(pool, f"http://127.0.0.1:{port}/")
            await traffic.begin()
            await tell(pool, see)
            traffic.judge()
