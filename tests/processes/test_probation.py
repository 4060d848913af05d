"""A member that flaps, and one that keeps another period, on real processes: any sidecar can tell."""

from __future__ import annotations

import signal

import trio
from agents import Agent, Worker, all_routable, has, pool, rumormill


async def test_any_sidecar_tells_who_is_on_probation_and_for_how_long() -> None:
    async with pool(2) as ([w1, w2], worker), trio.open_nursery() as nursery:
        flags = ("--join", w1.gossip, "--probation", "300s")
        for start in range(3):
            w3 = await Agent.start(nursery, "w3", worker, *flags)
            await w2.until(has("w3", readiness="starting" if start == 2 else "passing"))
            if start < 2:
                w3.signal(signal.SIGKILL)
                await w3.ended()
        answer = await w2.until(lambda a: any(w.name == "w3" and w.probation_until for w in a.workers))
        assert not any(w.name == "w3" and w.routable for w in answer.workers)
        [row] = [m for m in (await w2.ask("/v1/members"))["members"] if m["name"] == "w3"]
        assert 0 < row["probation"] <= 300
        lookup = await w2.ask("/v1/lookup?service=embed&key=k")
        assert "on probation until 20" in lookup["unroutable"]["w3"]
        events = (await w2.ask("/v1/events"))["events"]
        assert any(e["kind"] == "probation" and "w3 has flapped and is on probation for" in e["text"] for e in events)
        shown = await rumormill("members", "--http", w2.http)
        assert "PROBATION" in shown.stdout
        assert " s more" in shown.stdout
        shown = await rumormill("lookup", "k", "--http", w2.http)
        assert "not w3: it has flapped" in shown.stdout
        nursery.cancel_scope.cancel()


async def test_a_restart_by_sigterm_is_no_flap() -> None:
    async with pool(2) as ([w1, w2], worker), trio.open_nursery() as nursery:
        for _ in range(4):
            w3 = await Agent.start(nursery, "w3", worker, "--join", w1.gossip, "--probation", "300s")
            await w2.until(all_routable("w1", "w2", "w3"))
            w3.signal(signal.SIGTERM)
            assert await w3.ended() == 0
        assert not [e for e in (await w2.ask("/v1/events"))["events"] if e["kind"] == "probation"]
        nursery.cancel_scope.cancel()


async def test_another_period_is_warned_of_with_both_values_on_both_sides() -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker)
        w2 = await Agent.start(nursery, "w2", worker, "--join", w1.gossip, "--period", "500ms")
        line = await w1.logged("period", level="warning")
        assert line["text"].startswith(
            "w2 sends a heartbeat every 0.5 s, this member every 0.2 s: give all members one"
        )
        assert "every 0.2 s, this member every 0.5 s" in (await w2.logged("period", level="warning"))["text"]
        trouble = (await w1.ask("/v1/status"))["period_trouble"]
        assert trouble == "this member sends a heartbeat every 0.2 s; w2 every 0.5 s: set one --period everywhere"
        assert "period trouble" in (await rumormill("status", "--http", w2.http)).stdout
        assert {m["name"]: m["period"] for m in (await w2.ask("/v1/members"))["members"]} == {"w1": 0.2, "w2": 0.5}
        nursery.cancel_scope.cancel()
