"""A simulated machine: an address, its own clock, a socket buffer, and at most one process.

A step does what ``gossip.udp.transport`` does at each wake-up. It hands over the received datagrams, up to a limit,
calls ``handle_timer``, sends, and sleeps until ``max(deadline, now + 1 ms)`` or the next datagram. A healthy host steps
in the microsecond in which a datagram arrives. A frozen host (SIGSTOP) takes no steps while its buffer fills and
overflows. When it resumes, it steps at once. A slow host (short of CPU) takes each step late.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from rumormill.membership.record import Address
from rumormill.membership.view import Event
from rumormill.simulations.protocol import SimulatedNode
from rumormill.simulations.scheduler import SECOND, Action, Scheduler, microseconds

NEVER = 1 << 62
MIN_SLEEP = 1_000
"""Microseconds. The transport never sleeps for less, so an overdue deadline cannot starve the socket."""
DRAIN_LIMIT = 256
"""The most datagrams handed over in one step."""
DRAIN_COST = 30
"""Microseconds of processing per datagram after a full drain. They delay the next step."""
BUFFER_BYTES = 2 * 2**20
"""SO_RCVBUF of 1 MB. Linux doubles it for its own bookkeeping."""
BUFFER_OVERHEAD = 704
"""Approximate bytes that the kernel charges for a datagram beyond its payload."""

_OFF, _FROZEN, _SLOW = 1, 2, 4


class HostNetwork(Protocol):
    """What a host asks of the network, which itself knows all hosts."""

    scheduler: Scheduler

    def attach(self, host: SimulatedHost) -> None: ...

    def send(self, source: SimulatedHost, to: Address, data: bytes) -> None: ...

    def refuse(self, host: SimulatedHost, data: bytes, to: Address) -> None: ...


class SimulatedHost:
    """One machine in the world. The attributes named ``arrive...`` are scheduler actions."""

    __slots__ = (
        "_anchor",
        "_buffered",
        "_delayed",
        "_delayed_at",
        "_drift",
        "_errors",
        "_floor",
        "_impairment",
        "_inbox",
        "_lag",
        "_network",
        "_offset",
        "_on_events",
        "_rng",
        "_scheduler",
        "_tick",
        "_wake",
        "address",
        "arrive",
        "arrive_forged_refusal",
        "arrive_refusal",
        "booted_at",
        "clock_jumped",
        "incoming_faults",
        "index",
        "key",
        "leaving",
        "left_at",
        "node",
        "outgoing_faults",
        "overflowed",
        "refusal_tap",
        "sent",
        "sent_bytes",
        "tap",
        "was_impaired",
        "watch",
    )

    def __init__(
        self,
        key: str,
        index: int,
        address: Address,
        network: HostNetwork,
        rng: random.Random,
        on_events: Callable[[SimulatedHost, Sequence[Event]], None],
    ) -> None:
        self.key = key
        self.index = index
        self.address = address
        self.node: SimulatedNode | None = None
        self.booted_at = 0
        """When the current process started, in microseconds of the world."""
        self.leaving = False
        self.left_at = 0
        """When the process was asked to leave, in microseconds of the world."""
        self.was_impaired = False
        """Whether the current process was ever frozen or slowed, or had its clock changed."""
        self.clock_jumped = False
        self.outgoing_faults = self.incoming_faults = 0
        self.sent = self.sent_bytes = self.overflowed = 0
        self.tap: Callable[[SimulatedHost, bytes], None] | None = None
        """Called with each datagram before the process receives it."""
        self.refusal_tap: Callable[[SimulatedHost, bytes], None] | None = None
        """Called with the quoted datagram when a genuine refusal arrives."""
        self.watch: Callable[[SimulatedHost], None] | None = None
        """Called after each step, when its datagrams have been sent."""
        self.arrive: Action = self._deliver
        self.arrive_refusal: Action = self._receive_refusal
        self.arrive_forged_refusal: Action = self._deliver_refusal  # not seen by the ground truth
        self._tick: Action = self._on_tick
        self._delayed: Action = self._delayed_step
        self._network = network
        self._scheduler: Scheduler = network.scheduler
        self._on_events = on_events
        self._rng = rng
        self._inbox: deque[tuple[bytes, Address]] = deque()
        self._errors: deque[tuple[bytes, Address]] = deque(maxlen=DRAIN_LIMIT)
        self._buffered = 0
        self._impairment = _OFF
        self._lag = 0
        self._delayed_at = NEVER
        self._wake = NEVER
        self._floor = 0
        self._offset = rng.randrange(1_000 * SECOND, 1_000_000 * SECOND)
        self._anchor = 0
        self._drift = 0.0
        network.attach(self)

    # -- The process

    def boot(self, node: SimulatedNode) -> None:
        """Start a new process; it steps now. It receives nothing that was sent to its predecessor's socket."""
        self.node = node
        self.booted_at = self._scheduler.now
        self.leaving = False
        self.was_impaired = bool(self._lag or self._drift)
        self.clock_jumped = False
        self._impairment = _SLOW if self._lag else 0
        self._wake = self._delayed_at = NEVER
        self._step_soon()

    def kill(self) -> None:
        """SIGKILL: the socket and its buffered datagrams are gone at once."""
        self.node = None
        self._impairment = _OFF
        self._inbox.clear()
        self._errors.clear()
        self._buffered = 0
        self._wake = self._delayed_at = NEVER

    @property
    def impairment(self) -> str:
        """``off``, ``frozen`` or ``slow``; empty for a healthy host."""
        if self._impairment & _OFF:
            return "off"
        return "frozen" if self._impairment & _FROZEN else "slow" if self._impairment & _SLOW else ""

    @property
    def frozen(self) -> bool:
        return bool(self._impairment & _FROZEN)

    @property
    def runs(self) -> bool:
        """Whether a process exists that can take steps."""
        return not self._impairment & (_OFF | _FROZEN)

    def freeze(self) -> None:
        """SIGSTOP: the socket stays open and fills."""
        if self.node is not None:
            self.was_impaired = True
            self._impairment |= _FROZEN
            self._delayed_at = NEVER

    def resume(self) -> None:
        """SIGCONT: the next step is due now."""
        if self.frozen:
            self._impairment &= ~_FROZEN
            self._step_soon()

    def slow_down(self, lag: float) -> None:
        """Delay every step by ``lag`` seconds, plus or minus half of it. 0 restores full speed."""
        self._lag = microseconds(lag)
        self.was_impaired = self.was_impaired or self._lag > 0
        if self.node is None:
            return
        if self._lag:
            self._impairment |= _SLOW
        else:
            self._impairment &= ~_SLOW
            if not self._impairment:
                self._step_soon()

    def leave(self) -> None:
        """SIGTERM: the process announces that it leaves, then ends. A frozen process does not receive the signal."""
        if self.node is not None and self.runs and not self.leaving:
            self.leaving = True
            self.left_at = self._scheduler.now
            self.node.leave(self.local_time())
            self.poke()

    def poke(self) -> None:
        """Take a step now, as the transport does after a command."""
        self._step_soon()

    # -- Its clock

    def local_time(self) -> float:
        """Seconds on this host's clock, which started long before the world's clock."""
        now = self._scheduler.now
        local = now + self._offset
        if self._drift:
            local += int((now - self._anchor) * self._drift)
        return local / SECOND

    def jump_clock(self, seconds: float) -> None:
        """Move the clock. A resumed virtual machine moves it forward. A backward jump is a kernel or hypervisor bug."""
        self.was_impaired = self.clock_jumped = True
        self._offset += microseconds(seconds)
        self._step_soon()

    def drift_clock(self, rate: float) -> None:
        """From now on the clock gains ``rate`` seconds per second (-0.0002 is 200 ppm slow)."""
        self.was_impaired = True
        local = microseconds(self.local_time())
        self._anchor = self._scheduler.now
        self._offset = local - self._anchor
        self._drift = rate

    def _world_time(self, local: float) -> int:
        """The first microsecond at which :meth:`local_time` has reached ``local``."""
        if local == math.inf:
            return NEVER
        due = int(local * SECOND) + 1 - self._offset
        if self._drift:
            due = self._anchor + int((due - self._anchor) / (1 + self._drift)) + 1
        return due

    # -- Steps

    def _deliver(self, data: bytes, source: Address) -> None:
        node = self.node
        if self._impairment or node is None:
            self._queue(data, source)
            return
        if self.tap is not None:
            self.tap(self, data)
        now = self.local_time() if self._drift else (self._scheduler.now + self._offset) / SECOND
        node.receive_datagram(data, source, now)
        node.handle_timer(now)
        self._finish_step(node)

    def _receive_refusal(self, data: bytes, by: Address) -> None:
        if self.refusal_tap is not None:
            self.refusal_tap(self, data)
        self._deliver_refusal(data, by)

    def _deliver_refusal(self, data: bytes, by: Address) -> None:
        """Put a refusal into the socket's error queue, which is drained before the datagrams."""
        node = self.node
        if node is None:
            return
        if self._impairment:
            self._errors.append((data, by))
            self._step_soon()
            return
        now = self.local_time()
        node.receive_refusal(data, by, now)
        node.handle_timer(now)
        self._finish_step(node)

    def _on_tick(self, pushed_for: int, _: None) -> None:
        node = self.node
        if pushed_for != self._wake or node is None:
            return
        self._wake = NEVER
        if self._impairment:
            if self._impairment == _SLOW:
                self._step_soon()
            return
        scheduler = self._scheduler
        due = max(self._world_time(node.deadline), self._floor)
        if due > scheduler.now:
            self._arm(due)
            return
        node.handle_timer(self.local_time() if self._drift else (scheduler.now + self._offset) / SECOND)
        self._finish_step(node)

    def _finish_step(self, node: SimulatedNode) -> None:
        """Send, report, and sleep until the deadline."""
        if outgoing := node.datagrams_to_send():
            self.sent += len(outgoing)
            send, size = self._network.send, 0
            for to, data in outgoing:
                size += len(data)
                send(self, to, data)
            self.sent_bytes += size
        if events := node.take_events():
            self._on_events(self, events)
            if node.stopped is not None:
                self.kill()
                return
        if self.watch is not None:
            self.watch(self)
        if self.leaving and node.has_left:
            self.kill()
            return
        self._floor = floor = self._scheduler.now + MIN_SLEEP
        deadline = node.deadline
        common = not self._drift and deadline < math.inf  # the common case avoids a call
        due = int(deadline * SECOND) + 1 - self._offset if common else self._world_time(deadline)
        if due < self._wake:
            self._arm(due if due > floor else floor)

    def _arm(self, due: int) -> None:
        if due < self._wake:
            self._wake = due
            scheduler = self._scheduler
            heapq.heappush(scheduler.heap, (due, scheduler.next_order(), self._tick, due, None))

    # -- Steps of an impaired host

    def _queue(self, data: bytes, source: Address) -> None:
        """Buffer a datagram in the socket. A full buffer drops it. Without a process, the kernel refuses it."""
        if self._impairment & _OFF:
            self._network.refuse(self, data, source)
            return
        size = len(data) + BUFFER_OVERHEAD
        if self._buffered + size > BUFFER_BYTES:
            self.overflowed += 1
            return
        self._buffered += size
        self._inbox.append((data, source))
        if not self._impairment & _FROZEN:
            self._step_soon()

    def _step_soon(self) -> None:
        """Schedule the next step: now, or later by this host's lag."""
        if self.node is None or self._impairment & _FROZEN:
            return
        delay = int(self._lag * (0.5 + self._rng.random())) if self._lag else 0
        self._schedule_step(self._scheduler.now + delay)

    def _schedule_step(self, due: int) -> None:
        if self._delayed_at == NEVER:
            self._delayed_at = due
            self._scheduler.push(due, self._delayed, due)

    def _delayed_step(self, pushed_for: int, _: None) -> None:
        node = self.node
        if node is None or pushed_for != self._delayed_at:
            return
        self._delayed_at = NEVER
        now = self.local_time()
        while self._errors:
            node.receive_refusal(*self._errors.popleft(), now)
        drained = min(DRAIN_LIMIT, len(self._inbox))
        for _unused in range(drained):
            data, source = self._inbox.popleft()
            self._buffered -= len(data) + BUFFER_OVERHEAD
            if self.tap is not None:
                self.tap(self, data)
            node.receive_datagram(data, source, now)
        node.handle_timer(now)
        self._finish_step(node)
        if self._inbox and self.node is node:
            self._schedule_step(self._scheduler.now + drained * DRAIN_COST)
