"""Clients of Consul in Python (two, each in an environment of its own) and in JavaScript follow the pool.

Each runs as a program that blocks on the health of the service, and writes a line for each answer: names and weights.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from story import Seen, program, story, tell

VENV = Path(__file__).parents[2] / ".venv"
PYTHON = """
import json, sys, consul
client = consul.Consul(host="127.0.0.1", port=int(sys.argv[1]))
assert client.agent.self()["Config"]["Datacenter"] == "tests"
assert client.status.leader() and list(client.agent.services()) == ["w1"]
index = None
while True:
    index, rows = client.health.service("embed", passing=True, index=index, wait="60s")
    print(json.dumps({row["Service"]["ID"]: row["Service"]["Weights"]["Passing"] for row in rows}), flush=True)
    assert [row["ServiceID"] for row in client.catalog.service("embed")[1]]
    assert "embed" in client.catalog.services()[1]
"""
JAVASCRIPT = """
import Consul from "consul";
const consul = new Consul({ host: "127.0.0.1", port: Number(process.argv[2]) });
const watch = consul.watch({ method: consul.health.service, options: { service: "embed", passing: true } });
watch.on("change", (rows) =>
  console.log(JSON.stringify(Object.fromEntries(rows.map(({ Service }) => [Service.ID, Service.Weights.Passing])))));
watch.on("error", (error) => console.error(String(error)));
"""


class Lines:
    """What a program writes, and the last line of it."""

    def __init__(self) -> None:
        self.last: dict[str, float | None] = {}
        self.count = 0

    async def read(self, process: trio.Process) -> None:
        assert process.stdout is not None
        rest = b""
        async for data in process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self.last = json.loads(line)
                self.count += 1

    async def see(self) -> Seen:
        return self.last


@asynccontextmanager
async def client(*command: str | Path) -> AsyncIterator[Lines]:
    lines = Lines()
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [*map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        nursery.start_soon(lines.read, process)
        try:
            yield lines
            assert process.returncode is None, "the client has ended"
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def follow(*command: str | Path) -> None:
    async with story() as pool, client(*command, str(pool.http_port)) as lines:
        await tell(pool, lines.see)
        assert lines.count < 30, "it was woken by what changed nothing"


@pytest.mark.parametrize("package", ["py-consul", "python-consul2"])
async def test_in_python(package: str, tmp_path: Path) -> None:
    python = VENV / package / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{package} is not installed; `make test-programs` installs it")
    (tmp_path / "follow.py").write_text(PYTHON)
    await follow(python, tmp_path / "follow.py")


async def test_in_javascript(tmp_path: Path) -> None:
    node, modules = program("node"), VENV / "npm" / "node_modules"
    if not (modules / "consul").exists():
        pytest.skip("the npm package consul is not installed; `make test-programs` installs it")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "follow.mjs").write_text(JAVASCRIPT)
    await follow(node, tmp_path / "follow.mjs")
