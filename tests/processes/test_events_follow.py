"""Events say the state before, the state now and why, in tables and in JSON; a follower is told each as it happens."""

from __future__ import annotations

import json
import re
import signal

import trio
from agents import COMMAND, Agent, Worker, all_routable, environment, has, rumormill
from limits import LIVENESS_LIMIT


async def lines_of(process: trio.Process, words: str) -> list[str]:
    """What it prints up to the first line with these words."""
    assert process.stdout is not None
    printed = b""
    with trio.fail_after(LIVENESS_LIMIT):
        while not any(words in line for line in printed.decode(errors="ignore").split("\n")[:-1]):
            data = await process.stdout.receive_some()
            assert data, printed.decode()
            printed += data
    return printed.decode().splitlines()


async def follower(agent: Agent, *flags: str) -> trio.Process:
    return await trio.lowlevel.open_process(
        [*COMMAND, "events", "--follow", "--http", agent.http, *flags],
        stdout=-1,
        stderr=-3,
        env=environment(PYTHONIOENCODING="utf-8"),
    )


async def test_each_change_of_state_is_told_with_before_after_and_why() -> None:
    async with trio.open_nursery() as nursery:
        worker, other = await Worker.start(nursery), await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, "--worker-check-period", "50ms")
        table, lines = await follower(w1), await follower(w1, "-o", "json")
        w2 = await Agent.start(nursery, "w2", other, "--join", w1.gossip)
        await w1.until(all_routable("w1", "w2"))
        worker.status = 503
        await w1.until(has("w1", readiness="critical"))
        w2.signal(signal.SIGTERM)
        assert await w2.ended() == 0
        printed = await lines_of(table, "w2 left")
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  joined     w2 joined", _with(printed, "w2 joined"))
        assert "(passing → critical)" in _with(printed, "the worker is critical")
        assert "→ left)" in _with(printed, "w2 left")
        told = [json.loads(line) for line in await lines_of(lines, "w2 left")]
        [change] = [event for event in told if event["kind"] == "readiness" and event["new"] == "critical"]
        assert (change["member"], change["old"]) == ("w1", "passing")
        assert "GET /health answered 503" in change["reason"]
        assert [event["index"] for event in told] == sorted(event["index"] for event in told)
        shown = (await rumormill("events", "--http", w1.http, PYTHONIOENCODING="utf-8")).stdout
        assert "passing → critical" in shown
        assert (await w1.logged("left", who="w2"))["new"] == "left"
        w1.signal(signal.SIGTERM)
        with trio.fail_after(LIVENESS_LIMIT):
            assert await table.wait() == 3, "the sidecar has gone"
            assert await lines.wait() == 3
        nursery.cancel_scope.cancel()


def _with(lines: list[str], words: str) -> str:
    return next(line for line in lines if words in line)
