"""Each way in which a worker goes wrong while its health path says 200 leaves every routing table, with a reason.

How long that takes is measured by bench/worker_faults.py.
"""

from __future__ import annotations

import re
from functools import partial

import trio
from agents import Agent, all_routable
from faulty_pool import COMPLETIONS, COUNTED, EMBEDDINGS, faulty_pool, llama_page
from misbehaving_worker import Fault

REASONS = {
    Fault.ERROR: "wrong answer: POST /v1/embeddings: it answered 500",
    Fault.UNAVAILABLE: "wrong answer: POST /v1/embeddings: it answered 503",
    Fault.NAN: "number 1 of 4 is NaN",
    Fault.EMPTY: "data is empty",
    Fault.WRONG_LENGTH: "the vector has 2 numbers and should have 4",
    Fault.RESET: "3 probes failed, the last: POST /v1/embeddings: the connection was reset",
}


async def test_answers_that_are_wrong_or_break_off(tmp_path) -> None:
    file = tmp_path / "probe.toml"
    file.write_text('kind = "embeddings"\n[expect]\nlength = 4\n')
    async with faulty_pool((*EMBEDDINGS, "--probe-file", str(file))) as pool:
        for fault, reason in REASONS.items():
            found = await pool.break_first(fault)
            assert found.readiness == "critical"
            assert reason in found.reason, fault
            await pool.mend()
        assert pool.answered > 0


async def test_answers_that_do_not_come() -> None:
    async with faulty_pool(EMBEDDINGS) as pool:
        for fault in (Fault.HANGING, Fault.HEADERS_ONLY, Fault.DRIP):
            found = await pool.break_first(fault)
            assert "no answer to the probe" in found.reason or "no request was finished for" in found.reason, fault
            await pool.mend()


async def test_an_answer_in_two_seconds_is_slow() -> None:
    """Callers see that the worker makes progress: it keeps half of its keys."""
    async with faulty_pool(EMBEDDINGS) as pool:
        found = await pool.break_softly(Fault.LATE)
        assert "slow" in found.reason or "no answer to the probe" in found.reason
        await pool.mend()


async def test_an_exclamation_mark_for_ever() -> None:
    async with faulty_pool(COMPLETIONS) as pool:
        found = await pool.break_first(Fault.EXCLAMATION)
        assert "wrong answer: POST /v1/completions" in found.reason
        await pool.mend()


async def test_counters_that_stand_still_while_requests_wait() -> None:
    flags = (*COUNTED, "--stall-time", "2s")
    async with faulty_pool(flags, counters=lambda count: llama_page(count, running=2, waiting=0)) as pool:
        found = await pool.break_first(Fault.HANGING, freeze=True)
        said = re.search(r"stalled: 3 requests wait, 2 run and no token was produced for ([\d.]+) s", found.reason)
        assert said, found.reason
        assert float(said[1]) >= 2.0, found.reason
        livez = await pool.agents[0].ask("/worker/livez")
        assert livez == {"ok": True, "why": ""}, "no new work is one thing, a restart another"
        await pool.mend()


async def test_an_engine_whose_counters_move_is_never_ejected_though_nothing_answers() -> None:
    """Its health, its probe and its requests wait behind a crowd: by silence alone it would be out within a second."""
    hurried = ("--worker-check-period", "100ms", "--worker-check-timeout", "100ms", "--stall-time", "2s")
    flags = (*COUNTED, *hurried)
    async with faulty_pool(flags, counters=lambda count: llama_page(count, running=4, waiting=12), size=1) as pool:
        pool.workers[0].health_hangs = True
        await pool.break_nothing(Fault.HANGING, seconds=8)
        assert [line["readiness"] for line in pool.agents[0].lines if line["event"] == "worker"][-1] == "passing"
        assert "critical" not in [line.get("readiness") for line in pool.agents[0].lines]
        pool.workers[0].health_hangs = False
        await pool.mend()


async def test_a_stall_that_lasts_asks_for_a_restart() -> None:
    flags = (*COUNTED, "--stall-time", "500ms", "--restart-after", "1s")
    async with faulty_pool(flags, counters=lambda count: llama_page(count, running=2, waiting=0), size=1) as pool:
        await pool.break_first(Fault.HANGING, freeze=True)
        while (livez := await pool.agents[0].ask("/worker/livez"))["ok"]:
            pass
        assert "the worker has made no progress for" in livez["why"]
        await pool.mend()
        assert (await pool.agents[0].ask("/worker/livez"))["ok"]


async def test_a_health_path_that_takes_a_second_by_design_passes_with_its_engine() -> None:
    """SGLang's generates a token, and sleeps 1 s before it can answer."""

    async def health(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await trio.sleep(1.2)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, health, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        agent = await Agent.start(nursery, "w1", url, "--engine", "sglang", "--probe", "none")
        await agent.until(all_routable("w1"))
        await trio.sleep(5)
        assert [line["readiness"] for line in agent.lines if line["event"] == "worker"] == ["passing"]
        assert not [line for line in agent.lines if line["event"] == "check"], "nor was any check missed"
        nursery.cancel_scope.cancel()


async def test_a_metrics_page_that_is_down_alone_ejects_nobody() -> None:
    async with faulty_pool(COUNTED, size=1) as pool:  # without counters the page is empty
        note = await pool.agents[0].logged("counters")
        assert "has no counter that shows progress" in note["text"]
        assert [line["readiness"] for line in pool.agents[0].lines if line["event"] == "worker"] == ["passing"]
