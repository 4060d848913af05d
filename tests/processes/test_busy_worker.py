"""Workers that are busy are not aborted, not put on probation and not evicted, and a dead one among them is out."""

from __future__ import annotations

import signal

import trio
from agents import gone
from busy import Outcomes, busy_pool, happenings, rush
from limits import LIVENESS_LIMIT

HURRIED = ("--worker-check-period", "50ms", "--worker-check-timeout", "150ms")
SECONDS = 0.4


async def test_a_rush_that_keeps_all_workers_busy_is_answered_whole():
    outcomes = Outcomes()
    async with busy_pool(3, SECONDS, HURRIED) as pairs:
        async with rush(pairs, 30, outcomes):
            pass
        assert outcomes.failed == []
        assert sum(outcomes.answered.values()) == 30
        assert outcomes.replayed == 0
        for pair in pairs:
            await pair.agent.logged("worker", readiness="critical")
            kinds = {kind for kind, _ in await happenings(pair)}
            assert not kinds & {"probation", "evicted", "left"}, kinds


async def test_a_dead_one_among_the_busy_is_out_and_nothing_is_lost():
    outcomes = Outcomes()
    async with busy_pool(3, SECONDS, HURRIED) as pairs:
        async with rush(pairs, 30, outcomes):
            await pairs[0].agent.logged("worker", readiness="critical")
            pairs[2].kill()
            for pair in pairs[:2]:
                await pair.agent.until(gone("w3"))
        assert outcomes.failed == []
        assert sum(outcomes.answered.values()) == 30
        for pair in pairs[:2]:
            seen = await happenings(pair)
            assert [member for kind, member in seen if kind == "evicted"] == ["w3"]
            assert "probation" not in {kind for kind, _ in seen}


async def test_what_a_busy_worker_has_under_way_outlives_its_sidecar():
    """Such a worker answers no direct check: its sidecar's port, which is refused, speaks for it."""
    outcomes = Outcomes()
    async with busy_pool(3, 2.5, HURRIED) as pairs:
        async with rush(pairs, 6, outcomes):
            await pairs[0].agent.logged("worker", readiness="critical")
            pairs[2].agent.process.kill()
            await pairs[0].agent.until(gone("w3"))
        assert outcomes.failed == []
        assert sum(outcomes.answered.values()) == 6
        assert outcomes.answered["w3"] >= 1
        assert outcomes.replayed == 0


async def test_what_a_pair_that_froze_had_under_way_is_done_by_others():
    outcomes = Outcomes()
    async with busy_pool(3, SECONDS, HURRIED) as pairs:
        async with rush(pairs, 6, outcomes):
            pairs[2].worker.send_signal(signal.SIGSTOP)
            pairs[2].agent.signal(signal.SIGSTOP)
            with trio.fail_after(LIVENESS_LIMIT):
                await pairs[0].agent.until(gone("w3"))
        assert outcomes.failed == []
        assert sum(outcomes.answered.values()) == 6
