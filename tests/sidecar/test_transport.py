"""The shell around a Node: bytes in, bytes out, one timer, and no error in sending stops it."""

from __future__ import annotations

import errno
import os
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
import trio.testing
from limits import LIVENESS_LIMIT

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip import Node, NodeConfig, Profile, ProtocolSettings
from rumormill.gossip.udp.transport import DRAIN_CAP, GossipTransport, bind_udp, boot_clock, missing_options
from rumormill.membership.record import Readiness
from rumormill.membership.view import Event, PoolView

LONG = 10.0
"""A period in seconds, so long that no test here sees what waits for the next heartbeat."""


class Peer:
    """A node on its own socket, and what its shell has reported."""

    def __init__(self, name: str, sock: socket.socket, period: float = 0.2) -> None:
        self.sock = sock
        self.address = sock.getsockname()[:2]
        self.node = Node(
            NodeConfig(
                policy_schema=POLICY_SCHEMA,
                name=name,
                address=self.address,
                cluster="tests",
                profile=self.profile(Readiness.PASSING),
                keyring=None,
                settings=ProtocolSettings(period=period),
            ),
            rng=random.Random(name),
            token_bytes=os.urandom,
            now=boot_clock(),
        )
        self.views: list[PoolView] = []
        self.events: list[Event] = []
        self.transport = GossipTransport(self.node, sock, on_change=self._on_change, on_events=self.events.extend)
        self.news = trio.Event()

    @staticmethod
    def profile(readiness: Readiness) -> Profile:
        return Profile(service="embed", url="http://127.0.0.1:9001", readiness=readiness)

    def _on_change(self) -> None:
        self.views.append(self.node.view)
        self.news.set()
        self.news = trio.Event()

    async def until(self, words: dict[str, Readiness]) -> None:
        """Wait until it holds exactly these members, in these states."""
        with trio.fail_after(LIVENESS_LIMIT):
            while {m.name: m.readiness for m in self.node.view.members if m.liveness.present} != words:
                await self.news.wait()


@contextmanager
def bound(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    with bind_udp((host, 0)) as sock:
        yield sock


@asynccontextmanager
async def two(period: float = 0.2) -> AsyncIterator[tuple[Peer, Peer, trio.Nursery]]:
    with bound() as one, bound() as other:
        a, b = Peer("a", one, period), Peer("b", other, period)
        b.node.set_seeds([a.address])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.transport.run)
            nursery.start_soon(b.transport.run)
            for peer in (a, b):
                await peer.until({"a": Readiness.PASSING, "b": Readiness.PASSING})
            yield a, b, nursery
            nursery.cancel_scope.cancel()


async def test_two_meet_and_what_one_says_reaches_the_other_at_once() -> None:
    async with two(LONG) as (a, b, _):
        assert a.views[-1] is a.node.view
        assert [event.kind for event in a.events][:1] == ["joined"]
        a.node.update(Peer.profile(Readiness.DRAINING), boot_clock())
        a.transport.wake()
        await b.until({"a": Readiness.DRAINING, "b": Readiness.PASSING})
        assert a.transport.lag >= 0


async def test_a_poke_is_not_lost_when_it_comes_while_the_shell_is_busy() -> None:
    async with two() as (a, b, _):
        on_change = b._on_change

        def answer() -> None:
            on_change()
            if any(member.readiness is Readiness.DRAINING for member in b.node.view.members if member.name == "a"):
                b.node.update(Peer.profile(Readiness.WARNING), boot_clock())
                b.transport.wake()

        b.transport._on_change = answer
        a.node.update(Peer.profile(Readiness.DRAINING), boot_clock())
        a.transport.wake()
        await a.until({"a": Readiness.DRAINING, "b": Readiness.WARNING})


async def test_run_returns_when_the_node_has_left() -> None:
    async with two() as (a, b, nursery):
        done = trio.Event()

        async def third() -> None:
            with bound() as sock:
                c = Peer("c", sock)
                c.node.set_seeds([a.address])
                async with trio.open_nursery() as inner:
                    inner.start_soon(self_run, c)
                    await c.until(dict.fromkeys("abc", Readiness.PASSING))
                    c.node.leave(boot_clock())
                    c.transport.wake()
            done.set()

        async def self_run(peer: Peer) -> None:
            await peer.transport.run()

        nursery.start_soon(third)
        with trio.fail_after(LIVENESS_LIMIT):
            await done.wait()
        await b.until({"a": Readiness.PASSING, "b": Readiness.PASSING})


class Noticed(Counter[str]):
    """Counters that set an event at their first count."""

    def __init__(self) -> None:
        super().__init__()
        self.began = trio.Event()

    def __setitem__(self, name: str, value: int) -> None:
        super().__setitem__(name, value)
        self.began.set()


async def test_what_cannot_be_sent_is_counted() -> None:
    async with two() as (a, b, _):
        a.transport.counters = counters = Noticed()
        a.node.set_seeds([b.address, ("::1", 9), ("10.255.255.1", 9), ("127.0.0.1", 1)])
        with trio.fail_after(LIVENESS_LIMIT):
            await counters.began.wait()
        assert all(name.startswith("send_") for name in counters), counters
        b.node.update(Peer.profile(Readiness.WARNING), boot_clock())
        b.transport.wake()
        await a.until({"a": Readiness.PASSING, "b": Readiness.WARNING})


