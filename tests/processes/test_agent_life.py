"""Agents as processes, on real sockets: they find each other, drain, leave, come back, and refuse what cannot be."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from agents import Agent, Worker, all_routable, gone, has, pool, run_agent
from limits import LIVENESS_LIMIT

from bench.ports import reserved_port


async def test_three_find_each_other_and_agree_on_every_owner() -> None:
    async with pool(3) as (agents, _):
        digests = {(await agent.workers("embed")).routing_digest for agent in agents}
        assert len(digests) == 1
        for key in ("a", "user-42", "ключ"):
            answers = [await agent.ask(f"/v1/lookup?service=embed&key={key}&n=3") for agent in agents]
            assert len({json.dumps([owner["name"] for owner in answer["owners"]]) for answer in answers}) == 1


async def test_an_idle_sidecar_of_three_is_small() -> None:
    async with pool(3) as (agents, _):
        for agent in agents:
            status = Path(f"/proc/{agent.process.pid}/status").read_text()
            resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
            assert resident < 60 * 1024, "kB"


async def test_sigterm_drains_then_leaves_and_looks_like_no_failure() -> None:
    async with pool(2, "--drain-time", "1000s") as ([w1, w2], _):
        w2.signal(signal.SIGTERM)
        await w1.until(has("w2", readiness="draining", liveness="alive"))
        assert (await w2.ask("/readyz"))["why"] == "the worker is draining"
        assert w2.process.returncode is None
    async with pool(2) as ([w1, w2], _):
        w2.signal(signal.SIGTERM)
        assert await w2.ended() == 0
        await w1.until(gone("w2"))
        kinds = [event["kind"] for event in (await w1.ask("/v1/events"))["events"] if event["member"] == "w2"]
        assert kinds[-1] == "left"
        await w2.logged("ended")
        held_up = any(line["event"] == "paused" for line in w2.lines)
        assert held_up or not {"suspected", "evicted"} & set(kinds)
        assert not w2.other


async def test_a_worker_of_weight_0_is_ready_and_takes_no_traffic() -> None:
    async with trio.open_nursery() as nursery:
        w1 = await Agent.start(nursery, "w1", await Worker.start(nursery), "--weight", "0")
        await w1.until(has("w1", readiness="passing", weight=0.0))
        assert (await w1.ask("/readyz"))["ok"]
        assert (await w1.ask("/v1/lookup?service=embed&key=k"))["owners"] == []
        assert (await w1.ask("/v1/pool?service=embed"))["routable"] == 0
        nursery.cancel_scope.cancel()


async def test_a_second_signal_ends_it_at_once() -> None:
    async with pool(1, "--drain-time", "1000s") as ([w1], _):
        w1.signal(signal.SIGTERM)
        await w1.until(has("w1", readiness="draining"))
        w1.signal(signal.SIGINT)
        assert await w1.ended() == 128 + signal.SIGINT


async def test_leave_over_http_is_like_a_signal() -> None:
    async with pool(2) as ([w1, w2], _):
        assert await w2.ask("/v1/leave", "POST") == {"leaving": True}
        assert await w2.ended() == 0
        await w1.until(gone("w2"))


async def test_drain_and_undrain() -> None:
    async with pool(2) as ([w1, w2], _):
        await w2.ask("/v1/drain", "PUT")
        await w1.until(has("w2", readiness="draining"))
        await w2.ask("/v1/drain", "DELETE")
        await w1.until(all_routable("w1", "w2"))
        assert not (await w2.ask("/v1/status"))["draining"]


async def test_killed_and_started_again_in_its_place() -> None:
    async with trio.open_nursery() as nursery, pool(2) as ([w1, w2], worker):
        former = next(w for w in (await w1.workers()).workers if w.name == "w2")
        w2.process.kill()
        await w2.ended()
        again = await Agent.start(nursery, "w2", worker, "--join", w1.gossip, "--gossip", w2.gossip)
        await w1.until(
            lambda answer: any(w.instance != former.instance and w.routable for w in answer.workers if w.name == "w2")
        )
        again.process.kill()


async def test_a_name_in_use_is_refused_with_who_holds_it() -> None:
    async with pool(2) as ([w1, w2], worker):
        second = await run_agent("w2", worker, "--join", w1.gossip)
        assert second.stderr is not None
        with trio.fail_after(LIVENESS_LIMIT):
            said = b"".join([data async for data in second.stderr]).decode()
            assert await second.wait() == 6
        last = [line for line in said.splitlines() if not line.startswith("{")]
        assert last[0].startswith("rumormill: the name 'w2' is taken by a live member")
        assert w2.gossip in last[0]
        assert last[1].startswith("  hint: ")
        assert len(last) == 2
        await w1.until(all_routable("w1", "w2"))


async def test_the_first_check_passes_before_callers_come_and_three_misses_end_that() -> None:
    async with pool(2, "--worker-check-period", "50ms", "--worker-check", "/deep/health?x=1") as ([w1, w2], worker):
        assert set(worker.paths) == {"/deep/health?x=1"}
        worker.status = 503
        await w1.until(has("w2", readiness="critical", liveness="alive"))
        assert "answered 503" in (await w2.ask("/readyz"))["why"]
        worker.status = 204
        await w1.until(all_routable("w1", "w2"))


async def test_a_worker_that_is_not_there_yet_is_starting_and_says_why() -> None:
    async with trio.open_nursery() as nursery:
        port = reserved_port()
        w1 = await Agent.start(nursery, "w1", f"http://127.0.0.1:{port}")
        await w1.until(has("w1", readiness="starting"))
        why = f"nothing listens on 127.0.0.1:{port}"
        assert (await w1.logged("check"))["why"] == why
        assert (await w1.ask("/readyz"))["why"] == f"the worker is starting: {why}"
        w1.process.kill()


async def test_a_wrong_health_path_is_said_from_the_first_check_and_once() -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        worker.status = 404
        w1 = await Agent.start(nursery, "w1", worker, "--worker-check-period", "50ms")
        why = "GET /health answered 404; set --worker-check to a path that answers 2xx"
        assert (await w1.logged("check"))["why"] == why
        full = f"the worker is starting: {why}"
        assert (await w1.ask("/readyz"))["why"] == full
        assert (await w1.ask("/v1/status"))["unready"] == full
        assert [member["why"] for member in (await w1.ask("/v1/members"))["members"]] == [full]
        with trio.fail_after(LIVENESS_LIMIT):
            while worker.asked < 10:
                await trio.sleep(0.01)
        assert len([line for line in w1.lines if line["event"] == "check"]) == 1
        worker.status = 200
        await w1.until(has("w1", readiness="passing"))
        assert [member["why"] for member in (await w1.ask("/v1/members"))["members"]] != [full]
        nursery.cancel_scope.cancel()


async def test_the_death_of_the_workers_process_is_told_at_once() -> None:
    async with trio.open_nursery() as nursery, pool(1, "--worker-check-period", "1000s") as ([w1], worker):
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        flags = ("--worker-pid", str(process.pid), "--worker-check-period", "1000s")
        w2 = await Agent.start(nursery, "w2", worker, "--join", w1.gossip, *flags)
        await w1.until(all_routable("w1", "w2"))
        worker.status = 503  # whoever listens there now has not come so far
        process.kill()
        await w2.logged("worker", readiness="critical", why="its process has ended")
        await w1.until(has("w2", readiness="starting", liveness="alive"))
        process.communicate()
        w2.process.kill()


async def test_a_seed_that_is_not_there_yet_is_joined_when_it_comes() -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        seed = f"127.0.0.1:{reserved_port()}"
        w1 = await Agent.start(nursery, "w1", worker, "--join", seed, "--join", "no.such.host.invalid:7946")
        await w1.until(all_routable("w1"))
        assert (await w1.logged("join", seed="no.such.host.invalid:7946"))["level"] == "warning"
        w2 = await Agent.start(nursery, "w2", worker, "--gossip", seed)
        for agent in (w1, w2):
            await agent.until(all_routable("w1", "w2"))
        nursery.cancel_scope.cancel()


async def test_a_snapshot_finds_the_pool_again_without_a_seed(tmp_path: Path) -> None:
    snapshot = ("--snapshot", str(tmp_path / "w2.json"))
    async with trio.open_nursery() as nursery, pool(1) as ([w1], worker):
        w2 = await Agent.start(nursery, "w2", worker, "--join", w1.gossip, *snapshot)
        await w2.until(all_routable("w1", "w2"))
        w2.signal(signal.SIGTERM)
        assert await w2.ended() == 0
        saved = json.loads((tmp_path / "w2.json").read_text())
        assert w1.gossip == "{}:{}".format(*saved["addresses"][0])
        again = await Agent.start(nursery, "w2", worker, *snapshot)
        await again.until(all_routable("w1", "w2"))
        assert (await again.ask("/v1/status"))["generation"] > saved["generation"]
        again.process.kill()


async def test_a_damaged_snapshot_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "w1.json").write_bytes(b"\x00\xff not json")
    async with pool(1, "--snapshot", str(tmp_path / "w1.json")) as ([w1], _):
        assert "is damaged" in (await w1.logged("snapshot"))["trouble"]


async def test_garbage_on_the_socket_is_counted_and_nothing_more() -> None:
    async with pool(2) as ([w1, w2], _):
        host, port = w1.gossip.split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for length in (0, 1, 33, 34, 60, 1400, 2000, 9000):
                sender.sendto(os.urandom(length), (host, int(port)))
        await w1.ask("/v1/drain", "PUT")
        await w2.until(has("w1", readiness="draining"))
        counters = (await w1.ask("/v1/status"))["counters"]
        assert sum(count for name, count in counters.items() if name.startswith("dropped_")) >= 8


@pytest.mark.parametrize(("flag", "kind"), [("--gossip", socket.SOCK_DGRAM), ("--http", socket.SOCK_STREAM)])
async def test_an_address_in_use_is_one_line_and_a_hint(flag: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await run_agent("w1", "http://127.0.0.1:1", flag, address)
        assert process.stderr is not None
        with trio.fail_after(LIVENESS_LIMIT):
            said = b"".join([data async for data in process.stderr]).decode()
            assert await process.wait() == 5
    lines = [line for line in said.splitlines() if not line.startswith("{")]
    assert lines[0] == f"rumormill: cannot listen on {flag} {address}: address already in use"
    assert lines[1].startswith("  hint: ss -")
    assert len(lines) == 2
