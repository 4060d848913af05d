"""After somebody has set the wall clock, events carry the time that the log carries."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import trio
from agents import COMMAND, Agent, Worker, environment, has

HOUR = 3600.0


async def test_events_of_an_agent_follow_the_wall_clock(tmp_path: Path) -> None:
    """The agent's wall clock is this machine's and what stands in a file, for nobody sets that of the machine."""
    step = tmp_path / "step"
    step.write_text("0")
    skewed = f"import time; real = time.time; time.time = lambda: real() + float(open({str(step)!r}).read()); "
    command = [sys.executable, "-c", skewed + COMMAND[2]]
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        flags = ["--name", "w1", "--cluster", "tests", "--service", "embed", "--worker", worker.url]
        flags += ["--gossip", "127.0.0.1:0", "--http", "127.0.0.1:0", "--insecure-plaintext"]
        process = await trio.lowlevel.open_process(
            [*command, "agent", *flags], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
        )
        agent = Agent("w1", process)
        nursery.start_soon(agent._read)
        agent.gossip = (await agent.logged("bound"))["gossip"]
        agent.http = "http://" + (await agent.logged("serving"))["http"]
        first = await Agent.start(nursery, "w2", worker, "--join", agent.gossip)
        await agent.until(has("w2", readiness="passing"))
        index = (await agent.ask("/v1/events"))["index"]
        (tmp_path / "next").write_text(f"{HOUR}")
        (tmp_path / "next").replace(step)
        before = time.time()
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
        await agent.logged("left", who="w2")
        after = time.time()
        assert "set by +3600.0 s" in (await agent.logged("clock"))["text"]
        events = (await agent.ask(f"/v1/events?since={index}"))["events"]
        [left] = [event for event in events if event["kind"] == "left"]
        assert before + HOUR - 0.1 <= datetime.fromisoformat(left["at"]).timestamp() <= after + HOUR + 0.1
        nursery.cancel_scope.cancel()
