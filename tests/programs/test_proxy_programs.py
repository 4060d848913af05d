"""The configurations of the bench of proxies: each starts, and a tuned one hides a worker that answers 500 to all."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.fault_pool import fault_settings, tell, through_proxy, until_served
from bench.open_loop import OpenLoop, figures
from bench.ports import reserved_port
from bench.proxy_programs import PROXIES, ProgramMissing
from rumormill.cli.demo.processes import LocalPool


@pytest.mark.parametrize("name", PROXIES)
async def test_tuned_hides_an_error_and_default_does_not(name: str, tmp_path: Path) -> None:
    proxy, port = PROXIES[name], reserved_port()
    with LocalPool(fault_settings()) as pool:
        for member in pool:
            member.start_worker()
        await until_served(f"{member.worker_url}/health" for member in pool)
        try:
            process = proxy.start(tmp_path, port, [member.worker_port for member in pool], pool.env)
        except ProgramMissing as missing:
            pytest.skip(str(missing))
        try:
            await until_served([f"http://127.0.0.1:{port}/health"])
            await tell(pool["w1"], "error")
            async with through_proxy(port) as http:
                load = OpenLoop(http, rate=30.0)
                await load.run(1.0)
        finally:
            process.terminate()
            process.wait()
    found = figures(load.requests)
    assert found.requests == 30
    assert (found.failed == 0) == bool(proxy.tuned), found.troubles
