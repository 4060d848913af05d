"""Workers that do one thing at a time, each with an agent, and a rush of requests that keeps all of them busy.

`python tests/harness/busy.py` runs it at full size, with the agents' default settings: 100 requests of 10 s at three
workers, then the same once more in which one of them dies with its agent.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx2
import trio
from agents import Agent, all_routable

from rumormill.client import Pool

SERVER = """
import http.server, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.say(b"ok")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(float(sys.argv[1]))
        self.say(sys.argv[2].encode())

    def say(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

class Server(http.server.HTTPServer):
    request_queue_size = 512

    def handle_error(self, *_):
        pass

server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@dataclass
class Pair:
    """A worker's process and its agent."""

    worker: subprocess.Popen[str]
    url: str
    agent: Agent

    def kill(self) -> None:
        self.worker.kill()
        self.agent.process.kill()


@dataclass
class Outcomes:
    """What became of the requests."""

    answered: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    failed: list[Exception] = field(default_factory=list)

    async def ask(self, http: httpx2.AsyncClient) -> None:
        try:
            response = await http.post("/", content=b"x", headers={"Idempotency-Key": "1"})
        except httpx2.HTTPError as error:
            self.failed.append(error)
        else:
            self.answered[response.text] += 1
            self.replayed += len(response.extensions["rumormill_attempts"]) > 1


@contextmanager
def busy_worker(name: str, seconds: float) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that takes so many seconds for each POST and does one at a time, and its URL."""
    command = [sys.executable, "-c", SERVER, str(seconds), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


@asynccontextmanager
async def busy_pool(size: int, seconds: float, flags: Sequence[str] = ()) -> AsyncIterator[list[Pair]]:
    """So many such workers, all routable everywhere."""
    names = [f"w{number}" for number in range(1, size + 1)]
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            pairs: list[Pair] = []
            for name in names:
                process, url = stack.enter_context(busy_worker(name, seconds))
                join = ("--join", pairs[0].agent.gossip) if pairs else ()
                pairs.append(Pair(process, url, await Agent.start(nursery, name, url, *flags, *join)))
            for pair in pairs:
                await pair.agent.until(all_routable(*names))
            yield pairs
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def rush(pairs: Sequence[Pair], requests: int, outcomes: Outcomes) -> AsyncIterator[None]:
    """So many requests at once, which nobody may repeat for being late; the block ends when all have been answered."""
    async with (
        Pool([pair.agent.http for pair in pairs], "embed", hedge=False, rng=random.Random(1)) as pool,
        httpx2.AsyncClient(
            transport=pool.transport(),
            base_url="http://embed",
            timeout=None,
            limits=httpx2.Limits(max_connections=None),
        ) as http,
        trio.open_nursery() as nursery,
    ):
        for _ in range(requests):
            nursery.start_soon(outcomes.ask, http)
        yield


async def happenings(pair: Pair) -> list[tuple[str, str]]:
    """Kind and member of every event that this agent has seen."""
    return [(event["kind"], event["member"]) for event in (await pair.agent.ask("/v1/events"))["events"]]


async def at_full_size() -> None:
    for victim in (None, 2):
        outcomes = Outcomes()
        async with busy_pool(3, 10.0) as pairs:
            began = trio.current_time()
            async with rush(pairs, 100, outcomes):
                await trio.sleep(15)
                if victim is not None:
                    pairs[victim].kill()
                    killed = trio.current_time()
                    for pair in pairs[:victim]:
                        await pair.agent.until(lambda answer: len(answer.workers) == 2)
                    print(f"dead one out everywhere after {trio.current_time() - killed:.2f} s")
            print(f"{dict(outcomes.answered)} answered in {trio.current_time() - began:.0f} s")
            print(f"replayed: {outcomes.replayed}, failed: {outcomes.failed}")
            for pair in pairs[:victim]:
                kinds = Counter(kind for kind, _ in await happenings(pair))
                critical = [line["why"] for line in pair.agent.lines if line.get("readiness") == "critical"]
                print(pair.agent.name, dict(kinds), critical)


if __name__ == "__main__":
    trio.run(at_full_size)
