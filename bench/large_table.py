"""A table of 5000 members in one real sidecar: ``python -m bench.large_table`` (two minutes).

One agent runs as a process. The other members live here, behind one socket. Each is a real Node that only answers and
has no timer, except one, the *feeder*. All of them share one table. The three members that the agent monitors send it
heartbeats. The bench reports how long the agent takes to learn all members, how fast it answers HTTP meanwhile and
afterwards, whether its heartbeats keep their period, how long 1000 simultaneous metadata changes take, and memory.
"""

from __future__ import annotations

import gc
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import click
import httpx2
import msgspec
import trio

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip import Node, NodeConfig, Profile
from rumormill.gossip.security.seal import HEADER
from rumormill.gossip.udp.transport import LONGEST_DATAGRAM, bind_udp, boot_clock
from rumormill.gossip.wire import Heartbeat, decode_untrusted
from rumormill.membership.member_state import MemberState
from rumormill.membership.monitors import subjects_of
from rumormill.membership.record import Readiness

PERIOD = 0.2
TIMEOUT = 300.0
PROFILE = Profile("embed", "http://127.0.0.1:9001", readiness=Readiness.PASSING)


class CrowdMember(Node):
    """A member that only answers: it has no timer, shares the feeder's table, and monitors no one.

    So thousands fit into one process. It says what the bench tells it to say.
    """

    def know(self, row: MemberState) -> None:
        """Take a member into the table without telling anybody."""
        self._parts.table_changes.apply(row, quietly=True)

    def share_table(self, feeder: Node) -> None:
        self._state.table = feeder.table
        self._failure_detector.reassign_monitors = _never  # type: ignore[method-assign]

    def say(self, target: MemberState, beat: Heartbeat) -> None:
        self._state.send(target, beat)


