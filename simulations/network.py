"""The virtual network: directed links between hosts, and the faults that can be put on them and taken off again.

A fault stands on all links from one set of hosts to another. Every host carries two bit masks, the faults it sends
into and the faults it receives out of; what a datagram meets is their intersection, so a network of a million links
costs no table and a link without faults costs one ``and``.

Delay is drawn from a table of quantiles. Loss is independent (:attr:`LinkFault.loss`) or bursty after Gilbert and
Elliott (:attr:`LinkFault.burst`), whose two states follow wall time and not the count of datagrams: a link that carries
five datagrams a second must not have bursts that last minutes.
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
    """How long a datagram is under way: a fixed part and an exponential one. Seconds."""

    least: float = 0.0002
    extra: float = 0.0001
    """Mean of what comes on top. Larger than the gap between datagrams, it reorders them."""

    def quantiles(self) -> list[int]:
        """Delays in microseconds; an index drawn evenly draws from the distribution."""
        count = 1 << _QUANTILE_BITS
        return [microseconds(self.least - self.extra * math.log(1 - (i + 0.5) / count)) for i in range(count)]


LAN = Latency()
WAN = Latency(0.04, 0.01)


@dataclass(frozen=True, slots=True)
class Burst:
    """Gilbert–Elliott: a link is good for a while, then bad for a while. Seconds, both exponential."""

    mean_good: float
    mean_bad: float
    loss: float = 1.0
    """While bad."""

    def __str__(self) -> str:
        lossy = f" of {self.loss:.0%}" if self.loss < 1 else ""
        return f"bursts{lossy} of {self.mean_bad:g} s every {self.mean_good:g} s"


@dataclass(frozen=True, slots=True)
class LinkFault:
    """What a fault does to each datagram it meets."""

    cut: bool = False
    loss: float = 0.0
    burst: Burst | None = None
    delay: float = 0.0
    """Seconds, added to all."""
    jitter: float = 0.0
    """Seconds, the mean of an exponential added to each on its own: reorders."""
    duplicate: float = 0.0
    """Probability of a second copy, with a delay of its own."""
    forged: bool = False
    """Somebody answers each datagram with a refusal that fits its header; what is sealed in it he cannot quote."""
    mtu: int = 0
    """Bytes with IP and UDP headers; what is longer vanishes, as behind a firewall that eats ICMP. 0 is no limit."""

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
    """Trouble on all links from ``sources`` to ``targets`` (host keys; None is every host, later ones included)."""

    bit: int
    trouble: LinkFault
    sources: frozenset[str] | None
    targets: frozenset[str] | None


class Network:
    """Moves datagrams between hosts. Knows links and faults, and nothing of what the bytes say."""

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
        """Told of every datagram a host sends, before anything happens to it."""
        self.on_faults: Callable[[], None] | None = None
        """Told each time faults came or went."""
        self.refuses = False
        """Whether hosts without a process refuse what is sent to them; otherwise they are silent."""
        self.lost = 0
        self._hosts: dict[Address, SimulatedHost] = {}
        self._quantiles = latency.quantiles()
        self._getrandbits = rng.getrandbits
        self._bursts: dict[tuple[int, int, int], tuple[int, bool]] = {}
        """(fault, source, target) to when the link's state was last drawn, and whether it was bad."""

    def attach(self, host: SimulatedHost) -> None:
        """Give a host its address and the faults that stand on its links already."""
        self._hosts[host.address] = host
        self._mark(host)

    def host_at(self, address: Address) -> SimulatedHost | None:
        return self._hosts.get(address)

    def add(
        self, trouble: LinkFault, sources: Collection[str] | None = None, targets: Collection[str] | None = None
    ) -> ActiveFault:
        """Put trouble on the links from ``sources`` to ``targets``."""
        used = 0
        for fault in self.faults:
            used |= fault.bit
        bit = (used + 1) & ~used
        fault = ActiveFault(bit, trouble, _frozen(sources), _frozen(targets))
        self.faults.append(fault)
        self._mark_all()
        return fault

    def remove(self, faults: Iterable[ActiveFault]) -> None:
        """Take faults off; one that is off already is ignored."""
        gone = set(faults)
        self.faults = [fault for fault in self.faults if fault not in gone]
        self._bursts.clear()
        self._mark_all()

    def send(self, source: SimulatedHost, to: Address, data: bytes) -> None:
        """One datagram on its way, or lost."""
        if self.on_send is not None:
            self.on_send(source, to, data)
        target = self._hosts.get(to)
        if target is None:
            self.lost += 1
            return
        if met := source.sends_into & target.receives_from:
            self._send_through(met, source, target, data)
            return
        scheduler = self.scheduler
        arrival = scheduler.now + self._quantiles[self._getrandbits(_QUANTILE_BITS)]
        self.trace.add(scheduler.now, source.index, target.index, arrival, data)
        heapq.heappush(scheduler.heap, (arrival, scheduler.next_order(), target.arrive, data, source.address))

    def refuse(self, host: SimulatedHost, data: bytes, to: Address) -> None:
        """A host's kernel has nobody to give a datagram to, and says so, if this network lets it."""
        source = self._hosts.get(to)
        if not self.refuses or source is None:
            return
        met = host.sends_into & source.receives_from
        if any(fault.bit & met and self._loses(fault, host, source, data) for fault in self.faults):
            return
        self._answer(host, source, data, source.refused)

    def _answer(self, by: SimulatedHost, source: SimulatedHost, quoted: bytes, action: Action) -> None:
        """A refusal, true or forged, on its way back to whoever sent the datagram that it quotes."""
        now = self.scheduler.now
        arrival = now + self._quantiles[self._getrandbits(_QUANTILE_BITS)]
        self.trace.add(now, by.index, source.index, arrival, quoted)
        self.scheduler.push(arrival, action, quoted, by.address)

    def _send_through(self, met: int, source: SimulatedHost, target: SimulatedHost, data: bytes) -> None:
        now = self.scheduler.now
        delay, copies = 0, 1
        for fault in self.faults:
            if not fault.bit & met:
                continue
            if self._loses(fault, source, target, data):
                self.lost += 1
                self.trace.add(now, source.index, target.index, -1, data)
                return
            trouble = fault.trouble
            if trouble.forged:
                self._answer(target, source, data[: HEADER.size].ljust(len(data), b"\0"), source.deceived)
            delay += microseconds(trouble.delay)
            if trouble.duplicate and self.rng.random() < trouble.duplicate:
                copies += 1
        for _ in range(copies):
            arrival = now + delay + self._quantiles[self._getrandbits(_QUANTILE_BITS)] + self._jitter(met)
            self.trace.add(now, source.index, target.index, arrival, data)
            self.scheduler.push(arrival, target.arrive, data, source.address)

    def _jitter(self, met: int) -> int:
        jitters = [fault.trouble.jitter for fault in self.faults if fault.bit & met and fault.trouble.jitter]
        return sum(microseconds(self.rng.expovariate(1 / jitter)) for jitter in jitters)

    def _loses(self, fault: ActiveFault, source: SimulatedHost, target: SimulatedHost, data: bytes) -> bool:
        trouble = fault.trouble
        if trouble.cut or (trouble.mtu and len(data) + IP_UDP_BYTES > trouble.mtu):
            return True
        if trouble.loss and self.rng.random() < trouble.loss:
            return True
        if trouble.burst is None or not self._is_bad(fault.bit, trouble.burst, source, target):
            return False
        return self.rng.random() < trouble.burst.loss

    def _is_bad(self, bit: int, burst: Burst, source: SimulatedHost, target: SimulatedHost) -> bool:
        """Whether the link is in its bad state now: the two-state Markov chain, drawn exactly and only when asked."""
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

    def _mark_all(self) -> None:
        for host in self._hosts.values():
            self._mark(host)
        if self.on_faults is not None:
            self.on_faults()

    def _mark(self, host: SimulatedHost) -> None:
        host.sends_into = sum(f.bit for f in self.faults if f.sources is None or host.key in f.sources)
        host.receives_from = sum(f.bit for f in self.faults if f.targets is None or host.key in f.targets)


def _frozen(keys: Collection[str] | None) -> frozenset[str] | None:
    return None if keys is None else frozenset(keys)
