"""One system's processes on the hosts of a testbed, and their events: started, killed, frozen, waited for.

A thread reads all output at idle priority, so that the measurement does not slow down the processes it measures. Times
are the processes' own timestamps, not those of the reader.
"""

from __future__ import annotations

import os
import random
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.netns_testbed import Bed, NetnsHost
from bench.peers.systems import Conditions, NodeEvent, PeerProcess, System

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SEEDS = 3
TIMEOUT = 40.0
START_SECONDS = 1.0
"""Extra seconds per member that starts."""


class PeerPoolError(Exception):
    """A pool is not in the state that a measurement needs. The text says which pool, and how."""


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """An event of a node about a member, or about itself."""

    at: float
    observer: str
    kind: str
    who: str


class PeerMember:
    """A running process and its view of the others."""

    def __init__(self, start: PeerProcess, process: subprocess.Popen[bytes]) -> None:
        self.start = start
        self.process = process
        self.view: set[str] = set()
        self.up = False
        self.rest = b""
        self.last_lines: list[bytes] = []

    @property
    def name(self) -> str:
        return self.start.name

    @property
    def host(self) -> NetnsHost:
        return self.start.host

    def cpu(self) -> float:
        """CPU seconds of all threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss(self) -> int:
        """Resident memory in bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE


class PeerPool:
    """The members of one system. Leaving the block kills them all."""

    def __init__(self, system: System, bed: Bed, conditions: Conditions, rng: random.Random) -> None:
        self.system = system
        self.bed = bed
        self.conditions = conditions
        self.members: list[PeerMember] = []
        """The running members, in order of their start."""
        self.observed: list[PeerEvent] = []
        self._rng = rng
        self._starts: dict[int, int] = {}
        self._ending: dict[NetnsHost, subprocess.Popen[bytes]] = {}
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._wake, self._poke = os.pipe()
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def name(self) -> str:
        return self.system.name

    def __enter__(self) -> PeerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all members. Idempotent."""
        if not self._reader.is_alive():
            return
        for member in list(self.members):
            self.kill(member)
        for process in self._ending.values():
            process.kill()
            process.wait()
        os.write(self._poke, b".")
        self._reader.join()
        self._selector.close()
        os.close(self._wake)
        os.close(self._poke)

    # --- Operations

    def start(self, host: NetnsHost, *flags: str) -> PeerMember:
        """Start a new process on the host, which joins through a few running members."""
        if host in self._ending:  # its port is busy until then
            self._ending.pop(host).wait(TIMEOUT)
        number = self._starts[host.number] = self._starts.get(host.number, 0) + 1
        others = [member.host for member in self.members if member.host is not host]
        seeds = tuple(self._rng.sample(others, min(SEEDS, len(others))))
        planned = PeerProcess(f"h{host.number}.{number}", host, seeds, flags)
        argv = self.bed.command(host, self.system.argv(planned, self.conditions))
        env = {key: value for key, value in os.environ.items() if not key.startswith("RUMORMILL_")}
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        member = PeerMember(planned, process)
        self.members.append(member)
        self._selector.register(process.stdout, selectors.EVENT_READ, member)
        os.write(self._poke, b".")
        return member

    def start_all(self, hosts: Iterable[NetnsHost]) -> None:
        """Start one member per host: first one alone, then the others, which join it or one another."""
        for host in hosts:
            self.start(host)
            if len(self.members) == 1:
                self.until(lambda: self.members[0].up, TIMEOUT, "the first node up")
        self.settle(TIMEOUT + START_SECONDS * len(self.members))

    def signal(self, member: PeerMember, number: signal.Signals) -> float:
        """Send a signal. Returns the time just before."""
        now = time.monotonic()
        os.kill(member.process.pid, number)
        return now

    def kill(self, member: PeerMember) -> float:
        """SIGKILL a member and remove it from the pool. Returns the time just before."""
        now = self.signal(member, signal.SIGKILL)
        self.forget(member)
        return now

    def forget(self, member: PeerMember) -> None:
        """Remove a member that is about to end from the pool."""
        self.members.remove(member)
        self._ending[member.host] = member.process

    # --- Events

    def until(self, test: Callable[[], bool], within: float, what: str = "") -> bool:
        """Wait until the test holds. With ``what``, raises :class:`PeerPoolError` if it does not in time."""
        with self._changed:
            held = self._changed.wait_for(test, within)
        if not held and what:
            raise PeerPoolError(f"{self.name}: not seen within {within:g} s: {what}; {self._differences()}")
        return held

    def one_view(self) -> bool:
        """Whether every running member holds exactly the running members."""
        names = {member.name for member in self.members}
        return all(member.up and member.view | {member.name} == names for member in self.members)

    def settle(self, within: float = TIMEOUT) -> None:
        """Wait for one view. Raises :class:`PeerPoolError` if there is none in time."""
        self.until(self.one_view, within, "one view")

    def since(self, mark: int) -> list[PeerEvent]:
        """The events since a :meth:`mark`."""
        with self._changed:
            return self.observed[mark:]

    def mark(self) -> int:
        with self._changed:
            return len(self.observed)

    def _differences(self) -> str:
        names = {member.name for member in self.members}
        odd = [m for m in self.members if not m.up or m.view | {m.name} != names]
        lacking = [f"{m.name} lacks {sorted(names - m.view - {m.name})[:4]}" for m in odd[:4]]
        return "; ".join([*lacking, *(b" ".join(m.last_lines[-3:]).decode(errors="replace") for m in odd[:2])])

    def _read(self) -> None:
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._read_lines(key.data)
                elif os.read(self._wake, 1) and not self.members:
                    return

    def _read_lines(self, member: PeerMember) -> None:
        assert member.process.stdout is not None
        data = os.read(member.process.stdout.fileno(), 65536)
        if not data:
            self._selector.unregister(member.process.stdout)
            member.process.stdout.close()
            return
        *lines, member.rest = (member.rest + data).split(b"\n")
        with self._changed:
            for line in lines:
                if (event := self.system.read(line)) is not None:
                    self._record(member, event)
                elif not line.startswith(b"{"):
                    member.last_lines = [*member.last_lines[-9:], line]
            self._changed.notify_all()

    def _record(self, member: PeerMember, event: NodeEvent) -> None:
        self.observed.append(PeerEvent(event.at, member.name, event.kind, event.who))
        if event.who == member.name:
            member.up = member.up or event.kind == "up"
        elif event.kind in ("gone", "left"):
            member.view.discard(event.who)
        elif event.kind in ("joined", "refuted"):
            member.view.add(event.who)
