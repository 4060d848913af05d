"""A machine: an address, a clock of its own, a socket buffer, and the process that runs on it, if any.

A step is what ``gossip.transport`` does at each wake-up: hand over what the socket holds (a capped number), then
``handle_timer``, then send, then sleep until ``max(deadline, now + 1 ms)`` or the next datagram. A host in good health
steps at the microsecond its datagram arrives. A frozen one (SIGSTOP) does not step while its buffer fills up and
overflows; on waking it steps at once. A slow one (starved of CPU) takes each step late.
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
FLOOR = 1_000
"""Microseconds: the shell never sleeps for less, so that an overdue deadline cannot starve the socket."""
DRAIN = 256
"""Datagrams handed over in one step."""
DRAIN_COST = 30
"""Microseconds each datagram of a full drain takes the process; the next step starts after it."""
BUFFER_BYTES = 2 * 2**20
"""SO_RCVBUF of 1 MB, which Linux doubles for its own bookkeeping."""
BUFFER_OVERHEAD = 704
"""Bytes the kernel charges a datagram beyond its payload, about."""

_OFF, _FROZEN, _SLOW = 1, 2, 4


class HostNetwork(Protocol):
    """What a host asks of the network, which itself knows all hosts."""

    scheduler: Scheduler

    def attach(self, host: SimulatedHost) -> None: ...

    def send(self, source: SimulatedHost, to: Address, data: bytes) -> None: ...

    def refuse(self, host: SimulatedHost, data: bytes, to: Address) -> None: ...


class SimulatedHost:
    """One machine in the world. ``arrive`` and ``tick`` are scheduler actions."""

    __slots__ = (
        "_anchor",
        "_buffered",
        "_drift",
        "_errors",
        "_floor",
        "_hindrance",
        "_inbox",
        "_lag",
        "_late",
        "_late_at",
        "_network",
        "_offset",
        "_on_events",
        "_rng",
        "_scheduler",
        "_tick",
        "_wake",
        "address",
        "arrive",
        "booted_at",
        "clock_jumped",
        "deceived",
        "index",
        "key",
        "leaving",
        "left_at",
        "mistreated",
        "node",
        "overflowed",
        "receives_from",
        "refusal_tap",
        "refused",
        "sends_into",
        "sent",
        "sent_bytes",
        "tap",
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
        """When the present process started, in microseconds of the world."""
        self.leaving = False
        self.left_at = 0
        """When it was asked to leave, in microseconds of the world."""
        self.mistreated = False
        """Whether the present process was ever frozen, slowed, or given a strange clock."""
        self.clock_jumped = False
        self.sends_into = self.receives_from = 0
        self.sent = self.sent_bytes = self.overflowed = 0
        self.tap: Callable[[SimulatedHost, bytes], None] | None = None
        """Called with each datagram before the process takes it in."""
        self.refusal_tap: Callable[[SimulatedHost, bytes], None] | None = None
        """Called with each datagram of its own that was truly refused, as the refusal comes in."""
        self.watch: Callable[[SimulatedHost], None] | None = None
        """Called after each step, once everything it did has been sent."""
        self.arrive: Action = self._deliver
        self.refused: Action = self._hear_refusal
        self.deceived: Action = self._take_refusal
        """A refusal arrives, a true one or a forged one."""
        self._tick: Action = self._on_tick
        self._late: Action = self._step_late
        self._network = network
        self._scheduler: Scheduler = network.scheduler
        self._on_events = on_events
        self._rng = rng
        self._inbox: deque[tuple[bytes, Address]] = deque()
        self._errors: deque[tuple[bytes, Address]] = deque(maxlen=DRAIN)
        self._buffered = 0
        self._hindrance = _OFF
        self._lag = 0
        self._late_at = NEVER
        self._wake = NEVER
        self._floor = 0
        self._offset = rng.randrange(1_000 * SECOND, 1_000_000 * SECOND)
        self._anchor = 0
        self._drift = 0.0
        network.attach(self)

    # -- The process

    def boot(self, node: SimulatedNode) -> None:
        """A fresh process takes its first step now; it sees nothing that was sent to its predecessor's socket."""
        self.node = node
        self.booted_at = self._scheduler.now
        self.leaving = False
        self.mistreated = bool(self._lag or self._drift)
        self.clock_jumped = False
        self._hindrance = _SLOW if self._lag else 0
        self._wake = self._late_at = NEVER
        self._step_soon()

    def kill(self) -> None:
        """SIGKILL: the socket and what it held are gone at once."""
        self.node = None
        self._hindrance = _OFF
        self._inbox.clear()
        self._errors.clear()
        self._buffered = 0
        self._wake = self._late_at = NEVER

    @property
    def hindrance(self) -> str:
        """What keeps the process from taking its steps in time, in a word; empty for a healthy host."""
        if self._hindrance & _OFF:
            return "off"
        return "frozen" if self._hindrance & _FROZEN else "slow" if self._hindrance & _SLOW else ""

    @property
    def frozen(self) -> bool:
        return bool(self._hindrance & _FROZEN)

    @property
    def runs(self) -> bool:
        """Whether a process is here that can take steps."""
        return not self._hindrance & (_OFF | _FROZEN)

    def freeze(self) -> None:
        """SIGSTOP. Its socket stays open and fills."""
        if self.node is not None:
            self.mistreated = True
            self._hindrance |= _FROZEN
            self._late_at = NEVER

    def thaw(self) -> None:
        """SIGCONT: the next step is due now."""
        if self.frozen:
            self._hindrance &= ~_FROZEN
            self._step_soon()

    def slow_down(self, lag: float) -> None:
        """Take every step ``lag`` seconds late, give or take half of it; 0 is full speed again."""
        self._lag = microseconds(lag)
        self.mistreated = self.mistreated or self._lag > 0
        if self.node is None:
            return
        if self._lag:
            self._hindrance |= _SLOW
        else:
            self._hindrance &= ~_SLOW
            if not self._hindrance:
                self._step_soon()

    def leave(self) -> None:
        """SIGTERM: the process says goodbye and ends when it has been heard. A frozen one hears nothing."""
        if self.node is not None and self.runs and not self.leaving:
            self.leaving = True
            self.left_at = self._scheduler.now
            self.node.leave(self.local_time())
            self.poke()

    def poke(self) -> None:
        """Take a step now, as the shell does after it was handed a command."""
        self._step_soon()

    # -- Its clock

    def local_time(self) -> float:
        """Seconds on this host's own clock, which started long before the world's."""
        now = self._scheduler.now
        local = now + self._offset
        if self._drift:
            local += int((now - self._anchor) * self._drift)
        return local / SECOND

    def jump_clock(self, seconds: float) -> None:
        """Move the clock. Forwards is what a resumed virtual machine does; backwards should never happen, and might."""
        self.mistreated = self.clock_jumped = True
        self._offset += microseconds(seconds)
        self._step_soon()

    def drift_clock(self, rate: float) -> None:
        """Let the clock gain ``rate`` seconds a second from now on (-0.0002 is 200 ppm slow)."""
        self.mistreated = True
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
        if self._hindrance or node is None:
            self._queue(data, source)
            return
        if self.tap is not None:
            self.tap(self, data)
        now = self.local_time() if self._drift else (self._scheduler.now + self._offset) / SECOND
        node.receive_datagram(data, source, now)
        node.handle_timer(now)
        self._finish_step(node)

    def _hear_refusal(self, data: bytes, by: Address) -> None:
        if self.refusal_tap is not None:
            self.refusal_tap(self, data)
        self._take_refusal(data, by)

    def _take_refusal(self, data: bytes, by: Address) -> None:
        """Into the socket's queue of errors, which is drained before the datagrams."""
        node = self.node
        if node is None:
            return
        if self._hindrance:
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
        if self._hindrance:
            if self._hindrance == _SLOW:
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
        self._floor = floor = self._scheduler.now + FLOOR
        deadline = node.deadline
        well = not self._drift and deadline < math.inf  # by far the most: spared a call
        due = int(deadline * SECOND) + 1 - self._offset if well else self._world_time(deadline)
        if due < self._wake:
            self._arm(due if due > floor else floor)

    def _arm(self, due: int) -> None:
        if due < self._wake:
            self._wake = due
            scheduler = self._scheduler
            heapq.heappush(scheduler.heap, (due, scheduler.next_order(), self._tick, due, None))

    # -- Steps of a host that is not well

    def _queue(self, data: bytes, source: Address) -> None:
        """Into the socket buffer, which drops the newest when it is full. Where no process is, the kernel refuses."""
        if self._hindrance & _OFF:
            self._network.refuse(self, data, source)
            return
        size = len(data) + BUFFER_OVERHEAD
        if self._buffered + size > BUFFER_BYTES:
            self.overflowed += 1
            return
        self._buffered += size
        self._inbox.append((data, source))
        if not self._hindrance & _FROZEN:
            self._step_soon()

    def _step_soon(self) -> None:
        """The next step: now, or as late as this host is slow."""
        if self.node is None or self._hindrance & _FROZEN:
            return
        late = int(self._lag * (0.5 + self._rng.random())) if self._lag else 0
        self._push_late(self._scheduler.now + late)

    def _push_late(self, due: int) -> None:
        if self._late_at == NEVER:
            self._late_at = due
            self._scheduler.push(due, self._late, due)

    def _step_late(self, pushed_for: int, _: None) -> None:
        node = self.node
        if node is None or pushed_for != self._late_at:
            return
        self._late_at = NEVER
        now = self.local_time()
        while self._errors:
            node.receive_refusal(*self._errors.popleft(), now)
        drained = min(DRAIN, len(self._inbox))
        for _unused in range(drained):
            data, source = self._inbox.popleft()
            self._buffered -= len(data) + BUFFER_OVERHEAD
            if self.tap is not None:
                self.tap(self, data)
            node.receive_datagram(data, source, now)
        node.handle_timer(now)
        self._finish_step(node)
        if self._inbox and self.node is node:
            self._push_late(self._scheduler.now + drained * DRAIN_COST)
