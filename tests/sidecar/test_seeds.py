"""Seeds are names that are resolved again and again. A name server that fails removes no seed."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import trio

from rumormill.membership.record import Address
from rumormill.sidecar.seeds import SeedResolver
from rumormill.sidecar.settings_values import HostPort

Answer = list[str] | OSError


class NameServer(trio.abc.HostnameResolver):
    """Answers from a table that a test changes."""

    def __init__(self) -> None:
        self.table: dict[str, Answer] = {}
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        self.asked += 1
        answer = self.table[host.decode() if isinstance(host, bytes) else host]
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, port)) for address in answer]

    async def getnameinfo(self, *_: Any) -> Any:
        raise AssertionError("nobody asks for names of addresses")


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    server = NameServer()
    trio.socket.set_custom_hostname_resolver(server)
    yield server
    trio.socket.set_custom_hostname_resolver(None)


class Told:
    """What the node and the operator were told."""

    def __init__(self) -> None:
        self.contacts: list[Address] = []
        self.trouble: list[str] = []
        self.joined = False

    def contacts_of(self, *seeds: str, remembered: Sequence[Address] = (), loopback: bool = False) -> SeedResolver:
        return SeedResolver(
            [HostPort.parse(seed) for seed in seeds],
            remembered,
            family=socket.AF_INET,
            loopback=loopback,
            rng=random.Random(1),
            set_seeds=lambda addresses: setattr(self, "contacts", list(addresses)),
            joined=lambda: self.joined,
            on_trouble=lambda seed, why: self.trouble.append(f"{seed}: {why}"),
        )


async def test_ip_addresses_and_restored_addresses_are_published_at_once_and_once() -> None:
    told = Told()
    contacts = told.contacts_of("10.0.0.1:7946", remembered=[("10.0.0.2", 7946), ("10.0.0.1", 7946)])
    assert told.contacts == [("10.0.0.1", 7946), ("10.0.0.2", 7946)]
    await contacts.run()


async def test_names_are_followed(names: NameServer, autojump_clock: trio.abc.Clock) -> None:
    told = Told()
    names.table["pool"] = OSError(-2, "Name or service not known")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.contacts_of("pool:7946", "10.0.0.9:7946").run)
        await trio.sleep(2)
        assert told.trouble == ["pool:7946: Name or service not known"]
        assert told.contacts == [("10.0.0.9", 7946)]
        names.table["pool"] = ["10.0.0.1", "10.0.0.2", "10.0.0.1"]
        await trio.sleep(5)
        assert told.contacts == [("10.0.0.1", 7946), ("10.0.0.2", 7946), ("10.0.0.9", 7946)]
        told.joined = True
        names.table["pool"] = OSError(-3, "Temporary failure in name resolution")
        await trio.sleep(100)
        assert ("10.0.0.1", 7946) in told.contacts, "a name server that is down takes nobody out"
        resolving = [line for line in told.trouble if "no seed" not in line]
        assert len(resolving) == 2, "trouble is told when it begins, not at every attempt"
        assert len(told.trouble) == 3, "and once that nobody has answered at all"
        names.table["pool"] = ["10.0.0.3"]
        await trio.sleep(100)
        assert told.contacts == [("10.0.0.3", 7946), ("10.0.0.9", 7946)]
        nursery.cancel_scope.cancel()


async def test_a_name_is_asked_for_often_at_first_and_seldom_later(
    names: NameServer, autojump_clock: trio.abc.Clock
) -> None:
    told = Told()
    names.table["pool"] = ["10.0.0.1"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.contacts_of("pool:7946").run)
        await trio.sleep(5)
        assert names.asked >= 3
        told.joined = True
        await trio.sleep(60)
        before = names.asked
        await trio.sleep(600)
        assert 15 <= names.asked - before <= 28
        nursery.cancel_scope.cancel()


async def test_a_headless_service_of_a_large_pool_is_bounded(names: NameServer, autojump_clock: trio.abc.Clock) -> None:
    told = Told()
    names.table["pool"] = [f"10.0.{i // 250}.{i % 250}" for i in range(1000)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.contacts_of("pool:7946").run)
        await trio.sleep(1)
        assert len(told.contacts) == 64
        nursery.cancel_scope.cancel()


async def test_a_name_that_loopback_cannot_reach_is_reported_once(
    names: NameServer, autojump_clock: trio.abc.Clock
) -> None:
    told = Told()
    names.table |= {"far": ["198.51.100.7", "198.51.100.8"], "near": ["127.0.0.1"]}
    told.joined = True
    with trio.move_on_after(100):
        await told.contacts_of("far:7946", "near:7946", loopback=True).run()
    assert names.asked > 4
    [only] = told.trouble
    assert only.startswith("far:7946: it resolves to 198.51.100.7, but --gossip is a loopback address")
    with trio.move_on_after(100):
        await told.contacts_of("far:7946").run()
    assert told.trouble == [only], "from another address it can be reached"
