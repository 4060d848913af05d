"""Conversations that any worker can go on with."""

from __future__ import annotations

import pytest
import trio

from rumormill.worker import InThreads, MemoryStore, Sessions, SyncMemoryStore, SyncSessions, TurnTooLongError


async def test_the_last_ten_turns_are_there_for_another_worker(autojump_clock) -> None:
    store = MemoryStore()
    for n in range(25):
        await Sessions(store).append("ada", {"user": f"question {n}", "assistant": ["answer", n]})
    assert [turn["assistant"][1] for turn in await Sessions(store).turns("ada")] == list(range(15, 25))
    assert await Sessions(store).turns("bob") == []


async def test_a_repeated_turn_is_one_turn(autojump_clock) -> None:
    sessions = Sessions(MemoryStore(), keep=3)
    await sessions.append("ada", "one", turn_id="request-1")
    await sessions.append("ada", "two", turn_id="request-2")
    await sessions.append("ada", "one, after a death", turn_id="request-1")
    assert await sessions.turns("ada") == ["one, after a death", "two"]


async def test_a_turn_that_is_taken_over_finds_the_ten_before_it_and_not_itself(autojump_clock) -> None:
    """Its first worker added the turn, and died before it answered."""
    sessions = Sessions(MemoryStore())
    for n in range(15):
        await sessions.append("ada", n, turn_id=f"request-{n}")
    assert await sessions.turns("ada", before="request-14") == list(range(4, 14))
    assert await sessions.turns("ada", before="request-15") == list(range(5, 15))


async def test_a_silent_session_is_forgotten_and_each_turn_keeps_it(autojump_clock) -> None:
    sessions = Sessions(MemoryStore(), ttl=60.0)
    await sessions.append("ada", "one")
    await trio.sleep(50)
    await sessions.append("ada", "two")
    await trio.sleep(50)
    assert await sessions.turns("ada") == ["one", "two"]
    await trio.sleep(11)
    assert await sessions.turns("ada") == []


async def test_a_turn_has_a_limit(autojump_clock) -> None:
    sessions = Sessions(MemoryStore(), max_turn=100)
    with pytest.raises(TurnTooLongError, match="may have 100; shorten it"):
        await sessions.append("ada", "x" * 101)


def test_threads_share_sessions_with_tasks() -> None:
    store = SyncMemoryStore()
    SyncSessions(store).append("ada", "from a thread", turn_id=b"1")

    async def from_a_task() -> list[str]:
        sessions = Sessions(InThreads(store))
        await sessions.append("ada", "from a task")
        return await sessions.turns("ada")

    assert trio.run(from_a_task) == ["from a thread", "from a task"] == SyncSessions(store).turns("ada")


def test_sessions_that_keep_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="keep nothing"):
        SyncSessions(SyncMemoryStore(), keep=0)
