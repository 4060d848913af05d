"""Cancelled requests in the client's figures: a release that hangs must not look free of errors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx2
import pytest
import trio
from callers import KEYED
from stage import StageInThread, answering, hang, stage, stage_in_thread, until_true
from test_figures import Clock

from rumormill.cli.gates import ClientFiguresSource, parse_gate
from rumormill.client import Pool
from rumormill.client.observability.figures import WRITE_EVERY, Figures


def test_a_cancelled_request_hung_if_it_waited_longer_than_nine_answers_in_ten() -> None:
    clock = Clock()
    figures = Figures("embed", clock=clock)
    for number in range(100):
        figures.note("v1", number / 100, failed=False)
    figures.note("v1", 1e6, failed=True)
    clock.now += WRITE_EVERY
    figures.note_cancelled("v2", 0.85)
    figures.note_cancelled("v2", 0.95)
    found = figures.figures()["v2"]
    assert (found.requests, found.cancelled, found.errors, found.p99) == (2, 2, 1, 0.95)
    assert 'release="v2",outcome="cancelled"} 1' in figures.prometheus()
    assert 'release="v2",outcome="hung"} 1' in figures.prometheus()


def test_without_any_answer_every_cancelled_request_hung() -> None:
    figures = Figures("embed")
    figures.note_cancelled("v2", 0.001)
    assert figures.figures()["v2"].errors == 1


@pytest.mark.parametrize("hedge", [True, False])
async def test_a_candidate_that_hangs_fails_its_gate_on_trio(tmp_path: Path, hedge: bool) -> None:
    path = tmp_path / "figures.json"
    figures = Figures("embed", path=path)
    async with stage(workers=1) as scene:
        scene.change("w0", release="v2")
        scene.workers["w0"].behaviour = hang
        async with (
            Pool(scene.urls, "embed", hedge=hedge) as pool,
            httpx2.AsyncClient(transport=figures.transport(pool.transport()), base_url="http://embed") as http,
        ):
            for asked in (1, 2, 3):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(http.get, "/")
                    await until_true(lambda asked=asked: len(scene.workers["w0"].seen) == asked)
                    nursery.cancel_scope.cancel()
    figures.write()
    held = json.loads(path.read_text())["releases"]["v2"]
    assert (held["requests"], held["cancelled"], held["errors"]) == (3, 3, 3)
    gate = parse_gate("errors<1%")
    assert not gate.passes(ClientFiguresSource(str(path)).value(gate, "embed", "v2"))


def test_a_candidate_that_hangs_fails_its_gate_on_asyncio() -> None:
    figures = Figures("embed")

    async def main(scene: StageInThread) -> None:
        async with (
            Pool(scene.scene.urls, "embed") as pool,
            httpx2.AsyncClient(transport=figures.transport(pool.transport()), base_url="http://embed") as http,
        ):
            request = asyncio.create_task(http.post("/", content=b"x", timeout=None))
            await asyncio.to_thread(scene.do, scene.scene.workers["w0"].arrived.wait)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request

    with stage_in_thread(workers=1) as scene:
        scene.scene.workers["w0"].behaviour = hang
        asyncio.run(main(scene))
    (found,) = figures.figures().values()
    assert (found.requests, found.cancelled, found.errors) == (1, 1, 1)
    assert found.p50 is not None


async def test_only_the_worker_being_asked_is_charged_with_the_wait() -> None:
    figures = Figures("embed")
    async with stage(workers=2) as scene:
        first, second = scene.owners("user-1")
        scene.change(first.name, release="refused")
        scene.change(second.name, release="hung")
        first.behaviour, second.behaviour = answering(503), hang
        async with (
            Pool(scene.urls, "embed") as pool,
            httpx2.AsyncClient(transport=figures.transport(pool.transport()), base_url="http://embed") as http,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(lambda: http.get("/", headers=KEYED))
            await until_true(lambda: bool(second.seen))
            nursery.cancel_scope.cancel()
    found = {name: (held.errors, held.cancelled) for name, held in figures.figures().items()}
    assert found == {"refused": (1, 0), "hung": (1, 1)}
