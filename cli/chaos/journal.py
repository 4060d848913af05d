"""What must be undone, on disk before it is done: lines of JSON, each synced.

The lock on the file is that of the running process. Whoever gets it finds what a killed run has left, and undoes that
first. Each step can be undone twice without harm.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType

import msgspec
import trio

from rumormill.cli.exit_codes import BadRequest, CliError

COMMAND_SECONDS = 120.0
"""Seconds after which a command that causes or undoes a fault is killed."""


class UndoFailed(CliError):
    """`chaos` could not undo something. It stays in the journal."""


class RemoveRules(msgspec.Struct, frozen=True, tag="remove-rules"):
    """Delete a table of nft."""

    table: str


class RemoveFile(msgspec.Struct, frozen=True, tag="remove-file"):
    """Delete a file that fills a disk."""

    path: str


class RunCommand(msgspec.Struct, frozen=True, tag="run-command"):
    """Run the user's own command."""

    argv: tuple[str, ...]


UndoStep = RemoveRules | RemoveFile | RunCommand


class JournalLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step that may have been begun, or the number of one that is undone."""

    number: int
    undo: UndoStep | None = None


def undo(step: UndoStep) -> None:
    """Raises :class:`UndoFailed`. Blocks."""
    match step:
        case RemoveFile(path):
            with suppress(FileNotFoundError):
                Path(path).unlink()
        case RemoveRules(table):
            _undo_by(["nft", f"add table inet {table}; delete table inet {table}"])  # adding what exists does nothing
        case RunCommand(argv):
            _undo_by(argv)


def run_command(argv: Sequence[str]) -> str:
    """What went wrong; empty if nothing did. Blocks."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return f"exit code {done.returncode}: {done.stderr.strip()[-500:]}" if done.returncode else ""


def _undo_by(argv: Sequence[str]) -> None:
    if trouble := run_command(argv):
        raise UndoFailed(f"cannot undo: {' '.join(argv)}: {trouble}", "mend that, then run `rumormill chaos undo`")


def default_path() -> Path:
    """The journal of this user."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "rumormill" / "chaos.journal"


class Journal:
    """One run at a time holds it."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`BadRequest` if another run holds it, or if it cannot be written."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BadRequest(
                f"another run holds {path}", "wait for its end, or give this one its own --journal"
            ) from None
        except OSError as error:
            raise BadRequest(f"cannot write {path}: {error.strerror}", "give another file with --journal") from None
        self._pending = self._read()
        if self._pending:
            self._file.write(b"\n")  # ends a line that was torn
        self._numbers = max(self._pending, default=0)

    def _read(self) -> dict[int, UndoStep]:
        """The steps that are not undone. A torn last line was never acted on: a line is synced before its fault."""
        self._file.seek(0)
        pending: dict[int, UndoStep] = {}
        for text in self._file.read().splitlines():
            with suppress(msgspec.DecodeError):
                line = msgspec.json.decode(text, type=JournalLine)
                if line.undo is not None:
                    pending[line.number] = line.undo
                else:
                    pending.pop(line.number, None)
        return pending

    def _append(self, line: JournalLine) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def undo_leftovers(self) -> list[UndoStep]:
        """Undo what a killed run has left, the latest first. Raises :class:`UndoFailed` for the first that fails."""
        undone = []
        for number in sorted(self._pending, reverse=True):
            undo(self._pending[number])
            undone.append(self._pending[number])
            self._mark_undone(number)
        return undone

    @asynccontextmanager
    async def undone_after(self, step: UndoStep) -> AsyncIterator[None]:
        """Note a step, let the block do it, and undo it at the block's end, however that comes."""
        self._numbers += 1
        number = self._numbers
        self._pending[number] = step
        self._append(JournalLine(number, step))
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(undo, step)
            self._mark_undone(number)

    def _mark_undone(self, number: int) -> None:
        self._append(JournalLine(number))
        self._pending.pop(number, None)
        if not self._pending:
            self._file.truncate(0)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def describe(step: UndoStep) -> str:
    """For people."""
    match step:
        case RemoveRules(table):
            return f"removed the network rules {table}"
        case RemoveFile(path):
            return f"deleted {path}"
        case RunCommand(argv):
            return f"ran {' '.join(argv)}"
