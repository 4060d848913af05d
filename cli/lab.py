"""Plays many runs on the machine's cores, keeps each outcome as it comes, and takes up again where it was stopped."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import msgspec

from rumormill.cli.exit_codes import BadRequest
from rumormill.simulations.outcome import Outcome
from rumormill.simulations.plans import Done, Job

_decode = msgspec.json.Decoder(Done).decode
_encode = msgspec.json.encode


class OutcomeFile:
    """One outcome a line. A line that was cut short by a crash is dropped and its run done again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Done]:
        """What is there, the latest outcome of each job. Raises :class:`BadRequest`."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BadRequest(f"cannot read {self._path}: {error.strerror}", "name another file") from None
        found: dict[str, Done] = {}
        for number, line in enumerate(lines, 1):
            try:
                done = _decode(line)
            except msgspec.DecodeError as error:
                if number == len(lines):
                    break
                raise BadRequest(
                    f"{self._path}, line {number}, is no outcome: {error}", "give a file that `simulate sweep` wrote"
                ) from None
            found[done.job.key] = done
        return list(found.values())

    def append(self, done: Done) -> None:
        """Write one more, whole and at once. Raises :class:`BadRequest`."""
        try:
            with self._path.open("ab") as file:
                file.write(_encode(done) + b"\n")
                file.flush()
        except OSError as error:
            raise BadRequest(f"cannot write {self._path}: {error.strerror}", "name another --out") from None

    def mend(self) -> None:
        """Drop a last line that was cut short, so that what is appended begins on a line of its own."""
        if not self._path.exists():
            return
        kept = self.read()
        text = self._path.read_bytes()
        if text and not text.endswith(b"\n"):
            self._path.write_bytes(b"".join(_encode(done) + b"\n" for done in kept))


def play_all(jobs: Iterable[Job], workers: int, on_done: Callable[[Done], None]) -> None:
    """Run jobs in so many processes, the costliest first, and hand over each as it is done.

    An interrupt ends the workers at once; what was handed over stays. Raises RuntimeError if a worker dies.
    """
    waiting = iter(sorted(jobs, key=lambda job: -job.cost))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_be_nice) as executor:
        running: dict[Future[Outcome], Job] = {}
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
            executor.shutdown(wait=False, cancel_futures=True)


def _refill(
    executor: ProcessPoolExecutor, running: dict[Future[Outcome], Job], waiting: Iterator[Job], workers: int
) -> None:
    while len(running) < workers and (job := next(waiting, None)) is not None:
        running[executor.submit(_play, job)] = job


def _play(job: Job) -> Outcome:
    return job.run()


def _be_nice() -> None:
    """The lab gives way to everything else on the machine."""
    os.nice(10)
