"""The worker's process is found by its listening socket, again after each restart, and told apart from its children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from agents import Agent, has
from limits import LIVENESS_LIMIT
from test_worker_process import watching

from bench.ports import reserved_port
from rumormill.sidecar.settings_values import HostPort
from rumormill.sidecar.socket_owner import OwnerNotFound, find_owner, listening_at, resolve

SERVER = """
import os, socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
child = 0
if "fork" in sys.argv[3:] and not (child := os.fork()):
    sys.stdin.close()
    os.close(0)
    os.open("/dev/null", os.O_RDONLY)
    import time; time.sleep(1000)
print(listener.getsockname()[1], child, flush=True)
while True:
    connection = listener.accept()[0]
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    connection.close()
"""


class Server:
    """A worker in a process of its own, which may have a child that inherited its socket."""

    def __init__(self, port: int | None = None, host: str = "127.0.0.1", *more: str) -> None:
        port = reserved_port() if port is None else port
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, host, str(port), *more], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.port, self.child = map(int, self.process.stdout.readline().split())
        self.pid = self.process.pid
        self.endpoint = HostPort("127.0.0.1", self.port)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if self.child:
            with_child = f"/proc/{self.child}/stat"
            if Path(with_child).exists():
                os.kill(self.child, signal.SIGKILL)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        server.close()


async def test_a_worker_is_found_again_under_each_new_process_id(servers: list[Server]) -> None:
    port = reserved_port()
    async with watching(listens_on=HostPort("127.0.0.1", port)) as watched:
        await watched.until("no process of this machine listens on")
        for life in range(1, 4):
            servers.append(server := Server(port))
            await watched.until(f"process {server.pid} is watched")
            server.kill()
            await watched.until(f"process {server.pid} has ended; waiting for another to listen")
            assert (watched.said.count("start"), watched.said.count("end")) == (life, life)


async def test_a_process_given_by_its_id_is_found_again_by_its_socket(servers: list[Server]) -> None:
    servers.append(first := Server())
    async with watching(first.pid, listens_on=first.endpoint) as watched:
        await watched.until(f"process {first.pid} is watched")
        first.kill()
        await watched.until(f"process {first.pid} has ended; waiting for another to listen")
        servers.append(second := Server(first.port))
        await watched.until(f"process {second.pid} is watched")


async def test_the_parent_is_the_worker_and_its_end_alone_is_no_proof(servers: list[Server]) -> None:
    servers.append(server := Server(None, "127.0.0.1", "fork"))
    async with watching(listens_on=server.endpoint) as watched:
        await watched.until(f"process {server.pid} is watched")
        server.kill()
        await watched.until(f"process {server.pid} has ended, but another one listens on the same socket")
        await watched.until(f"process {server.child} is watched")
        assert "end" not in watched.said
        os.kill(server.child, signal.SIGKILL)
        await watched.until(f"process {server.child} has ended; waiting")
        assert watched.said.count("end") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_sockets_are_found_at_their_addresses(servers: list[Server], host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        asked = "[::1]" if ":" in host else "127.0.0.1"
        found = listening_at(resolve(HostPort.parse(f"{asked}:{port}")))
        assert [entry.inode for entry in found] == [os.fstat(listener.fileno()).st_ino]
        assert found[0].uid == os.geteuid()
        assert not listening_at(resolve(HostPort("127.0.0.9", port))) or host in ("0.0.0.0", "::")


def test_a_process_that_may_not_be_looked_at_is_told_plainly_and_not_searched_again(servers: list[Server]) -> None:
    """This very process counts as one that cannot be watched."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = resolve(HostPort("localhost", listener.getsockname()[1]))
        with pytest.raises(OwnerNotFound, match=f"a process of user {os.geteuid()} listens on localhost") as caught:
            find_owner(place)
        assert caught.value.inodes == {os.fstat(listener.fileno()).st_ino}
        with pytest.raises(OwnerNotFound, match="use --worker-pid-file"):
            find_owner(place, caught.value.inodes)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")
def test_another_users_process_is_named_with_its_user(servers: list[Server]) -> None:
    servers.append(server := Server())
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            find_owner(resolve(server.endpoint))
            os._exit(1)
        except OwnerNotFound as error:
            os._exit(0 if "of user 0 listens" in str(error) and "as that user or as root" in str(error) else 2)
        except BaseException:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def test_an_agent_follows_its_worker_without_being_told_an_id(servers: list[Server]) -> None:
    servers.append(first := Server())
    async with trio.open_nursery() as nursery:
        flags = ("--worker-pid", "auto", "--worker-check-period", "200ms")
        agent = await Agent.start(nursery, "w1", f"http://127.0.0.1:{first.port}", *flags)
        await agent.logged("process", text=f"process {first.pid} is watched: it listens on {first.endpoint}")
        await agent.until(has("w1", readiness="passing"))
        first.kill()
        await agent.until(has("w1", readiness="critical"))
        servers.append(second := Server(first.port))
        await agent.until(has("w1", readiness="passing"))
        with trio.fail_after(LIVENESS_LIMIT):
            while not (await agent.ask("/v1/status"))["worker_process"].startswith(f"process {second.pid} is watched"):
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