async def test_a_flood_leaves_room_for_other_tasks() -> None:
    async with two() as (a, b, _):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(3):
                for _ in range(2 * DRAIN_CAP):
                    sender.sendto(b"x" * 40, a.address)
                await trio.lowlevel.checkpoint()
        a.node.update(Peer.profile(Readiness.WARNING), boot_clock())
        a.transport.wake()
        await b.until({"a": Readiness.WARNING, "b": Readiness.PASSING})


@pytest.mark.parametrize("leap", [0.0, 3600.0, -3600.0])
async def test_a_datagram_counts_from_when_it_came_in(leap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late we read a datagram. A jump of the wall clock sets no arrival before our last read."""
    taken: list[tuple[float, float]] = []
    clock, late = time.clock_gettime, 1000.0
    with bound() as sock, bound() as sender:
        a = Peer("a", sock)
        monkeypatch.setattr(a.node, "receive_datagram", lambda _data, _source, *times: taken.append(times))
        async with trio.open_nursery() as nursery:
            started = boot_clock()
            nursery.start_soon(a.transport.run)
            await trio.testing.wait_all_tasks_blocked()
            before = boot_clock()
            sender.sendto(b"x" * 40, a.address)
            after = boot_clock()
            monkeypatch.setattr(
                time, "clock_gettime", lambda which: clock(which) + late + leap * (which == time.CLOCK_REALTIME)
            )
            with trio.fail_after(LIVENESS_LIMIT):
                while not taken:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    ((now, arrived),) = taken
    assert now >= before + late
    if leap > 0:
        assert started <= arrived <= before
    elif leap < 0:
        assert arrived == now
    else:
        assert before - 0.001 <= arrived <= after + 0.001


def test_a_socket_has_room_for_a_burst_and_ipv6_is_its_own_family() -> None:
    with bound() as sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 200_000
    with bound("::1") as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    with bound() as sock, pytest.raises(OSError, match="in use"):
        bind_udp(sock.getsockname())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_process_that_ends_is_found_by_its_kernels_refusal(host: str) -> None:
    """Sockets of the real kernel: its error queue, control messages, and a send that raises for an earlier datagram."""
    with bound(host) as one, bound(host) as other, bound(host) as third:
        a, b, c = Peer("a", one, LONG), Peer("b", other, LONG), Peer("c", third, LONG)
        life = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            for peer in (b, c):
                peer.node.set_seeds([a.address])
            nursery.start_soon(a.transport.run)
            nursery.start_soon(b.transport.run)
            nursery.start_soon(_run_within, life, c)
            for peer in (a, b, c):
                await peer.until(dict.fromkeys("abc", Readiness.PASSING))
            life.cancel()
            await trio.lowlevel.checkpoint()
            third.close()
            for peer in (a, b):
                await peer.until(dict.fromkeys("ab", Readiness.PASSING))
            nursery.cancel_scope.cancel()
    assert {event.member for peer in (a, b) for event in peer.events if event.kind == "evicted"} == {"c"}
    assert all(peer.node.counters["refusals"] >= 3 for peer in (a, b))
    assert not any(name.startswith("send_") for peer in (a, b) for name in peer.transport.counters)
    assert not any(peer.node.counters["pauses"] for peer in (a, b)), "times were handed on out of order"


async def _run_within(scope: trio.CancelScope, peer: Peer) -> None:
    with scope:
        await peer.transport.run()


async def test_without_refusals_nothing_is_heard_of_them() -> None:
    with bind_udp(("127.0.0.1", 0), refusals=False) as sock:
        a = Peer("a", sock)
        a.node.set_seeds([("127.0.0.1", 1)])
        with trio.move_on_after(0.3):
            await a.transport.run()
        assert a.node.counters["sent"] > 0
        assert a.node.counters["refusals"] == 0
        assert not a.transport.counters


class IgnorantSocket(socket.socket):
    """A socket of a kernel without timestamps and without an error queue."""

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        if (level, option) in ((socket.SOL_SOCKET, 35), (socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25)):
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        super().setsockopt(level, option, *value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_gossip_goes_without_what_a_kernel_does_not_know(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with bind_udp((host, 0)) as sock:
        assert missing_options(sock) == []
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", IgnorantSocket)
        one, other = bind_udp((host, 0)), bind_udp((host, 0))
    with one, other:
        stamps, refusals = missing_options(one)
        assert "timestamp datagrams" in stamps
        assert "ICMP refusals" in refusals
        assert missing_options(one, refusals=False) == [stamps]
        a, b = Peer("a", one), Peer("b", other)
        b.node.set_seeds([a.address])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.transport.run)
            nursery.start_soon(b.transport.run)
            for peer in (a, b):
                await peer.until({"a": Readiness.PASSING, "b": Readiness.PASSING})
            nursery.cancel_scope.cancel()
