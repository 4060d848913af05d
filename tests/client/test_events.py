"""`pool.events()`: what a pool concluded, for both kinds of pool."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import trio
from callers import KEYED, calling
from limits import LIVENESS_LIMIT
from stage import SUSPECT, answering, stage, stage_in_thread
from test_client_decisions import topology_of, worker

from rumormill.client import (
    BreakerEvent,
    DefaultAnswer,
    FallbackEvent,
    OpenReason,
    PanicEvent,
    Pool,
    PoolEvent,
    SyncPool,
    TopologyEvent,
)
from rumormill.client.observability.events import MAX_WAITING, EventHub, PoolEvents, SyncPoolEvents, topology_event
from rumormill.client.selection.breaker import ERRORS_FOR


async def next_of(events: PoolEvents, kind: type[PoolEvent]) -> PoolEvent:
    """The next event of this kind."""
    with trio.fail_after(LIVENESS_LIMIT):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("the stream has ended")


async def test_a_breaker_is_told_as_it_opens_is_probed_and_closes(autojump_clock):
    async with stage() as scene, calling(scene) as (pool, http):
        first = scene.owners("user-1")[0]
        events = pool.events()
        first.behaviour = answering(500)
        while not isinstance(pool.explain("user-1").places[-1].reasons[-1].seconds, float):
            await http.get("/", headers=KEYED)
        opened = await next_of(events, BreakerEvent)
        assert isinstance(opened, BreakerEvent)
        assert (opened.worker.name, opened.state, opened.reason) == (first.name, "open", OpenReason.ERRORS)
        assert ERRORS_FOR <= opened.seconds <= 2 * ERRORS_FOR
        assert f"open for {opened.seconds:.1f} s" in str(opened)
        first.behaviour = answering(200)
        await trio.sleep(2 * ERRORS_FOR)
        await http.get("/", headers=KEYED)
        states = [(await next_of(events, BreakerEvent)).state for _ in range(2)]  # type: ignore[union-attr]
        assert states == ["half_open", "closed"]


async def test_topology_panic_and_fallbacks_are_told(autojump_clock):
    async with stage() as scene, Pool(scene.urls, "embed", replay="always") as pool:
        events = pool.events()
        scene.change("w1", liveness=SUSPECT)
        changed = await next_of(events, TopologyEvent)
        assert isinstance(changed, TopologyEvent)
        assert ([one.name for one in changed.changed], changed.joined, changed.left) == (["w1"], (), ())
        assert str(changed) == "3 workers: w1 is suspect, passing"
        scene.evict("w1")
        assert [one.name for one in (await next_of(events, TopologyEvent)).left] == ["w1"]  # type: ignore[union-attr]
        for one in scene.workers.values():
            one.behaviour = answering(500)
        transport = pool.transport(fallbacks=[DefaultAnswer(json={}, name="nothing")])
        async with httpx2.AsyncClient(transport=transport, base_url="http://embed") as http:
            for _ in range(60):
                assert (await http.get("/v1/x")).json() == {}
                await trio.sleep(0.05)
        assert isinstance(await next_of(events, FallbackEvent), FallbackEvent)
        panic = await next_of(events, PanicEvent)
        assert "more than half" in str(panic)


async def test_a_stream_ends_with_its_pool_and_a_new_one_begins_with_what_follows():
    async with stage() as scene:
        async with Pool(scene.urls, "embed") as pool:
            scene.change("w1", liveness=SUSPECT)
            while all(one.liveness == "alive" for one in pool.workers):
                await pool.changed(pool.topology)
            events = pool.events()
        assert [event async for event in events] == []
        with pytest.raises(RuntimeError, match="not open"):
            pool.events()


def test_threads_get_the_same_events() -> None:
    with stage_in_thread() as staged, SyncPool(staged.scene.urls, "embed") as pool, ThreadPoolExecutor(1) as threads:
        events = pool.events(timeout=LIVENESS_LIMIT)
        waiting = threads.submit(next, events)
        staged.do(lambda: staged.scene.change("w2", liveness=SUSPECT))
        event = waiting.result(LIVENESS_LIMIT)
        assert isinstance(event, TopologyEvent)
        assert [one.name for one in event.changed] == ["w2"]
        with pytest.raises(TimeoutError, match=r"nothing within 0\.05 s"):
            next(pool.events(timeout=0.05))
        pool.close()
        assert list(events) == []


def breaker_event(at: float) -> BreakerEvent:
    return BreakerEvent(at, worker("w0"), "closed")


def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    hub, events = EventHub(), SyncPoolEvents(timeout=0.0)
    hub.add(events)
    for number in range(MAX_WAITING + 3):
        hub.publish(breaker_event(number))
    hub.close()
    assert [event.at for event in events] == [float(number) for number in range(3, MAX_WAITING + 3)]
    assert events.dropped == 3


def test_a_stream_that_nobody_holds_is_forgotten() -> None:
    hub, kept = EventHub(), SyncPoolEvents(timeout=0.0)
    hub.add(SyncPoolEvents(timeout=0.0))
    hub.add(kept)
    gc.collect()
    hub.publish(breaker_event(1.0))
    hub.add(SyncPoolEvents(timeout=0.0))
    assert next(kept) == breaker_event(1.0)
    assert sum(known() is not None for known in hub._sinks) <= 2


def test_a_restarted_worker_is_one_that_left_and_one_that_joined() -> None:
    before = topology_of(worker("w0"), worker("w1"))
    after = topology_of(worker("w0"), worker("w1", instance="f" * 32), before=before)
    event = topology_event(before, after, 1.0)
    assert ([one.instance[0] for one in event.left], [one.instance[0] for one in event.joined]) == (["w"], ["f"])
    assert event.changed == ()
