"""Supervises one worker and its sidecar, by signals alone.

While both run:

- The worker ends: it is started again after a delay if ``--restart`` says so. Otherwise the sidecar leaves the pool and
  the supervisor ends with the worker's exit code, or the sidecar stays (``--keep-sidecar``).
- The sidecar crashes: it is started again after a delay; the worker goes on. If it has left the pool (``rumormill
  leave``), or cannot start, the worker is stopped too.
- SIGTERM or SIGINT: the sidecar drains and leaves the pool. Then the worker gets the same signal, and ``--stop-time``
  to end; then it is killed. A second SIGTERM or SIGINT kills everything at once.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from typing import Final

from rumormill.cli.supervisor import launch, pid_file
from rumormill.cli.supervisor.child import Child, ended_child, kill_descendants, reap
from rumormill.cli.supervisor.orphan_reaper import OrphanReaper
from rumormill.cli.supervisor.restart import Backoff, RestartMode, wanted
from rumormill.sidecar.errors import BindError, NameTaken, SettingsError
from rumormill.sidecar.log import Log, monotonic

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
TO_SIDECAR: Final = frozenset({signal.SIGHUP})
"""It reloads its settings. The worker does not get this signal: a closed terminal must not end it without a drain."""
TO_WORKER: Final = frozenset({signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH})
HANDLED: Final = STOP_SIGNALS | TO_SIDECAR | TO_WORKER | {signal.SIGCHLD}
MAX_WAIT: Final = 3600.0
"""Seconds without anything due."""
SIDECAR_FAILURES: Final = frozenset({SettingsError.exit_code, BindError.exit_code, NameTaken.exit_code})
"""Exit codes of a sidecar that would fail again: the supervisor ends with the same code."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to run, and when to run it again."""

    sidecar: tuple[str, ...]
    worker: tuple[str, ...]
    restart: RestartMode = "never"
    keep_sidecar: bool = False
    stop_time: float = 30.0
    """Seconds that the worker gets between its signal and SIGKILL."""


class _Slot:
    """One of the two processes, and when it is to be started again."""

    def __init__(self, rng: random.Random) -> None:
        self.child: Child | None = None
        self.start_at: float | None = 0.0
        """On CLOCK_MONOTONIC; None if it is not to be started."""
        self.backoff = Backoff(rng)