class LargeCrowd:
    """The members in this process, by member id. ``feeder`` has a timer and knows all of them."""

    def __init__(self, size: int) -> None:
        self.sock = bind_udp(("127.0.0.1", 0), refusals=False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.feeder = self._node("feeder")
        self.members: dict[bytes, CrowdMember] = {}
        for number in range(size - 2):
            node = self._node(f"m{number:04}")
            self.members[node.inspect().me.member_id] = node
            self.feeder.know(node.inspect().me)
            node.share_table(self.feeder)
        self.agent: MemberState | None = None
        self.gaps: list[float] = []
        """Seconds between the agent's heartbeats to one member."""
        self._last: dict[bytes, float] = {}

    def _node(self, name: str) -> CrowdMember:
        return CrowdMember(
            NodeConfig(
                policy_schema=POLICY_SCHEMA,
                name=name,
                address=self.sock.getsockname(),
                cluster="bench",
                profile=PROFILE,
                keyring=None,
            ),
            rng=random.Random(name),
            token_bytes=os.urandom,
            now=boot_clock(),
        )

    async def run(self) -> None:
        """Receive datagrams, and run the feeder's timer."""
        while True:
            with trio.move_on_after(max(self.feeder.deadline - boot_clock(), 0.001)):
                await trio.lowlevel.wait_readable(self.sock)
            self._drain()
            self.feeder.handle_timer(boot_clock())
            self._send(self.feeder)
            await trio.lowlevel.checkpoint()

    def _drain(self) -> None:
        for _ in range(256):
            try:
                data, source = self.sock.recvfrom(LONGEST_DATAGRAM)
            except BlockingIOError:
                return
            _, _, _, sender, receiver, _ = HEADER.unpack_from(data)
            node = self.members.get(receiver, self.feeder)
            if self.agent is not None and sender == self.agent.member_id and node is not self.feeder and _beats(data):
                self._note_beat(receiver)
            node.receive_datagram(data, source, boot_clock())
            self._send(node)

    def _note_beat(self, member_id: bytes) -> None:
        now = time.monotonic()
        if member_id in self._last:
            self.gaps.append(now - self._last[member_id])
        self._last[member_id] = now

    def heartbeats(self, when: str) -> str:
        gaps = sorted(self.gaps)
        return (
            f"{len(gaps)} heartbeats of the agent {when}: median {gaps[len(gaps) // 2] * 1000:.0f} ms apart, "
            f"99th percentile {gaps[len(gaps) * 99 // 100] * 1000:.0f}, longest {gaps[-1] * 1000:.0f}"
        )

    def forget_beats(self) -> None:
        self.gaps.clear()
        self._last.clear()

    def _send(self, node: Node) -> None:
        for address, data in node.datagrams_to_send():
            self.sock.sendto(data, address)

    async def until_met(self, name: str) -> None:
        """Wait until the agent is known here."""
        while (row := self.feeder.table.settled.get(name)) is None:
            await trio.sleep(0.01)
        self.agent = row

    async def beat(self) -> None:
        """Send the heartbeats that the agent and the feeder expect from the members they monitor."""
        while True:
            assert self.agent is not None
            beat = Heartbeat(self.feeder.table_digest & 0xFFFFFFFF, int(boot_clock() * 1000) % 2**32, 0)
            for target in (self.agent, self.feeder.inspect().me):
                for member_id in subjects_of(target.member_id, self.feeder.table, 3):
                    if node := self.members.get(member_id):
                        node.say(target, beat)
                        self._send(node)
            await trio.sleep(PERIOD)

    def digest_of_all(self) -> str:
        """The table digest of the current state of all members, in the agent's format."""
        assert self.agent is not None
        digest = self.feeder.inspect().me.checksum ^ self.agent.checksum
        for node in self.members.values():
            digest ^= node.inspect().me.checksum
        return f"{digest:016x}"

    def change(self, count: int, word: str) -> None:
        """Change the metadata of ``count`` members at once."""
        for node in list(self.members.values())[:count]:
            node.update(replace(PROFILE, tags={"turn": word}), boot_clock())
            self._send(node)


def _beats(data: bytes) -> bool:
    return any(isinstance(message, Heartbeat) for message in decode_untrusted(data[HEADER.size :]).messages)


def _never() -> None:
    return


class Agent:
    """The real sidecar, and its HTTP endpoint."""

    def __init__(self, join: tuple[str, int]) -> None:
        flags = "--name agent --cluster bench --service embed --worker http://127.0.0.1:1 --insecure-plaintext"
        command = [str(Path(sys.executable).with_name("rumormill")), "agent", *flags.split()]
        command += ["--gossip", "127.0.0.1:0", "--http", "127.0.0.1:0", "--join", f"{join[0]}:{join[1]}"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            answer = msgspec.json.decode(line)
            if answer["event"] == "serving":
                self.url = "http://" + answer["http"]
                break

    def read_log(self) -> None:
        """Drain the log, so that its pipe never fills."""
        assert self.process.stderr is not None
        while self.process.stderr.read(65536):
            pass

    def memory(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1000

    def cpu(self) -> float:
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9


async def timed(ask: Callable[[], Awaitable[httpx2.Response]]) -> tuple[float, httpx2.Response]:
    begun = time.monotonic()
    response = await ask()
    return time.monotonic() - begun, response


async def slowest(client: httpx2.AsyncClient, path: str, times: int) -> str:
    took = sorted([(await timed(lambda: client.get(path)))[0] for _ in range(times)])
    return f"{path:24} median {took[times // 2] * 1000:6.1f} ms, slowest {took[-1] * 1000:6.1f} ms"


async def until(
    client: httpx2.AsyncClient, path: str, holds: Callable[[dict[str, object]], bool]
) -> tuple[float, float]:
    """Seconds until the condition holds for an answer, and the slowest answer until then."""
    begun, worst = time.monotonic(), 0.0
    with trio.fail_after(TIMEOUT):
        while True:
            took, response = await timed(lambda: client.get(path))
            worst = max(worst, took)
            if response.status_code == 200 and holds(response.json()):
                return time.monotonic() - begun, worst
            await trio.sleep(0.05)


async def measure(size: int, updates: int) -> None:
    crowd = LargeCrowd(size)
    gc.freeze()
    agent = Agent(crowd.sock.getsockname())
    async with trio.open_nursery() as nursery, httpx2.AsyncClient(base_url=agent.url, trust_env=False) as client:
        nursery.start_soon(lambda: trio.to_thread.run_sync(agent.read_log, abandon_on_cancel=True))
        nursery.start_soon(crowd.run)
        click.echo(f"alone: {agent.memory():.0f} MB")
        await crowd.until_met("agent")
        nursery.start_soon(crowd.beat)
        took, worst = await until(client, "/v1/status", lambda answer: answer["peers"] == size - 1)
        click.echo(
            f"all {size} known after {took:.1f} s and {agent.cpu():.1f} s of CPU; "
            f"slowest /v1/status meanwhile {worst * 1000:.0f} ms"
        )
        took, worst = await until(client, "/v1/status", lambda answer: answer["table_digest"] == crowd.digest_of_all())
        click.echo(f"the same table {took:.1f} s later")
        crowd.forget_beats()
        cpu, begun = agent.cpu(), time.monotonic()
        await trio.sleep(10)
        click.echo(
            f"at rest: {(agent.cpu() - cpu) / (time.monotonic() - begun):.1%} of a core, {agent.memory():.0f} MB"
        )
        click.echo(await slowest(client, "/livez", 50))
        click.echo(await slowest(client, "/v1/lookup?service=embed&key=k", 50))
        click.echo(await slowest(client, "/v1/workers", 20))
        click.echo(crowd.heartbeats("at rest and during the lookups"))
        crowd.forget_beats()
        crowd.change(updates, "new")
        took, worst = await until(client, "/v1/status", lambda answer: answer["table_digest"] == crowd.digest_of_all())
        click.echo(
            f"{updates} changes at once: the same table after {took:.1f} s, slowest answer {worst * 1000:.0f} ms"
        )
        click.echo(crowd.heartbeats("during the changes"))
        status = (await client.get("/v1/status")).json()
        click.echo(
            f"peers held: {status['peers']} of {size - 1}, {agent.memory():.0f} MB, isolated: {status['isolated']}"
        )
        nursery.cancel_scope.cancel()
    agent.process.kill()
    agent.process.wait()
    crowd.sock.close()


@click.command()
@click.option("--size", type=click.IntRange(8, 9_999), default=5_000, show_default=True)
@click.option("--updates", default=1_000, show_default=True)
def bench(size: int, updates: int) -> None:
    """One real sidecar in a pool of thousands."""
    trio.run(measure, size, updates)


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
