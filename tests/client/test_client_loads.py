"""Loads reach a client though its list of workers stands still, and sidecars hear what it has under way."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import httpx2
import trio
from stage import DRAINING, Exchange, Sidecar, answer, answering, hang, stage, until_true

from rumormill.client import Pool
from rumormill.client.discovery.request_counts import MAX_REPORTED, RequestCounts
from rumormill.client.discovery.topology import nothing_known
from rumormill.discovery.activity import parse_report_untrusted
from rumormill.ring.worker import Worker


def member_id(name: str) -> bytes:
    return name.encode().ljust(16, b"-")[:8]


def known(pool: Pool) -> dict[str, float]:
    """The utilizations that this pool balances by, by worker."""
    loads = pool._require_open().upstreams.selector._admission._loads or {}
    return {bytes.fromhex(instance).decode().rstrip("-"): busy for instance, busy in loads.items()}


def reported(sidecar: Sidecar, name: str) -> list[tuple[int, int]]:
    """What was reported about one worker, in order."""
    found = [report.workers.get(member_id(name)) for report in sidecar.activity.reports]
    return [(counts.under_way, counts.finished) for counts in found if counts is not None]


async def ask(pool: Pool, name: str) -> None:
    """A request whose key this worker owns."""
    key = next(f"k{n}" for n in range(1000) if pool.owners(f"k{n}", 1)[0].name == name)
    async with httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http:
        await http.get("/", headers={"Rumormill-Key": key})


async def test_loads_arrive_without_a_change_of_the_list():
    async with stage() as scene:
        scene.sidecars[0].state_loads(w0=0.25)
        async with Pool(scene.urls, "embed") as pool:
            topology = pool.topology
            await until_true(lambda: known(pool) == {"w0": 0.25})
            scene.sidecars[0].state_loads(w0=0.5, w2=0.75)
            await until_true(lambda: known(pool) == {"w0": 0.5, "w2": 0.75})
            scene.sidecars[0].state_loads()
            await until_true(lambda: known(pool) == {})
            assert pool.topology is topology or pool.topology.workers == topology.workers


async def test_a_worker_over_the_bound_loses_keys_by_a_load_that_moved_no_index():
    async with stage() as scene, Pool(scene.urls, "embed", rng=None) as pool:
        scene.sidecars[0].state_loads(w0=0.95, w1=0.2, w2=0.2)
        keys = [f"k{n}" for n in range(400)]
        await until_true(lambda: known(pool).get("w0") == 0.95)
        selector = pool._require_open().upstreams.selector
        firsts = [selector.pick(key, (), trio.current_time()) for key in keys]
        moved = [
            key
            for key, worker in zip(keys, firsts, strict=True)
            if pool.owners(key, 1)[0].name == "w0" and worker is not None and worker.name != "w0"
        ]
        assert moved


async def test_the_loads_of_a_sidecar_that_is_gone_are_unknown_and_not_full():
    async with stage() as scene:
        scene.sidecars[0].state_loads(w0=0.9)
        async with Pool(scene.urls, "embed") as pool:
            await until_true(lambda: known(pool) == {"w0": 0.9})
            scene.sidecars[0].kill()
            await until_true(lambda: known(pool) == {})


async def test_the_end_of_the_last_request_at_a_draining_worker_is_reported_at_once():
    async with stage() as scene, Pool(scene.urls, "embed") as pool, trio.open_nursery() as nursery:
        may_end = trio.Event()

        async def hold(exchange: Exchange) -> None:
            await may_end.wait()
            await exchange.answer()

        scene.workers["w1"].behaviour = hold
        nursery.start_soon(ask, pool, "w1")
        await scene.workers["w1"].arrived.wait()
        scene.change("w1", readiness=DRAINING)
        await until_true(lambda: (1, 0) in reported(scene.sidecars[0], "w1"))
        may_end.set()
        await until_true(lambda: reported(scene.sidecars[0], "w1")[-1] == (0, 1))


async def test_what_a_worker_did_not_answer_to_its_end_is_not_reported_as_finished():
    """A sidecar takes finished requests for proof of progress: a worker that hangs or breaks must give none."""
    async with stage() as scene, Pool(scene.urls, "embed", replay="never") as pool:
        counts = pool._require_open().upstreams.selector.counts

        async def break_off(exchange: Exchange) -> None:
            await exchange.begin("text/plain", 10)
            await exchange.part(b"half")
            await exchange.die()

        def finished(name: str) -> int:
            return sum(one.finished for instance, one in counts._counts.items() if instance == instances[name])

        instances = {worker.name: worker.instance for worker in pool.topology.workers}
        for behaviour in (hang, break_off, answering(500)):
            scene.workers["w1"].behaviour = behaviour
            with trio.move_on_after(0.2), suppress(httpx2.TransportError):
                await ask(pool, "w1")
        assert finished("w1") == 0
        assert not counts.any_under_way
        scene.workers["w1"].behaviour = answer
        for _ in range(3):
            await ask(pool, "w2")
        assert finished("w2") == 3


def worker(number: int, readiness: str = "passing") -> Worker:
    instance = f"{number:016x}".ljust(32, "0")
    return Worker("w", 1, instance, "embed", "", "", "", 1.0, "alive", readiness, None, {}, "")  # type: ignore[arg-type]


def test_a_report_names_draining_workers_first_and_is_one_that_sidecars_read():
    counts = RequestCounts()
    assert counts.report() is None
    for number in range(MAX_REPORTED + 40):
        counts.begin(worker(number))
    drains = worker(MAX_REPORTED + 20, "draining")
    counts.update(replace(nothing_known("embed"), workers=(drains,)))
    assert counts.news.is_set()
    made = counts.report()
    assert made is not None
    report = parse_report_untrusted(made.header.encode())
    assert report is not None
    assert next(iter(report.workers)).hex() == drains.instance[:16]
    assert len(report.workers) == MAX_REPORTED


def test_what_has_ended_is_reported_once_and_then_forgotten():
    counts = RequestCounts()
    counts.begin(worker(1))
    counts.end(worker(1))
    first = counts.report()
    assert first is not None
    assert first.header.endswith("=0/1")
    counts.confirm(first)
    assert counts.report() is None
    assert not counts.any_under_way


def test_a_report_that_no_sidecar_has_answered_is_made_again():
    """The query that carries it may be cancelled before it has left."""
    counts = RequestCounts()
    counts.begin(worker(1))
    counts.end(worker(1))
    lost = counts.report()
    again = counts.report()
    assert lost is not None
    assert again == lost
    counts.begin(worker(1))
    counts.end(worker(1))
    counts.confirm(lost)
    latest = counts.report()
    assert latest is not None, "what has ended since is not confirmed with it"
    assert latest.header.endswith("=0/2")
