"""A sidecar keeps its record by itself when something is wrong, and few of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from limits import LIVENESS_LIMIT

from rumormill.gossip.dissemination.policy_replication import PolicyReplication
from rumormill.membership.view import Event
from rumormill.recording.file_format import Header
from rumormill.recording.recorder import FlightRecorder
from rumormill.sidecar.incident_records import MAX_FILES, IncidentRecords
from rumormill.simulations import World
from rumormill.simulations.operations import Canary


def kinds(folder: Path) -> list[str]:
    return sorted(path.stem.split("Z-")[1] for path in folder.glob("*Z-*.rumor"))


def recorder() -> FlightRecorder:
    return FlightRecorder(1 << 20, Header.of("w1", "c", 0.0))


async def run_for(seconds: float, records: IncidentRecords) -> None:
    """In virtual time, but for the thread that writes: it goes on where the virtual time ends."""
    with trio.move_on_after(seconds):
        await records.run()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIVENESS_LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


async def test_tables_that_stay_different_are_an_incident(autojump_clock: object, tmp_path: Path) -> None:
    differ_for = 9.0
    records = IncidentRecords(tmp_path, "w1", recorder(), lambda: differ_for, pytest.fail)
    await run_for(30.0, records)
    assert kinds(tmp_path) == []
    differ_for = 10.0
    await run_for(30.0, records)
    wait_for(lambda: kinds(tmp_path) == ["digests-differ"])


async def test_an_isolation_is_written_down_and_only_the_latest_are_kept(
    autojump_clock: object, tmp_path: Path
) -> None:
    for number in range(MAX_FILES + 5):
        (tmp_path / f"w1-20260101T0000{number:02}Z-paused.rumor").write_bytes(b"old")
    other = tmp_path / "w1-b-20260101T000000Z-taken.rumor"
    other.write_bytes(b"of another member")
    records = IncidentRecords(tmp_path, "w1", recorder(), lambda: 0.0, pytest.fail)
    records.note([Event(1.0, "isolated", "w1", "w1 is isolated"), Event(1.0, "joined", "w2", "w2 joined")])
    await run_for(30.0, records)
    wait_for(lambda: kinds(tmp_path).count("isolated") == 1)
    assert other.read_bytes() == b"of another member"
    assert len(kinds(tmp_path)) == MAX_FILES + 1


def test_a_node_tells_for_how_long_tables_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PolicyReplication, "handle_untrusted", lambda *_, **__: None)  # nobody takes a policy over
    world = World(seed=1)
    world.start(3)
    world.run(5.0)
    assert world.node("n1").inspect().digests_differ_for < 1.0
    Canary("n0", "v2", 500).apply(world)
    world.run(12.0)
    assert world.node("n1").inspect().digests_differ_for > 10.0
    world.crash("n0")
    world.run(3.0)
    assert world.node("n1").inspect().digests_differ_for == 0.0, "the dead differ from nobody"
