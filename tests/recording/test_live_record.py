"""A record that is also kept in a file holds the same as the recorder, and outlives the process."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from recorded_pools import play, recorded, recorded_pool

from rumormill.recording.reader import read_record_untrusted
from rumormill.recording.recorder import FlightRecorder
from rumormill.sidecar.live_record import LiveRecord
from rumormill.simulations import World


async def write_each_second(world: World, live: LiveRecord, seconds: int) -> None:
    for _ in range(seconds):
        world.run(1.0)
        assert await live._write_news()


async def test_the_file_has_what_the_recorder_has_over_several_segments(tmp_path: Path) -> None:
    world = recorded_pool(3, seed=31)
    recorder = recorded(world, "n1").recorder
    live = LiveRecord(tmp_path / "n1.live.rumor", recorder, pytest.fail)
    await write_each_second(world, live, 130)
    assert len(recorder.segments) == 2
    assert live.path.read_bytes() == recorder.dump()


async def test_a_file_that_grew_is_written_anew_from_what_the_recorder_still_has(tmp_path: Path) -> None:
    world = recorded_pool(3, seed=32)
    recorder = recorded(world, "n1").recorder
    recorder.limit = 100_000
    live = LiveRecord(tmp_path / "n1.live.rumor", recorder, pytest.fail)
    await write_each_second(world, live, 100)
    data = live.path.read_bytes()
    assert len(data) < 3 * recorder.limit
    assert data.endswith(recorder.segments[-1].to_bytes())
    assert [outcome.difference for outcome in play(read_record_untrusted(io.BytesIO(data))) if outcome.difference] == []


async def test_a_write_that_failed_is_said_and_made_good(tmp_path: Path) -> None:
    world = recorded_pool(3, seed=33)
    said: list[str] = []
    recorder: FlightRecorder = recorded(world, "n1").recorder
    live = LiveRecord(tmp_path / "later" / "n1.live.rumor", recorder, said.append)
    assert not await live._write_news()
    assert "No such file or directory" in said[0]
    live.path.parent.mkdir()
    await write_each_second(world, live, 2)
    live.path.unlink()
    world.run(1.0)
    assert not await live._write_news()
    await write_each_second(world, live, 2)
    assert live.path.read_bytes() == recorder.dump()
    assert len(said) == 2
