"""The watch over real sidecars: what it waits for, what it saw, and what it says when it was not seen."""

import signal
import time
from collections.abc import AsyncIterator

import pytest
import trio
from limits import LIVENESS_LIMIT

from rumormill.cli.demo.pool_watch import (
    ConditionNotMet,
    LivenessChange,
    ObservedSuspicion,
    PoolWatch,
    everyone_routable,
    evicted,
    routable,
    unroutable,
)
from rumormill.cli.demo.processes import LocalPool, LocalPoolSettings

"""Seconds; only a pool that never gets there takes so long."""


@pytest.fixture
async def watched() -> AsyncIterator[tuple[LocalPool, PoolWatch]]:
    with LocalPool(LocalPoolSettings(size=3)) as pool:
        watch = PoolWatch({member.name: member.url for member in pool}, pool.settings.service)
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.run)
            pool.start()
            await watch.until(pool.members, everyone_routable(pool.members), "one view", LIVENESS_LIMIT)
            yield pool, watch
            nursery.cancel_scope.cancel()


async def test_a_kill_and_a_restart_are_seen_at_every_sidecar(watched: tuple[LocalPool, PoolWatch]) -> None:
    pool, watch = watched
    old = watch.instance("w2", ["w1"])
    killed = pool["w2"].kill()
    gone = await watch.until(["w1", "w3"], evicted(old), "evicted", LIVENESS_LIMIT)
    assert gone > killed
    assert "w2" not in watch.answers

    # A stream tells the newest state, so a suspicion that was short may not have been seen.
    suspicions = [one for one in watch.suspicions(killed, ["w1", "w3"]) if one.member == "w2"]
    assert {one.ended for one in suspicions} <= {"gone"}

    started = pool["w2"].start()
    back = await watch.until(pool.members, routable("w2", but=old), "back", LIVENESS_LIMIT)
    assert back > started
    assert watch.instance("w2", ["w1"]) != old
    pool.check()


async def test_a_crash_of_the_worker_alone_is_seen(watched: tuple[LocalPool, PoolWatch]) -> None:
    pool, watch = watched
    instance = watch.instance("w3", ["w1"])
    pool["w3"].worker.signal(signal.SIGKILL)
    await watch.until(pool.members, unroutable(instance), "unroutable", LIVENESS_LIMIT)
    assert [w.readiness for w in watch.answers["w1"].workers if w.name == "w3"] == ["critical"]


async def test_what_is_not_seen_is_said_with_what_was(watched: tuple[LocalPool, PoolWatch]) -> None:
    pool, watch = watched
    with pytest.raises(
        ConditionNotMet, match=r"nobody left: not seen within 0.05 s at w1 \(says w1 alive passing, w2 alive"
    ):
        await watch.until(pool.members, lambda answer: not answer.workers, "nobody left", 0.05)
    with pytest.raises(ConditionNotMet, match="no sidecar knows w9"):
        watch.instance("w9", pool.members)


async def test_an_address_where_nobody_answers_is_tried_and_named() -> None:
    watch = PoolWatch({"w1": "http://127.0.0.1:9"}, "embed")
    async with trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        with pytest.raises(ConditionNotMet, match=r"w1 \(not answering\)"):
            await watch.until(["w1"], lambda _: True, "anything", 0.05)
        nursery.cancel_scope.cancel()


def test_suspicions_end_refuted_evicted_or_not_at_all() -> None:
    watch = PoolWatch({}, "embed")
    watch.changes = [
        LivenessChange(1.0, "w1", "w2", "i2", "suspect"),
        LivenessChange(1.1, "w3", "w2", "i2", "suspect"),
        LivenessChange(1.2, "w1", "w2", "i2", "alive"),
        LivenessChange(1.5, "w3", "w2", "i2", "gone"),
        LivenessChange(time.monotonic(), "w1", "w4", "i4", "suspect"),
    ]
    first, second, third = watch.suspicions(0.0, ["w1", "w3"])
    assert first == ObservedSuspicion("w1", "w2", 1.0, pytest.approx(0.2), "alive")
    assert second == ObservedSuspicion("w3", "w2", 1.1, pytest.approx(0.4), "gone")
    assert (third.member, third.ended) == ("w4", "suspect")
    assert third.seconds >= 0.0
    assert watch.suspicions(0.0, ["w1", "w3"], but=["w2"]) == [
        ObservedSuspicion("w1", "w4", third.begun, pytest.approx(third.seconds, abs=60), "suspect")
    ]
