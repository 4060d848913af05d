"""Plays many runs on the machine's cores, keeps each outcome as it comes, and takes up again where it was stopped."""

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
from rumormill.simulations.plans import Done, Job

_decode = msgspec.json.Decoder(Done).decode
_encode = msgspec.json.encode
_BEGINNING = b'{"job":{"scenario":"'


class OutcomeFile:
    """One outcome a line. A line that was cut short by a crash is dropped and its run done again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Done]:
        """What is there, the latest outcome of each job. Raises :class:`BadRequest`."""
        return self._read()[0]

    @contextmanager
    def writing(self) -> Iterator[tuple[list[Done], Callable[[Done], None]]]:
        """What is there, and what appends to it: whole lines, each at once. Nobody else may write meanwhile.

        A last line that was cut short is taken off first; nothing else in the file is ever touched. Both raise
        :class:`BadRequest`.
        """
        with self._opened() as file:
            known, sound = self._read()
            file.truncate(sound)
            yield known, lambda done: self._append(file, done)

    def _opened(self) -> FileIO:
        """The file, locked until it is closed, however this process ends."""
        try:
            file = FileIO(self._path, "ab")
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise BadRequest(
                f"another sweep is writing to {self._path}", "wait for its end, or name another --out"
            ) from None
        return file

    def _append(self, file: FileIO, done: Done) -> None:
        line = _encode(done) + b"\n"
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> BadRequest:
        return BadRequest(f"cannot write {self._path}: {error.strerror}", "name another --out")

    def _read(self) -> tuple[list[Done], int]:
        """The outcomes, and how many bytes of the file are whole lines of them."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise BadRequest(f"cannot read {self._path}: {error.strerror}", "name another file") from None
        found: dict[str, Done] = {}
        sound = 0
        for number, line in enumerate(lines, 1):
            try:
                done = _decode(line) if line.strip() else None
                if not line.endswith(b"\n"):
                    raise msgspec.DecodeError("it was cut short")
            except msgspec.DecodeError as error:
                if number == len(lines) and _is_torn(line):
                    break
                raise BadRequest(
                    f"{self._path}, line {number}, is no outcome: {error}",
                    "delete that line and its run is played again; or give a file that `simulate sweep` wrote",
                ) from None
            sound += len(line)
            if done is not None:
                found[done.job.key] = done
        return list(found.values()), sound


def _is_torn(line: bytes) -> bool:
    """Whether it may be what a crash left of an outcome, and not somebody else's file that was named by mistake."""
    return line.startswith(_BEGINNING[: len(line)]) or not line.strip(b"\0\n")


def play_all(jobs: Iterable[Job], workers: int, on_done: Callable[[Done], None]) -> None:
    """Run jobs in so many processes, the costliest first, and hand over each as it is done.

    Whatever ends this process, or this call, ends the workers at once; what was handed over stays. Raises RuntimeError
    if a worker dies.
    """
    waiting = iter(sorted(jobs, key=lambda job: -job.cost))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent) as executor:
        running: dict[Future[RunOutcome], Job] = {}
        try:
            _refill(executor, running, waiting, workers)
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    on_done(Done(running.pop(future), future.result()))
                _refill(executor, running, waiting, workers)
        except BrokenProcessPool:
            raise RuntimeError("a worker process died (out of memory?); run again with fewer --jobs") from None
        finally:
            for worker in multiprocessing.active_children():
                worker.terminate()


def _refill(
    executor: ProcessPoolExecutor, running: dict[Future[RunOutcome], Job], waiting: Iterator[Job], workers: int
) -> None:
    with _deaf_to_interrupts():
        while len(running) < workers and (job := next(waiting, None)) is not None:
            running[executor.submit(_play, job)] = job


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A worker born in here ignores Ctrl-C, which a terminal sends to all: its parent ends it, without a traceback."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _play(job: Job) -> RunOutcome:
    return job.run()


def _follow_parent() -> None:
    """In a worker: give way to everything else on the machine, and end with whoever started it, however that ended."""
    os.nice(10)
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101  for the type checker
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
