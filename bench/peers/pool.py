"""One system's processes on the hosts of a bed, and what they say: started, killed, frozen, waited for.

A thread reads every process's output, when nobody else wants the processor: what is measured is not to wait for who
measures it. Times are the processes' own stamps, not those of the reading.
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
from bench.peers.systems import Conditions, PeerProcess, Said, System

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SEEDS = 3
PATIENCE = 40.0
START_SECONDS = 1.0
"""More patience for each member that starts."""


class PoolTrouble(Exception):
    """A pool is not what a measurement needs; says which and how."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A node concluded something of a member (or said something of itself)."""

    at: float
    observer: str
    event: str
    who: str


class PeerMember:
    """A running process and what it holds of the others."""

    def __init__(self, life: PeerProcess, process: subprocess.Popen[bytes]) -> None:
        self.life = life
        self.process = process
        self.view: set[str] = set()
        self.up = False
        self.rest = b""
        self.trouble: list[bytes] = []

    @property
    def name(self) -> str:
        return self.life.name

    @property
    def host(self) -> NetnsHost:
        return self.life.host

    def cpu(self) -> float:
        """Seconds of processor time so far, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss(self) -> int:
        """Bytes resident."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE


class PeerPool:
    """The members of one system. Leaving the block kills them all."""

    def __init__(self, system: System, bed: Bed, conditions: Conditions, rng: random.Random) -> None:
        self.system = system
        self.bed = bed
        self.conditions = conditions
        self.members: list[PeerMember] = []
        """Those that run, in the order of their hosts' starts."""
        self.sightings: list[Sighting] = []
        self._rng = rng
        self._lives: dict[int, int] = {}
        self._going: dict[NetnsHost, subprocess.Popen[bytes]] = {}
        self._news = threading.Condition()
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
        """Kill them all. A second time does nothing."""
        if not self._reader.is_alive():
            return
        for member in list(self.members):
            self.kill(member)
        for process in self._going.values():
            process.kill()
            process.wait()
        os.write(self._poke, b".")
        self._reader.join()
        self._selector.close()
        os.close(self._wake)
        os.close(self._poke)

    # --- what is done to them

    def start(self, host: NetnsHost, *flags: str) -> PeerMember:
        """A new life on the host, which joins by way of a few that run."""
        if host in self._going:  # its port is not free before
            self._going.pop(host).wait(PATIENCE)
        number = self._lives[host.number] = self._lives.get(host.number, 0) + 1
        others = [member.host for member in self.members if member.host is not host]
        seeds = tuple(self._rng.sample(others, min(SEEDS, len(others))))
        life = PeerProcess(f"h{host.number}.{number}", host, seeds, flags)
        argv = self.bed.command(host, self.system.argv(life, self.conditions))
        env = {key: value for key, value in os.environ.items() if not key.startswith("RUMORMILL_")}
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        member = PeerMember(life, process)
        self.members.append(member)
        self._selector.register(process.stdout, selectors.EVENT_READ, member)
        os.write(self._poke, b".")
        return member

    def start_all(self, hosts: Iterable[NetnsHost]) -> None:
        """One on each host, the first before the others (which join it or one another)."""
        for host in hosts:
            self.start(host)
            if len(self.members) == 1:
                self.until(lambda: self.members[0].up, PATIENCE, "the first node up")
        self.settle(PATIENCE + START_SECONDS * len(self.members))

    def signal(self, member: PeerMember, number: signal.Signals) -> float:
        """Returns the time just before."""
        now = time.monotonic()
        os.kill(member.process.pid, number)
        return now

    def kill(self, member: PeerMember) -> float:
        """SIGKILL; the member is none of ours any more. Returns the time just before."""
        now = self.signal(member, signal.SIGKILL)
        self.forget(member)
        return now

    def forget(self, member: PeerMember) -> None:
        """The member has been told to end: from now on it is not waited for, nor heard."""
        self.members.remove(member)
        self._going[member.host] = member.process

    # --- what they say

    def until(self, test: Callable[[], bool], within: float, what: str = "") -> bool:
        """Wait until the test of what was said holds. With ``what``, raises :class:`PoolTrouble` if it never does."""
        with self._news:
            held = self._news.wait_for(test, within)
        if not held and what:
            raise PoolTrouble(f"{self.name}: not seen within {within:g} s: {what}; {self._doubts()}")
        return held

    def one_view(self) -> bool:
        """Everyone that runs holds everyone that runs, and nobody else."""
        names = {member.name for member in self.members}
        return all(member.up and member.view | {member.name} == names for member in self.members)

    def settle(self, within: float = PATIENCE) -> None:
        """Wait for one view. Raises :class:`PoolTrouble` if there is none in that time."""
        self.until(self.one_view, within, "one view")

    def since(self, mark: int) -> list[Sighting]:
        """What was said since there were so many sightings."""
        with self._news:
            return self.sightings[mark:]

    def mark(self) -> int:
        with self._news:
            return len(self.sightings)

    def _doubts(self) -> str:
        names = {member.name for member in self.members}
        odd = [m for m in self.members if not m.up or m.view | {m.name} != names]
        said = [f"{m.name} lacks {sorted(names - m.view - {m.name})[:4]}" for m in odd[:4]]
        return "; ".join([*said, *(b" ".join(m.trouble[-3:]).decode(errors="replace") for m in odd[:2])])

    def _read(self) -> None:
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._take(key.data)
                elif os.read(self._wake, 1) and not self.members:
                    return

    def _take(self, member: PeerMember) -> None:
        assert member.process.stdout is not None
        data = os.read(member.process.stdout.fileno(), 65536)
        if not data:
            self._selector.unregister(member.process.stdout)
            member.process.stdout.close()
            return
        *lines, member.rest = (member.rest + data).split(b"\n")
        with self._news:
            for line in lines:
                if (said := self.system.read(line)) is not None:
                    self._note(member, said)
                elif not line.startswith(b"{"):
                    member.trouble = [*member.trouble[-9:], line]
            self._news.notify_all()

    def _note(self, member: PeerMember, said: Said) -> None:
        self.sightings.append(Sighting(said.at, member.name, said.event, said.who))
        if said.who == member.name:
            member.up = member.up or said.event == "up"
        elif said.event in ("gone", "left"):
            member.view.discard(said.who)
        elif said.event in ("joined", "refuted"):
            member.view.add(said.who)
