"""What reading an engine's counters costs a sidecar: ``python -m bench.scraping`` (one minute).

Three agents run beside three workers: one without counters, one whose engine is at rest, and one whose counters move.
The page is as long as vLLM's. The processor time of the first is taken off that of the others.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import trio

RUMORMILL = (sys.executable, "-c", "from rumormill.cli.main import main; main()")
SETTLE = 5.0
BOUND = 0.1
"""Per cent of a core."""
BUCKETS = "".join(f'vllm:request_latency_bucket{{engine="0",le="{i}",model_name="llama"}} {i}.0\n' for i in range(1300))
PAGE = (
    BUCKETS[: len(BUCKETS) // 2]
    + 'vllm:num_requests_running{engine="0",model_name="llama"} %d.0\n'
    + 'vllm:num_requests_waiting{engine="0",model_name="llama"} 0.0\n'
    + 'vllm:kv_cache_usage_perc{engine="0",model_name="llama"} 0.25\n'
    + 'vllm:iteration_tokens_total_count{engine="0",model_name="llama"} %d.0\n'
    + BUCKETS[len(BUCKETS) // 2 :]
)


class Engine:
    """Serves its page on connections that stay open, as uvicorn does. ``running`` requests move its counters."""

    def __init__(self, running: int) -> None:
        self._running = running
        self._read = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        rest = b""
        while data := await stream.receive_some(4096):
            *requests, rest = (rest + data).split(b"\r\n\r\n")
            for request in requests:
                body = self._page() if b" /metrics " in request else b"ok"
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                if b"Connection: close" in request:
                    return

    def _page(self) -> bytes:
        self._read += 1
        return (PAGE % (self._running, self._read if self._running else 7)).encode()


def start_agent(name: str, port: int, *flags: str) -> subprocess.Popen[bytes]:
    ours = ["--name", name, "--cluster", name, "--service", "llm", "--worker", f"http://127.0.0.1:{port}"]
    ours += ["--gossip", "127.0.0.1:0", "--http", "127.0.0.1:0", "--insecure-plaintext", *flags]
    return subprocess.Popen([*RUMORMILL, "agent", *ours], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def cpu_seconds(pid: int) -> float:
    """CPU seconds that all threads of a process have used so far."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


async def measure(seconds: float) -> dict[str, float]:
    """Per cents of a core, by the kind of worker."""
    counted = ("--engine", "vllm", "--probe", "none")
    kinds = {"no counters": (0, ()), "counters at rest": (0, counted), "counters that move": (3, counted)}
    agents: dict[str, subprocess.Popen[bytes]] = {}
    async with trio.open_nursery() as nursery:
        try:
            for number, (kind, (running, flags)) in enumerate(kinds.items()):
                serve = partial(trio.serve_tcp, Engine(running).serve, 0, host="127.0.0.1")
                listeners: list[trio.SocketListener] = await nursery.start(serve)
                agents[kind] = start_agent(f"a{number}", listeners[0].socket.getsockname()[1], *flags)
            await trio.sleep(SETTLE)
            before = {kind: cpu_seconds(agent.pid) for kind, agent in agents.items()}
            await trio.sleep(seconds)
            return {kind: 100 * (cpu_seconds(agent.pid) - before[kind]) / seconds for kind, agent in agents.items()}
        finally:
            for agent in agents.values():
                agent.kill()
                agent.wait()
            nursery.cancel_scope.cancel()


@click.command()
@click.option("--seconds", default=60.0, show_default=True)
def bench(seconds: float) -> None:
    """Measure what scraping costs."""
    found = trio.run(measure, seconds)
    without = found.pop("no counters")
    click.echo(f"an agent beside a worker without counters: {without:.3f} % of a core")
    for kind, share in found.items():
        click.echo(f"{kind}: {share - without:+.3f} % (bound {BOUND} %)")


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
