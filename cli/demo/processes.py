"""A whole pool on this machine: worker and sidecar processes that can be killed, frozen and restarted one by one.

    with LocalPool(LocalPoolSettings(size=3)) as pool:
        pool.start()
        pool["w2"].kill()          # worker and sidecar at once, kill -9
        pool["w2"].start()         # on the same addresses as before

All processes are real, and everything stays on 127.0.0.1. Leaving the block kills all processes and removes their
directory (key file, logs). If this process cannot do that, :mod:`process_reaper` does. Nothing here waits until the
pool agrees on anything: :class:`rumormill.cli.demo.pool_watch.PoolWatch` does.
"""

from __future__ import annotations

import base64
import os
import random
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rumormill.cli.demo import process_reaper
from rumormill.cli.demo.ports import HOST, PortHold, hold_port

_RUMORMILL = "from rumormill.cli.main import main; main()"
"""Runs the console script even if it is not on the PATH."""
_END_SECONDS = 10.0
"""Seconds to wait for the end of a process that was told to end."""


class BadWorkerCommand(ValueError):
    """A worker command that cannot be used for several workers; the text says why."""


class ProcessEnded(Exception):
    """A process that should run has ended. The text says which, how it ended, and the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPoolSettings:
    """The size of the pool, and its programs."""

    size: int = 3
    service: str = "embed"
    cluster: str = "local"
    worker_command: str | None = None
    """The command to run instead of our own worker. It is split as a shell would, but runs without a shell. {port},
    {host} and {name} are replaced."""
    worker_check: str = "/health"
    service_time: float = 0.003
    """Seconds that our own worker takes for an answer, so that requests are in flight when it is killed."""
    agent_flags: tuple[str, ...] = ()
    """More flags for every ``rumormill agent``. {name} and {directory} are replaced."""

    def worker_argv(self, name: str, port: int) -> list[str]:
        """The command line of one worker. Raises :class:`BadWorkerCommand`."""
        if self.worker_command is None:
            own = ["-m", "rumormill.cli.demo.worker", "--name", name, "--host", HOST, "--port", str(port)]
            return [sys.executable, *own, "--think", f"{self.service_time * 1000:g}"]
        if "{port}" not in self.worker_command:
            raise BadWorkerCommand("the worker command has no {port}: each worker needs a port of its own to listen on")
        try:
            words = shlex.split(self.worker_command)
        except ValueError as error:
            raise BadWorkerCommand(f"the worker command cannot be split into words: {error}") from None
        filled = {"{port}": str(port), "{host}": HOST, "{name}": name}
        return [fill_in(word, filled) for word in words]


def fill_in(word: str, filled: Mapping[str, str]) -> str:
    """Replaces only these placeholders, so that the braces of JSON in a command line stay as they are."""
    for placeholder, text in filled.items():
        word = word.replace(placeholder, text)
    return word


class Program:
    """A process that can be started again and again. It has its own process group, and its output goes to one log."""

    def __init__(self, title: str, log: Path, env: Mapping[str, str]) -> None:
        self.title = title
        self.log = log
        self.should_run = False
        """It was started, and has not been killed or asked to end since."""
        self.env = dict(env)
        """Its environment from the next start on."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, argv: Sequence[str]) -> int:
        """Start it, and return its process id. Raises :class:`ProcessEnded` if it cannot be started."""
        self.wait()
        with self.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
                    argv,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            except OSError as error:
                raise ProcessEnded(f"{self.title} cannot be started: {argv[0]}: {error.strerror}") from None
        self.should_run = True
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group, so that a worker's children get it too. Does nothing if it has
        ended."""
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.should_run = False
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def wait(self, seconds: float = _END_SECONDS) -> int | None:
        """Wait for its end. Returns its exit code (negative for a signal); None if it was never started.

        Raises :class:`ProcessEnded` if it has not ended in time.
        """
        if self._process is None:
            return None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProcessEnded(f"{self.title} has not ended within {seconds:g} s") from None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, or if it was never started."""
        return None if self._process is None else self._process.poll()

    def check(self) -> None:
        """Raises :class:`ProcessEnded` if it should run and does not."""
        if self.should_run and self.exit_code is not None:
            raise ProcessEnded(f"{self.title} has ended with code {self.exit_code}; it said:\n{self.log_tail()}")

    def log_tail(self, lines: int = 8) -> str:
        """The end of its log, indented."""
        try:
            said = self.log.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            said = []
        return "\n".join(f"  {line}" for line in said) or "  (nothing)"


