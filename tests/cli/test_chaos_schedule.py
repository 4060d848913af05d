"""What a schedule of chaos says, and what is refused before anything is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from rumormill.cli.chaos.schedule import Schedule, TimeSpan, kill_schedule, lay_out, read_schedule
from rumormill.cli.exit_codes import BadRequest


def read(folder: Path, text: str) -> Schedule:
    path = folder / "chaos.toml"
    path.write_text(text)
    return read_schedule(path)


def test_the_published_practice_is_twelve_kills_in_an_hour_the_first_after_a_calm_stretch() -> None:
    planned = lay_out(Schedule(fault=kill_schedule(300.0, 60.0)))
    assert [fault.at for fault in planned] == [150.0 + 300.0 * n for n in range(12)]


def test_a_compressed_hour_has_the_same_faults_in_a_minute_and_the_same_promises() -> None:
    hour = Schedule(fault=kill_schedule(300.0, 60.0))
    minute = hour.compressed(60.0)
    assert [fault.at for fault in lay_out(minute)] == [2.5 + 5.0 * n for n in range(12)]
    assert minute.fault[0].lasts == 1.0
    assert minute.objectives == hour.objectives


def test_faults_of_several_kinds_come_in_order(tmp_path: Path) -> None:
    schedule = read(
        tmp_path,
        """
        for = "10m"
        [abort]
        errors = 0.05
        [[fault]]
        kind = "freeze"
        at = ["9m", "1m"]
        target = "w3"
        lasts = "500ms"
        [[fault]]
        kind = "kill"
        every = "5m"
        [commands.kill]
        do = "systemctl kill {name}"
        undo = "systemctl start {name}"
        """,
    )
    assert [(fault.at, fault.spec.kind) for fault in lay_out(schedule)] == [
        *((60.0, "freeze"), (150.0, "kill"), (450.0, "kill"), (540.0, "freeze")),
    ]
    assert schedule.fault[0].lasts == 0.5
    assert schedule.abort.errors == 0.05
    assert schedule.commands["kill"].undo == "systemctl start {name}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("for = '10s'", "no [[fault]]"),
        ("for = 10\n[[fault]]\nkind = 'kill'", "no unit"),
        ("[[fault]]\nkind = 'explode'", "explode"),
        ("[[fault]]\nkind = 'kill'\nevry = '5m'", "evry"),
        ("[[fault]]\nkind = 'lose'\nshare = 1.5", "share"),
        ("[[fault]]\nkind = 'fill'\nat_most = '1 parsec'", "not a size"),
        ("[[fault]", "not TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words.replace("[", r"\[")):
        read(tmp_path, text)


def test_a_fault_that_never_comes_is_refused() -> None:
    with pytest.raises(BadRequest, match="the kill never comes within 100 s"):
        lay_out(Schedule(duration=TimeSpan(100.0), fault=kill_schedule(300.0, 60.0)))
