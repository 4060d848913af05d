"""The one timer of a pool: what is due is called, in order, and the usual request costs it nothing later."""

from __future__ import annotations

import random

import trio
from limits import LIVENESS_LIMIT

from rumormill.client.runtime.shared_lock import shared_lock
from rumormill.client.runtime.timers import MAX_EMPTY, Timers


class Waiting:
    """Notes when it is called."""

    def __init__(self, called: list[tuple[str, float]], name: str) -> None:
        self.called = called
        self.name = name

    def handle_timer(self) -> None:
        self.called.append((self.name, trio.current_time()))


def new_timers() -> Timers:
    return Timers(trio.current_time, shared_lock(), lambda function: function())


async def test_everything_is_called_when_it_is_due_however_it_was_added(autojump_clock):
    timers, called = new_timers(), []
    rng = random.Random(1)
    due = {f"r{n}": rng.uniform(0.0, 10.0) for n in range(200)}
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        for name, seconds in due.items():
            timers.add(began + seconds, Waiting(called, name))
            if rng.random() < 0.1:
                await trio.sleep(0)
        await trio.sleep(11)
        nursery.cancel_scope.cancel()
    assert [name for name, _ in called] == sorted(due, key=lambda name: due[name])
    assert all(0 <= at - began - due[name] < 0.001 for name, at in called)


async def test_what_was_answered_in_time_is_not_called_and_does_not_pile_up(autojump_clock):
    timers, called = new_timers(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        late = timers.add(trio.current_time() + 3600, Waiting(called, "late"))
        for _ in range(10 * MAX_EMPTY):
            entry = timers.add(trio.current_time() + 1800, Waiting(called, "answered"))
            timers.discard(entry)
            timers.discard(entry)
        assert len(timers) <= MAX_EMPTY + 2
        await trio.sleep(4000)
        timers.discard(late)
        nursery.cancel_scope.cancel()
    assert [name for name, _ in called] == ["late"]
    assert len(timers) == 0


async def test_another_thread_may_add_an_earlier_entry():
    token = trio.lowlevel.current_trio_token()
    called: list[tuple[str, float]] = []
    timers = Timers(trio.current_time, shared_lock(), token.run_sync_soon)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        now = trio.current_time()
        timers.add(now + 10 * LIVENESS_LIMIT, Waiting(called, "never"))
        await trio.sleep(0)
        await trio.to_thread.run_sync(lambda: timers.add(now, Waiting(called, "now")))
        with trio.fail_after(LIVENESS_LIMIT):
            while not called:
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert [name for name, _ in called] == ["now"]
