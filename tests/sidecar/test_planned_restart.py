"""An announced restart ends once the worker was down and is up again, or when it was called off. In virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from rumormill.sidecar.planned_restart import LIMIT, PlannedRestart


@dataclass
class Drained:
    """A worker, and when its drains ended."""

    up: bool = True
    ended: list[float] = field(default_factory=list)


@asynccontextmanager
async def announced() -> AsyncIterator[tuple[PlannedRestart, Drained]]:
    worker = Drained()
    restart = PlannedRestart(lambda: worker.up, lambda: worker.ended.append(trio.current_time()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart.run)
        restart.announce()
        yield restart, worker
        nursery.cancel_scope.cancel()


async def test_it_ends_when_the_worker_is_up_again_however_long_it_loads(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with announced() as (restart, worker):
        await trio.sleep(5.0)
        worker.up = False
        await trio.sleep(10 * LIMIT)
        assert restart.pending
        worker.up = True
        await trio.sleep(1.0)
        assert not restart.pending
        assert len(worker.ended) == 1


async def test_a_restart_that_does_not_come_was_called_off(autojump_clock: trio.testing.MockClock) -> None:
    async with announced() as (restart, worker):
        await trio.sleep(LIMIT - 1.0)
        assert restart.pending
        await trio.sleep(2.0)
        assert not restart.pending
        assert len(worker.ended) == 1


async def test_one_that_was_cancelled_ends_no_drain(autojump_clock: trio.testing.MockClock) -> None:
    async with announced() as (restart, worker):
        await trio.sleep(1.0)
        restart.cancel()
        worker.up = False
        await trio.sleep(1.0)
        worker.up = True
        await trio.sleep(2 * LIMIT)
        assert worker.ended == []


async def test_the_next_one_is_followed_too(autojump_clock: trio.testing.MockClock) -> None:
    async with announced() as (restart, worker):
        for round_number in range(1, 4):
            restart.announce()
            worker.up = False
            await trio.sleep(1.0)
            worker.up = True
            await trio.sleep(1.0)
            assert len(worker.ended) == round_number
