"""The virtual network: directed links between hosts, and faults that can be added and removed.

A fault affects all links from one set of hosts to another. Every host has two bit masks: the faults on its outgoing
links and those on its incoming links. The faults that a datagram meets are the intersection of two masks. So a million
links need no table, and a link without faults costs one ``and``.

Delay is drawn from a table of quantiles. Loss is independent (:attr:`LinkFault.loss`) or bursty after Gilbert and
Elliott (:attr:`LinkFault.burst`). The two states of the bursty model follow time, not the number of datagrams.
Otherwise a link with five datagrams a second would have bursts that last minutes.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from rumormill.gossip.security.seal import HEADER
from rumormill.membership.record import Address
from rumormill.simulations.host import SimulatedHost
from rumormill.simulations.scheduler import SECOND, Action, Scheduler, microseconds
from rumormill.simulations.trace import Trace

_QUANTILE_BITS = 10
IP_UDP_BYTES = 28


@dataclass(frozen=True, slots=True)
class Latency:
    """The delay of a datagram: a fixed part plus an exponential part. Seconds."""

    least: float = 0.0002
    extra: float = 0.0001
    """Mean of the exponential part. If it exceeds the gap between datagrams, they are reordered."""

    def quantiles(self) -> list[int]:
        """Delays in microseconds. A uniformly drawn index draws from the distribution."""
        count = 1 << _QUANTILE_BITS
        return [microseconds(self.least - self.extra * math.log(1 - (i + 0.5) / count)) for i in range(count)]


LAN = Latency()
WAN = Latency(0.04, 0.01)


@dataclass(frozen=True, slots=True)
class Burst:
    """Gilbert–Elliott loss: a link alternates between good and bad. Both durations are exponential, in seconds."""

    mean_good: float
    mean_bad: float
    loss: float = 1.0
    """Probability of loss in the bad state."""

    def __str__(self) -> str:
        lossy = f" of {self.loss:.0%}" if self.loss < 1 else ""
        return f"bursts{lossy} of {self.mean_bad:g} s every {self.mean_good:g} s"


@dataclass(frozen=True, slots=True)
class LinkFault:
    """What a fault does to each datagram on an affected link."""

    cut: bool = False
    loss: float = 0.0
    burst: Burst | None = None
    delay: float = 0.0
    """Seconds added to every datagram."""
    jitter: float = 0.0
    """Mean, in seconds, of an exponential delay drawn per datagram. It reorders datagrams."""
    duplicate: float = 0.0
    """Probability of a second copy, with its own delay."""
    forged: bool = False
    """An attacker answers each datagram with a refusal that quotes its header, but cannot quote the sealed part."""
    mtu: int = 0
    """Bytes with IP and UDP headers. Longer datagrams vanish, as behind a firewall that drops ICMP. 0 is no limit."""

    def __str__(self) -> str:
        words = {
            "cut": self.cut,
            f"loss {self.loss * 100:g}%": self.loss,
            str(self.burst): self.burst,
            f"delay {self.delay:g} s": self.delay,
            f"jitter {self.jitter:g} s": self.jitter,
            f"duplicates {self.duplicate * 100:g}%": self.duplicate,
            "forged refusals": self.forged,
            f"mtu {self.mtu}": self.mtu,
        }
        return ", ".join(word for word, there in words.items() if there) or "nothing"


@dataclass(frozen=True, slots=True, eq=False)
class ActiveFault:
    """A fault on all links from ``sources`` to ``targets``: host keys, or None for every present and future host."""

    bit: int
    fault: LinkFault
    sources: frozenset[str] | None
    targets: frozenset[str] | None


class Network:
    """Moves datagrams between hosts. It knows links and faults, but does not read the datagrams."""

    __slots__ = (
        "_bursts",
        "_getrandbits",
        "_hosts",
        "_quantiles",
        "faults",
        "lost",
        "on_faults",
        "on_send",
        "refuses",
        "rng",
        "scheduler",
        "trace",
    )

    def __init__(self, scheduler: Scheduler, rng: random.Random, latency: Latency, trace: Trace) -> None:
        self.scheduler = scheduler
        self.trace = trace
        self.rng = rng
        self.faults: list[ActiveFault] = []
        self.on_send: Callable[[SimulatedHost, Address, bytes], None] | None = None
        """Called with every datagram a host sends, before any fault applies."""
        self.on_faults: Callable[[], None] | None = None
        """Called after faults were added or removed."""
        self.refuses = False
        """Whether hosts without a process refuse datagrams (ICMP); otherwise they are silent."""
        self.lost = 0
        self._hosts: dict[Address, SimulatedHost] = {}
        self._quantiles = latency.quantiles()
        self._getrandbits = rng.getrandbits
        self._bursts: dict[tuple[int, int, int], tuple[int, bool]] = {}
        """By (fault, source, target): when the link's state was last drawn, and whether it was bad."""

    def attach(self, host: SimulatedHost) -> None:
        """Register a host's address and apply the active faults to its links."""
        self._hosts[host.address] = host
        self._set_masks(host)

    def host_at(self, address: Address) -> SimulatedHost | None:
        return self._hosts.get(address)

    def add(
        self, fault: LinkFault, sources: Collection[str] | None = None, targets: Collection[str] | None = None
    ) -> ActiveFault:
        """Add a fault to the links from ``sources`` to ``targets``."""
        used = 0
        for other in self.faults:
            used |= other.bit
        bit = (used + 1) & ~used
        active = ActiveFault(bit, fault, _frozen(sources), _frozen(targets))
        self.faults.append(active)
        self._update_masks()
        return active

    def remove(self, faults: Iterable[ActiveFault]) -> None:
        """Remove faults. A fault that was already removed is ignored."""
        gone = set(faults)
        self.faults = [fault for fault in self.faults if fault not in gone]
        self._bursts.clear()
        self._update_masks()

    def send(self, source: SimulatedHost, to: Address, data: bytes) -> None:
        """Deliver a datagram, or lose it."""
        if self.on_send is not None:
            self.on_send(source, to, data)
        target = self._hosts.get(to)
        if target is None:
            self.lost += 1
            return
        if met := source.outgoing_faults & target.incoming_faults:
            self._send_through(met, source, target, data)
            return
        scheduler = self.scheduler
        arrival = scheduler.now + self._quantiles[self._getrandbits(_QUANTILE_BITS)]
        self.trace.add(scheduler.now, source.index, target.index, arrival, data)
        heapq.heappush(scheduler.heap, (arrival, scheduler.next_order(), target.arrive, data, source.address))

    def refuse(self, host: SimulatedHost, data: bytes, to: Address) -> None:
        """A host's kernel has no process for a datagram. It sends a refusal if this network has refusals."""
        source = self._hosts.get(to)
        if not self.refuses or source is None:
            return
        met = host.outgoing_faults & source.incoming_faults
        if any(fault.bit & met and self._loses(fault, host, source, data) for fault in self.faults):
            return
        self._answer(host, source, data, source.arrive_refusal)

    def _answer(self, by: SimulatedHost, source: SimulatedHost, quoted: bytes, action: Action) -> None:
        """Send a refusal, genuine or forged, to the sender of the datagram that it quotes."""
        now = self.scheduler.now
        arrival = now + self._quantiles[self._getrandbits(_QUANTILE_BITS)]
        self.trace.add(now, by.index, source.index, arrival, quoted)
        self.scheduler.push(arrival, action, quoted, by.address)

    def _send_through(self, met: int, source: SimulatedHost, target: SimulatedHost, data: bytes) -> None:
        now = self.scheduler.now
        delay, copies = 0, 1
        for active in self.faults:
            if not active.bit & met:
                continue
            if self._loses(active, source, target, data):
                self.lost += 1
                self.trace.add(now, source.index, target.index, -1, data)
                return
            fault = active.fault
            if fault.forged:
                self._answer(target, source, data[: HEADER.size].ljust(len(data), b"\0"), source.arrive_forged_refusal)
            delay += microseconds(fault.delay)
            if fault.duplicate and self.rng.random() < fault.duplicate:
                copies += 1
        for _ in range(copies):
            arrival = now + delay + self._quantiles[self._getrandbits(_QUANTILE_BITS)] + self._jitter(met)
            self.trace.add(now, source.index, target.index, arrival, data)
            self.scheduler.push(arrival, target.arrive, data, source.address)

    def _jitter(self, met: int) -> int:
        jitters = [active.fault.jitter for active in self.faults if active.bit & met and active.fault.jitter]
        return sum(microseconds(self.rng.expovariate(1 / jitter)) for jitter in jitters)

    def _loses(self, active: ActiveFault, source: SimulatedHost, target: SimulatedHost, data: bytes) -> bool:
        fault = active.fault
        if fault.cut or (fault.mtu and len(data) + IP_UDP_BYTES > fault.mtu):
            return True
        if fault.loss and self.rng.random() < fault.loss:
            return True
        if fault.burst is None or not self._is_bad(active.bit, fault.burst, source, target):
            return False
        return self.rng.random() < fault.burst.loss

    def _is_bad(self, bit: int, burst: Burst, source: SimulatedHost, target: SimulatedHost) -> bool:
        """Whether the link is bad now. The two-state Markov chain is sampled exactly, and only on demand."""
        link, now = (bit, source.index, target.index), self.scheduler.now
        share = burst.mean_bad / (burst.mean_good + burst.mean_bad)
        drawn = self._bursts.get(link)
        if drawn is not None:
            since, was_bad = drawn
            rate = 1 / burst.mean_good + 1 / burst.mean_bad
            share += (was_bad - share) * math.exp(-rate * (now - since) / SECOND)
        bad = self.rng.random() < share
        self._bursts[link] = (now, bad)
        return bad

    def _update_masks(self) -> None:
        for host in self._hosts.values():
            self._set_masks(host)
        if self.on_faults is not None:
            self.on_faults()

    def _set_masks(self, host: SimulatedHost) -> None:
        host.outgoing_faults = sum(f.bit for f in self.faults if f.sources is None or host.key in f.sources)
        host.incoming_faults = sum(f.bit for f in self.faults if f.targets is None or host.key in f.targets)


def _frozen(keys: Collection[str] | None) -> frozenset[str] | None:
    return None if keys is None else frozenset(keys)
