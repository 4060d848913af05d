"""What is to be undone stands on disk before it is done, and is found there after a kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from limits import LIVENESS_LIMIT

from rumormill.cli.chaos.command_faults import CommandFaults, FaultFailed
from rumormill.cli.chaos.journal import Journal, RemoveFile, RunCommand, UndoFailed
from rumormill.cli.chaos.schedule import FaultCommand, FaultSpec
from rumormill.cli.exit_codes import BadRequest

CHAOS = [sys.executable, "-c", "from rumormill.cli.main import main; main()", "chaos"]
KILLED_INSIDE = """
import os, signal, sys, trio
from pathlib import Path
from rumormill.cli.chaos.journal import Journal, RemoveFile

async def main():
    with Journal(Path(sys.argv[1])) as journal:
        async with journal.undone_after(RemoveFile(sys.argv[2])):
            Path(sys.argv[2]).write_bytes(b"x" * 1000)
            os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


def undo(journal: Path) -> subprocess.CompletedProcess[str]:
    argv = [*CHAOS, "undo", "--journal", str(journal)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=LIVENESS_LIMIT, check=False)


async def test_a_step_is_undone_at_the_end_of_its_block_and_nothing_is_left(tmp_path: Path) -> None:
    filler = tmp_path / "filler"
    with Journal(tmp_path / "journal") as journal:
        async with journal.undone_after(RemoveFile(str(filler))):
            filler.write_text("full")
            assert (tmp_path / "journal").read_bytes()
        assert not filler.exists()
        assert (tmp_path / "journal").read_bytes() == b""


async def test_a_step_is_undone_when_the_run_is_cancelled(tmp_path: Path) -> None:
    filler = tmp_path / "filler"
    with Journal(tmp_path / "journal") as journal, trio.CancelScope() as scope:
        async with journal.undone_after(RemoveFile(str(filler))):
            filler.write_text("full")
            scope.cancel()
            await trio.sleep_forever()
    assert not filler.exists()


def test_what_a_killed_run_has_left_is_undone_by_the_verb(tmp_path: Path) -> None:
    journal, filler = tmp_path / "journal", tmp_path / "filler"
    killed = subprocess.run([sys.executable, "-c", KILLED_INSIDE, journal, filler], timeout=LIVENESS_LIMIT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert filler.exists()
    done = undo(journal)
    assert done.returncode == 0, done.stderr
    assert f"deleted {filler}" in done.stdout
    assert not filler.exists()
    assert undo(journal).stdout == "Nothing is left to undo.\n"


async def test_a_torn_line_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"number":1,"undo":{"type":"remove-file","path":"/nowhere/a"}}\n{"number":2,"un')
    with Journal(path) as journal:
        assert journal.undo_leftovers() == [RemoveFile("/nowhere/a")]
    with Journal(path) as journal:
        assert journal.undo_leftovers() == []


def test_one_run_at_a_time_holds_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal"), pytest.raises(BadRequest, match="another run holds"):
        Journal(tmp_path / "journal")


async def test_what_cannot_be_undone_stays_and_says_what_to_do(tmp_path: Path) -> None:
    path, broken = tmp_path / "journal", RunCommand(("false",))
    with Journal(path) as journal, pytest.raises(UndoFailed, match="cannot undo: false: exit code 1"):
        async with journal.undone_after(broken):
            pass
    with Journal(path) as journal, pytest.raises(UndoFailed):
        journal.undo_leftovers()


async def test_commands_get_name_and_host_as_single_words_and_no_shell(tmp_path: Path) -> None:
    """A name comes from a network: whatever is in it, nothing but its own word is touched."""
    name = f"w1; touch {tmp_path}/harmed"
    command = FaultCommand(f"touch '{tmp_path}/{{host}}'", "true {name}")
    with Journal(tmp_path / "journal") as journal:
        faults = CommandFaults({name: "http://10.0.0.7:9000"}, {"kill": command}, journal)
        faults.prepare([FaultSpec(kind="kill")])
        async with faults.inject(FaultSpec(kind="kill"), name):
            assert (tmp_path / "10.0.0.7").exists()
    assert not (tmp_path / "harmed").exists()


async def test_a_command_that_fails_is_undone_and_said(tmp_path: Path) -> None:
    command = FaultCommand("false", f"touch {tmp_path}/undone")
    with Journal(tmp_path / "journal") as journal:
        faults = CommandFaults({"w1": "http://10.0.0.7:9000"}, {"kill": command}, journal)
        with pytest.raises(FaultFailed, match="false: exit code 1"):
            async with faults.inject(FaultSpec(kind="kill"), "w1"):
                pass
        with pytest.raises(BadRequest, match=r"no \[commands.freeze\]"):
            faults.prepare([FaultSpec(kind="freeze")])
    assert (tmp_path / "undone").exists()
