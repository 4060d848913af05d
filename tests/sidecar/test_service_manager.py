"""What systemd is told, and when. Virtual time, and a real datagram socket in systemd's place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
from serving import Sidecar

from rumormill.sidecar.service_manager import ALONE_SECONDS, ServiceManager, state_line


class Manager:
    """A service manager's socket, and the state of the agent that reports to it."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self.status = msgspec.structs.replace(Sidecar().status(), joined=False, unready="the worker is starting")
        self.turns = 0

    def heard(self) -> list[str]:
        lines = []
        while True:
            try:
                lines += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines

    def becomes(self, **changes: object) -> None:
        self.status = msgspec.structs.replace(self.status, **changes)

    def watched(self, address: str, **variables: str) -> ServiceManager:
        environment = {"NOTIFY_SOCKET": address, **variables}
        return ServiceManager.of(environment, lambda: self.status, lambda: self.turns)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.socket.close()


async def test_it_is_ready_when_the_worker_is_and_the_pool_is_joined(
    manager: Manager, tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(manager.watched(str(tmp_path / "notify")).run)
    await trio.sleep(5)
    assert manager.heard() == ["STATUS=not ready: the worker is starting; connected; 2 other members alive"]
    manager.becomes(unready="")
    await trio.sleep(5)
    assert "READY=1" not in manager.heard(), "it has not joined"
    manager.becomes(joined=True)
    await trio.sleep(5)
    assert manager.heard() == ["READY=1"]
    manager.becomes(unready="the worker is critical: refused")
    await trio.sleep(5)
    manager.becomes(unready="")
    await trio.sleep(5)
    assert "READY=1" not in manager.heard(), "it is said once"


async def test_a_member_that_finds_no_other_is_ready_after_a_while(
    manager: Manager, tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    manager.becomes(unready="")
    nursery.start_soon(manager.watched(str(tmp_path / "notify")).run)
    await trio.sleep(ALONE_SECONDS - 5)
    assert "READY=1" not in manager.heard()
    await trio.sleep(10)
    assert "READY=1" in manager.heard()


async def test_the_watchdog_hears_of_turns_and_not_of_a_loop_that_hangs(
    manager: Manager, tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    nursery.start_soon(manager.watched(str(tmp_path / "notify"), **ours).run)
    for _ in range(90):  # ten turns between two looks
        manager.turns += 1
        await trio.sleep(0.1)
    assert manager.heard().count("WATCHDOG=1") >= 8
    await trio.sleep(2)
    manager.heard()
    await trio.sleep(60)
    assert "WATCHDOG=1" not in manager.heard()


async def test_another_process_is_watched(
    manager: Manager, tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(manager.watched(str(tmp_path / "notify"), WATCHDOG_USEC="3000000", WATCHDOG_PID="1").run)
    manager.turns = 1
    await trio.sleep(60)
    assert "WATCHDOG=1" not in manager.heard()


def test_stopping_asks_for_the_time_it_takes(manager: Manager, tmp_path: Path) -> None:
    manager.watched(str(tmp_path / "notify")).stopping(36)
    assert manager.heard() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=36000000"]


def test_an_abstract_socket_is_reached_too() -> None:
    manager = Manager(f"\0rumormill-{os.getpid()}")
    manager.watched(f"@rumormill-{os.getpid()}").stopping(1)
    assert manager.heard()[0] == "STOPPING=1"
    manager.socket.close()


def test_nobody_wants_reports(manager: Manager) -> None:
    manager.watched("").stopping(1)
    assert manager.heard() == []


def test_a_manager_that_does_not_read_or_has_gone_holds_nothing_up(manager: Manager, tmp_path: Path) -> None:
    agent = manager.watched(str(tmp_path / "notify"))
    for _ in range(5000):
        agent.stopping(1)
    assert 0 < len(manager.heard()) < 10000
    manager.socket.close()
    agent.stopping(1)


def test_the_variables_are_taken_out_of_the_environment() -> None:
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    ServiceManager.of(environment, Sidecar().status, lambda: 0)
    assert environment == {"PATH": "/bin"}


def test_the_line_is_one_line() -> None:
    status = msgspec.structs.replace(Sidecar().status(), unready="one\ntwo")
    assert state_line(status) == "not ready: one two; connected; 2 other members alive"
