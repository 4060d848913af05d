"""Prometheus finds the workers through http_sd, and follows the pool."""

from __future__ import annotations

from pathlib import Path

from story import Seen, documented, get, program, running, story, tell

from bench.ports import reserved_port


async def test_prometheus_follows_the_pool(tmp_path: Path) -> None:
    prometheus = program("prometheus")
    port = reserved_port()
    async with story() as pool:
        text = documented("prometheus.md", "yaml", _7380=pool.http_port).replace(
            "refresh_interval: 5s", "refresh_interval: 1s"
        )
        (tmp_path / "prometheus.yml").write_text(text)

        async def see() -> Seen:
            """Targets that are not draining: it lists those too."""
            answer = await get(f"http://127.0.0.1:{port}/api/v1/targets?state=active")
            if answer is None or answer.status_code != 200:
                return {}
            labels = [target["labels"] for target in answer.json()["data"]["activeTargets"]]
            return {one["worker"]: None for one in labels if one["readiness"] == "passing"}

        flags = (f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data")
        async with running(prometheus, *flags, f"--web.listen-address=127.0.0.1:{port}"):
            await tell(pool, see)