class WorkerSupervisor:
    """Runs until both processes have ended for good."""

    def __init__(self, plan: RunPlan, reaper: OrphanReaper, log: Log, rng: random.Random) -> None:
        self._plan = plan
        self._reaper = reaper
        self._log = log
        self._worker, self._sidecar = _Slot(rng), _Slot(rng)
        self._pid_file = pid_file.MemoryPidFile()
        self._worker_stdin = os.open(os.devnull, os.O_RDONLY) if _is_terminal(0) else 0
        self._stop_signal: int | None = None
        """Set once everything is to end: what the worker gets."""
        self._worker_told = False
        self._kill_at: float | None = None
        self._worker_code = 0
        self._sidecar_failure: int | None = None
        """The exit code of a sidecar that cannot run."""

    def run(self) -> int:
        """Returns the exit code."""
        try:
            while True:
                self._act()
                if self._finished:
                    return self._exit_code
                if (received := signal.sigtimedwait(HANDLED, self._seconds_to_wait())) is not None:
                    self._on_signal(received.si_signo)
                self._reap_all()
        finally:
            kill_descendants()

    @property
    def _finished(self) -> bool:
        return self._stop_signal is not None and self._worker.child is None and self._sidecar.child is None

    @property
    def _exit_code(self) -> int:
        return self._worker_code if self._sidecar_failure is None else self._sidecar_failure

    def _seconds_to_wait(self) -> float:
        times = (self._worker.start_at, self._sidecar.start_at, self._kill_at)
        due = min((at for at in times if at is not None), default=None)
        return MAX_WAIT if due is None else max(0.0, due - time.monotonic())

    def _act(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if self._worker.start_at is not None and self._worker.start_at <= now:
            self._start_worker()
        if self._sidecar.start_at is not None and self._sidecar.start_at <= now:
            self._start_sidecar()
        if self._kill_at is not None and self._kill_at <= now and self._worker.child is not None:
            self._log.warning("worker killed", text=f"it has not ended within {self._plan.stop_time:g} s")
            self._worker.child.kill_group()
            self._kill_at = None
        if self._stop_signal is not None and self._sidecar.child is None and not self._worker_told:
            self._stop_worker(self._stop_signal)

    def _start_worker(self) -> None:
        child = Child(self._plan.worker, death_signal=signal.SIGKILL, descriptors={0: self._worker_stdin})
        self._worker.child, self._worker.start_at = child, None
        self._reaper.add(child.pid)
        self._pid_file.write(child.pid)
        self._log.info("worker started", monotonic=monotonic(), pid=child.pid, command=self._plan.worker[0])

    def _start_sidecar(self) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        descriptors = {0: null, pid_file.DESCRIPTOR: self._pid_file.descriptor}
        self._sidecar.child = Child(self._plan.sidecar, death_signal=signal.SIGTERM, descriptors=descriptors)
        self._sidecar.start_at = None
        os.close(null)

    def _on_signal(self, number: int) -> None:
        if number in STOP_SIGNALS:
            self._on_stop_signal(number)
        elif number in TO_SIDECAR and self._sidecar.child is not None:
            self._sidecar.child.signal(number)
        elif number in TO_WORKER and self._worker.child is not None:
            self._worker.child.signal(number)

    def _on_stop_signal(self, number: int) -> None:
        if self._stop_signal is None:
            self._log.info("signal", signal=signal.Signals(number).name)
            self._stop(number)
            return
        self._log.warning("signal", signal=signal.Signals(number).name, text="the second one: everything is killed")
        for slot in (self._worker, self._sidecar):
            if slot.child is not None:
                slot.child.kill_group()
        kill_descendants()
        sys.exit(128 + number)

    def _stop(self, number: int) -> None:
        """Let the sidecar drain and leave; :meth:`_act` then stops the worker."""
        self._stop_signal = number
        self._worker.start_at = self._sidecar.start_at = None
        if self._sidecar.child is not None:
            self._sidecar.child.signal(signal.SIGTERM)

    def _stop_worker(self, number: int) -> None:
        self._worker_told = True
        if self._worker.child is not None:
            self._worker.child.signal(number)
            self._kill_at = time.monotonic() + self._plan.stop_time

    def _reap_all(self) -> None:
        while (pid := ended_child()) is not None:
            worker, sidecar = self._worker.child, self._sidecar.child
            if worker is not None and pid == worker.pid:
                self._worker_ended(worker)
            elif sidecar is not None and pid == sidecar.pid:
                self._sidecar_ended(sidecar)
            else:
                reap(pid)  # a daemon of the worker, or any orphan if this is process 1

    def _worker_ended(self, child: Child) -> None:
        child.kill_group()  # what is left of it may hold the port, or the memory of a GPU
        self._reaper.remove(child.pid)
        status = reap(child.pid)
        self._worker.child = self._kill_at = None
        self._worker_code = _exit_code(status)
        self._pid_file.write(0)
        expected = status == 0 or self._stop_signal is not None
        log = self._log.info if expected else self._log.warning
        log(
            "worker ended",
            monotonic=monotonic(),
            exit_code=self._worker_code,
            ran=round(child.age, 1),
            why=_why(status),
        )
        if self._stop_signal is None:
            self._after_worker(child.age)

    def _after_worker(self, ran: float) -> None:
        if wanted(self._plan.restart, self._worker_code):
            self._restart("worker", self._worker, ran)
        elif not self._plan.keep_sidecar:
            self._stop(signal.SIGTERM)

    def _sidecar_ended(self, child: Child) -> None:
        code = _exit_code(reap(child.pid))
        self._sidecar.child = None
        if self._stop_signal is not None:
            return
        if code != 0 and code not in SIDECAR_FAILURES:
            self._log.error("sidecar ended", exit_code=code, text="the worker goes on")
            self._restart("sidecar", self._sidecar, child.age)
            return
        self._log.info("sidecar ended", exit_code=code, text="the worker is stopped")
        self._sidecar_failure = code or None
        self._stop(signal.SIGTERM)

    def _restart(self, what: str, slot: _Slot, ran: float) -> None:
        delay = slot.backoff.next_delay(ran)
        slot.start_at = time.monotonic() + delay
        self._log.info("restart", what=what, seconds=round(delay, 1))


def _is_terminal(descriptor: int) -> bool:
    """A worker in the background must not read from the terminal: the kernel would stop it."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _exit_code(status: int) -> int:
    """The exit code for a process that ended with this status; 128 + n if signal n (status -n) has ended it."""
    return status if status >= 0 else 128 - status


def _why(status: int) -> str:
    match status:
        case launch.NOT_FOUND:
            return "the command was not found"
        case launch.NOT_EXECUTABLE:
            return "the command cannot be executed"
    return f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else "it has exited"
