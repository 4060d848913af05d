"""Runs many simulations in parallel and saves each outcome at once. A sweep that was stopped can be continued."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from io import FileIO
from multiprocessing import connection
from pathlib import Path

import msgspec

from rumormill.cli.exit_codes import BadRequest
from rumormill.simulations.outcome import RunOutcome
from rumormill.simulations.plans import Job, JobOutcome

_decode = msgspec.json.Decoder(JobOutcome).decode
_encode = msgspec.json.encode
_LINE_START = b'{"job":{"scenario":"'


class OutcomeFile:
    """A file with one outcome per line. A line that a crash has truncated is dropped, and its run is repeated."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[JobOutcome]:
        """The latest outcome of each job. Raises :class:`BadRequest`."""
        return self._read()[0]

    @contextmanager
    def open_for_append(self) -> Iterator[tuple[list[JobOutcome], Callable[[JobOutcome], None]]]:
        """The known outcomes, and a function that appends one as a whole line. The file is locked meanwhile.

        A truncated last line is removed first; nothing else in the file is ever changed. Raises :class:`BadRequest`,
        and so does the function.
        """
        with self._open_locked() as file:
            known, valid_bytes = self._read()
            file.truncate(valid_bytes)
            yield known, lambda done: self._append(file, done)

    def _open_locked(self) -> FileIO:
        """The open file. It stays locked until it is closed, even if this process is killed."""
        try:
            file = FileIO(self._path, "ab")
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise BadRequest(
                f"another sweep is writing to {self._path}", "wait for its end, or choose another --out"
            ) from None
        return file

    def _append(self, file: FileIO, done: JobOutcome) -> None:
        line = _encode(done) + b"\n"
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> BadRequest:
        return BadRequest(f"cannot write {self._path}: {error.strerror}", "choose another --out")

    def _read(self) -> tuple[list[JobOutcome], int]:
        """The outcomes, and the number of bytes that their complete lines take in the file."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise BadRequest(f"cannot read {self._path}: {error.strerror}", "give another file") from None
        found: dict[str, JobOutcome] = {}
        valid_bytes = 0
        for number, line in enumerate(lines, 1):
            try:
                done = _decode(line) if line.strip() else None
                if not line.endswith(b"\n"):
                    raise msgspec.DecodeError("the line is truncated")
            except msgspec.DecodeError as error:
                if number == len(lines) and _is_truncated(line):
                    break
                raise BadRequest(
                    f"{self._path}, line {number}, is not an outcome: {error}",
                    "delete that line, and its run is repeated; or give a file that `simulate sweep` wrote",
                ) from None
            valid_bytes += len(line)
            if done is not None:
                found[done.job.key] = done
        return list(found.values()), valid_bytes


def _is_truncated(line: bytes) -> bool:
    """Whether the line may be the rest of an outcome after a crash. Otherwise the file may be the wrong one."""
    return line.startswith(_LINE_START[: len(line)]) or not line.strip(b"\0\n")


def play_all(jobs: Iterable[Job], workers: int, on_done: Callable[[JobOutcome], None]) -> None:
    """Run the jobs in ``workers`` processes, the most expensive first. ``on_done`` gets each as it finishes.

    When this call or this process ends, for whatever reason, the worker processes end at once. Raises RuntimeError if a
    worker process dies.
    """
    waiting = iter(sorted(jobs, key=lambda job: -job.cost))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_exit_with_parent) as executor:
        running: dict[Future[RunOutcome], Job] = {}
        try:
            _refill(executor, running, waiting, workers)
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    on_done(JobOutcome(running.pop(future), future.result()))
                _refill(executor, running, waiting, workers)
        except BrokenProcessPool:
            raise RuntimeError(
                "a worker process died, perhaps for lack of memory; run it again with fewer --jobs"
            ) from None
        finally:
            for worker in multiprocessing.active_children():
                worker.terminate()


def _refill(
    executor: ProcessPoolExecutor, running: dict[Future[RunOutcome], Job], waiting: Iterator[Job], workers: int
) -> None:
    with _holding_interrupts():
        while len(running) < workers and (job := next(waiting, None)) is not None:
            running[executor.submit(_play, job)] = job


@contextmanager
def _holding_interrupts() -> Iterator[None]:
    """Worker processes started in here are deaf to Ctrl-C, which a terminal sends to all processes: they inherit the
    mask. The parent ends them, without a traceback. A Ctrl-C that comes meanwhile reaches the parent afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _play(job: Job) -> RunOutcome:
    return job.run()


def _exit_with_parent() -> None:
    """In a worker process: run at low priority, and exit when the parent has ended for whatever reason."""
    os.nice(10)
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101  for the type checker
    threading.Thread(target=_exit_when_closed, args=(parent.sentinel,), daemon=True).start()


def _exit_when_closed(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