class LocalMember:
    """A worker and its sidecar. Their addresses stay the same."""

    def __init__(self, name: str, pool: LocalPool, worker_port: int, sidecar_port: int) -> None:
        self.name = name
        self._pool = pool
        self.worker_port = worker_port
        self.sidecar_port = sidecar_port
        self.worker = Program(f"the worker of {name}", pool.directory / f"{name}.worker.log", pool.env)
        self.sidecar = Program(f"the sidecar of {name}", pool.directory / f"{name}.sidecar.log", pool.env)

    @property
    def worker_url(self) -> str:
        return f"http://{HOST}:{self.worker_port}"

    @property
    def url(self) -> str:
        """The sidecar's discovery endpoint."""
        return f"http://{HOST}:{self.sidecar_port}"

    @property
    def gossip(self) -> str:
        """The sidecar's UDP address. Its port is that of the endpoint, so one :class:`PortHold` is enough."""
        return f"{HOST}:{self.sidecar_port}"

    def start(self) -> float:
        """Start both, perhaps again. Returns the monotonic time just before."""
        begun = time.monotonic()
        self.start_worker()
        self.start_sidecar()
        return begun

    def start_worker(self) -> None:
        self.worker.start(self._pool.settings.worker_argv(self.name, self.worker_port))

    def start_sidecar(self) -> None:
        """Start the sidecar. It gets the process id of the worker, if that runs."""
        settings = self._pool.settings
        argv = [sys.executable, "-c", _RUMORMILL, "agent"]
        argv += ["--name", self.name, "--cluster", settings.cluster, "--service", settings.service]
        argv += ["--worker", self.worker_url, "--worker-check", settings.worker_check]
        argv += ["--gossip", self.gossip, "--http", self.gossip, "--key-file", str(self._pool.key_file)]
        for other in self._pool:
            if other is not self:
                argv += ["--join", other.gossip]
        if self.worker.pid is not None:
            argv += ["--worker-pid", str(self.worker.pid)]
        filled = {"{name}": self.name, "{directory}": str(self._pool.directory)}
        self.sidecar.start([*argv, *(fill_in(flag, filled) for flag in settings.agent_flags)])

    def kill(self) -> float:
        """Kill both with SIGKILL. Returns the monotonic time just before."""
        return self._signal(signal.SIGKILL)

    def freeze(self) -> float:
        """Suspend both with SIGSTOP. Returns the monotonic time just before."""
        return self._signal(signal.SIGSTOP)

    def thaw(self) -> float:
        """Continue both with SIGCONT. Returns the monotonic time just before."""
        return self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> float:
        """The sidecar first. If it saw its worker die, it could still tell the pool, and the test would be easier."""
        now = time.monotonic()
        self.sidecar.signal(number)
        self.worker.signal(number)
        return now


class LocalPool:
    """The members ``w1`` ... ``wN``, as a context manager. It owns the directory with their files."""

    def __init__(self, settings: LocalPoolSettings | None = None) -> None:
        """Reserves ports, makes the directory and starts the reaper. Raises :class:`BadWorkerCommand`."""
        self.settings = settings or LocalPoolSettings()
        self.settings.worker_argv("w1", 1)
        with ExitStack() as stack:
            self.directory = Path(tempfile.mkdtemp(prefix="rumormill-"))
            stack.callback(process_reaper.clean_up, str(self.directory))
            self._reaper = self._start_reaper()
            stack.callback(self._stop_reaper)
            self.env = self._environment()
            self.key_file = self._write_key()
            self.members = self._members(stack)
            self._stack = stack.pop_all()

    def _members(self, stack: ExitStack) -> dict[str, LocalMember]:
        rng = random.Random(secrets.randbits(64))

        def held() -> int:
            hold: PortHold = stack.enter_context(hold_port(rng))
            return hold.port

        names = [f"w{number}" for number in range(1, self.settings.size + 1)]
        return {name: LocalMember(name, self, held(), held()) for name in names}

    def _environment(self) -> dict[str, str]:
        """Our environment without RUMORMILL_* settings, and with the pool's directory."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("RUMORMILL_")}
        return {**env, process_reaper.POOL_VARIABLE: str(self.directory), "PYTHONUNBUFFERED": "1"}

    def _write_key(self) -> Path:
        path = self.directory / "pool.key"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(32)) + b"\n")
        return path

    def _start_reaper(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-I", "-S", process_reaper.__file__, str(self.directory)]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - our own file

    def _stop_reaper(self) -> None:
        if self._reaper.stdin is not None:
            self._reaper.stdin.close()
        self._reaper.wait(_END_SECONDS)

    def __getitem__(self, name: str) -> LocalMember:
        return self.members[name]

    def __iter__(self) -> Iterator[LocalMember]:
        return iter(self.members.values())

    @property
    def programs(self) -> list[Program]:
        return [program for member in self for program in (member.worker, member.sidecar)]

    @property
    def urls(self) -> list[str]:
        """The discovery endpoints."""
        return [member.url for member in self]

    def start(self) -> None:
        """Start every worker and every sidecar."""
        for member in self:
            member.start()

    def check(self) -> None:
        """Raises :class:`ProcessEnded` if a process that should run does not."""
        for program in self.programs:
            program.check()

    def close(self) -> None:
        """Kill every process, remove the directory and free the ports. A second call does nothing."""
        try:
            for program in self.programs:
                program.signal(signal.SIGKILL)
            for program in self.programs:
                program.wait()
        finally:
            self._stack.close()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
