"""Verbs that take a member's name: a weight for the time being, a planned restart. And why a worker takes no work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from agents import Agent, Worker, all_routable, has, rumormill
from limits import LIVENESS_LIMIT

OFTEN = ("--worker-check-period", "50ms")


@asynccontextmanager
async def two_workers(*flags: str) -> AsyncIterator[tuple[list[Agent], list[Worker]]]:
    """Two sidecars, each with a worker of its own."""
    async with trio.open_nursery() as nursery:
        workers = [await Worker.start(nursery) for _ in range(2)]
        w1 = await Agent.start(nursery, "w1", workers[0], *OFTEN)
        w2 = await Agent.start(nursery, "w2", workers[1], *OFTEN, "--join", w1.gossip, *flags)
        await w1.until(all_routable("w1", "w2"))
        yield [w1, w2], workers
        nursery.cancel_scope.cancel()


async def unready(observer: Agent, name: str) -> str:
    """Why a member takes no new work, as another sidecar says."""
    [row] = [row for row in (await observer.ask("/v1/members"))["members"] if row["name"] == name]
    return str(row["unready"])


async def test_any_sidecar_says_why_a_worker_takes_no_new_work() -> None:
    async with two_workers() as ([w1, w2], [_, worker]):
        assert await unready(w1, "w2") == ""
        worker.status = 404
        await w1.until(has("w2", readiness="critical"))
        assert "404" in await unready(w1, "w2")
        assert "404" in (await rumormill("members", "--http", w1.http)).stdout
        worker.status = 200
        await w1.until(all_routable("w1", "w2"))
        assert await unready(w1, "w2") == ""
        assert (await rumormill("drain", "w2", "--http", w1.http)).returncode == 0
        await w1.until(has("w2", readiness="draining"))
        assert await unready(w1, "w2") == await unready(w2, "w2") == "the worker is draining"
        assert (await rumormill("undrain", "w2", "--http", w1.http)).returncode == 0
        await w1.until(all_routable("w1", "w2"))


async def test_a_verb_takes_a_members_name() -> None:
    async with two_workers() as ([w1, w2], _):
        shown = await rumormill("status", "w2", "--http", w1.http)
        assert shown.stdout.split()[:2] == ["name", "w2"]
        unknown = await rumormill("status", "w22", "--http", w1.http)
        assert unknown.returncode == 2
        assert "there is no member 'w22' in the pool" in unknown.stderr
        assert "did you mean 'w2'?" in unknown.stderr
        assert (await rumormill("leave", "w2", "--http", w1.http)).returncode == 0
        assert await w2.ended() == 0


async def test_the_sidecar_of_a_unix_socket_is_not_reached_by_name(tmp_path: Path) -> None:
    async with two_workers("--http", f"unix:{tmp_path}/w2.sock") as ([w1, _], _):
        refused = await rumormill("drain", "w2", "--http", w1.http)
        assert refused.returncode != 0
        assert "cannot be reached from other machines" in refused.stderr


async def test_a_weight_holds_until_the_settings_are_read_again() -> None:
    async with two_workers() as ([w1, w2], _):
        done = await rumormill("weight", "0.5", "w2", "--http", w1.http)
        assert "The weight is 0.5" in done.stdout
        await w1.until(has("w2", weight=0.5))
        assert (await w2.ask("/v1/status"))["settings"]["weight"] == 0.5
        assert (await rumormill("weight", "0", "--http", w2.http)).returncode == 0
        await w1.until(has("w2", weight=0.0, routable=False))
        assert await unready(w1, "w2") == "its weight is 0"
        assert (await rumormill("reload", "w2", "--http", w1.http)).returncode == 0
        await w1.until(has("w2", weight=1.0, routable=True))
        assert (await rumormill("weight", "0.0001", "--http", w2.http)).returncode != 0


async def test_a_worker_that_is_restarted_again_and_again_as_announced_is_on_no_probation() -> None:
    async with two_workers("--probation", "300s") as ([w1, w2], [_, worker]):
        for _ in range(4):
            assert (await rumormill("drain", "--restart", "w2", "--http", w1.http)).returncode == 0
            await w1.until(has("w2", readiness="draining"))
            assert await unready(w1, "w2") == "the worker is about to be restarted"
            asked, worker.status = worker.asked, 500
            with trio.fail_after(LIVENESS_LIMIT):
                while worker.asked < asked + 8:  # down for several checks, and several looks at them
                    await trio.sleep(0.05)
            assert (await w2.ask("/v1/status"))["draining"]
            worker.status = 200
            await w1.until(all_routable("w1", "w2"))
        assert not [e for e in (await w2.ask("/v1/events"))["events"] if e["kind"] == "probation"]


async def test_a_plain_drain_does_not_end_with_a_restart() -> None:
    async with two_workers() as ([w1, w2], [_, worker]):
        assert (await rumormill("drain", "--restart", "--http", w2.http)).returncode == 0
        assert (await rumormill("drain", "--http", w2.http)).returncode == 0
        worker.status = 500
        await trio.sleep(0.3)
        worker.status = 200
        await trio.sleep(0.5)
        assert (await w2.ask("/v1/status"))["draining"]
        assert await unready(w1, "w2") == "the worker is draining"
