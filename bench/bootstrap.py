"""Many members join one seed at once: ``python -m bench.bootstrap`` (two minutes).

All nodes run in one process, each on its own UDP socket on loopback, sealed. All join one seed at the same time. The
bench measures how long it takes until they hold one view: equal table digests, in which all are alive. Then all change
their metadata at once, several times (an update storm), and the bench waits for one view again. It counts suspicions
and evictions, of which there should be none.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import click
import trio

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip import KeyRing, Node, NodeConfig, Profile
from rumormill.gossip.udp.transport import GossipTransport, bind_udp, boot_clock
from rumormill.membership.record import Readiness
from rumormill.membership.view import Event

TIMEOUT = 60.0
POLL_INTERVAL = 0.005
PROFILE = Profile("embed", "http://127.0.0.1:9001", readiness=Readiness.PASSING)


@dataclass
class BootstrapFigures:
    """Seconds of each run, and suspicions and evictions in all runs."""

    joined: list[float] = field(default_factory=list)
    updated: list[float] = field(default_factory=list)
    suspicions: Counter[str] = field(default_factory=Counter)


class SocketCrowd:
    """Nodes in this process, each on its own socket."""

    def __init__(self, size: int, seed: int, sockets: ExitStack) -> None:
        self.events: list[Event] = []
        self.nodes: list[Node] = []
        self.transports: list[GossipTransport] = []
        keyring = KeyRing((os.urandom(32),))
        rng = random.Random(seed)
        for number in range(size):
            sock = sockets.enter_context(bind_udp(("127.0.0.1", 0)))
            node = Node(
                NodeConfig(
                    policy_schema=POLICY_SCHEMA,
                    name=f"n{number}",
                    address=sock.getsockname(),
                    cluster="bench",
                    profile=PROFILE,
                    keyring=keyring,
                ),
                rng=random.Random(rng.getrandbits(64)),
                token_bytes=os.urandom,
                now=boot_clock(),
            )
            self.nodes.append(node)
            self.transports.append(GossipTransport(node, sock, on_change=lambda: None, on_events=self.events.extend))
        for node in self.nodes[1:]:
            node.set_seeds([address_of(self.nodes[0])])

    def one_view(self) -> bool:
        """Whether all digests are equal and cover all members. Counting the present rows suffices for that."""
        first = self.nodes[0].table_digest
        return all(len(node.table.present_ids) == len(self.nodes) and node.table_digest == first for node in self.nodes)

    async def until_one_view(self) -> float:
        begun = time.monotonic()
        with trio.fail_after(TIMEOUT):
            while not self.one_view():
                await trio.sleep(POLL_INTERVAL)
        return time.monotonic() - begun

    def update_all(self, turn: int) -> None:
        """Change the metadata of all members at once."""
        for node, transport in zip(self.nodes, self.transports, strict=True):
            node.update(replace(PROFILE, tags={"turn": str(turn)}), boot_clock())
            transport.wake()


def address_of(node: Node) -> tuple[str, int]:
    (own,) = (member.address for member in node.view.members if member.instance == node.instance)
    return own


async def storm(size: int, updates: int, seed: int, found: BootstrapFigures) -> None:
    """One run. Raises trio.TooSlowError if there is no one view within a minute."""
    with ExitStack() as sockets:
        crowd = SocketCrowd(size, seed, sockets)
        gc.collect()
        gc.freeze()
        async with trio.open_nursery() as nursery:
            for transport in crowd.transports:
                nursery.start_soon(transport.run)
            found.joined.append(await crowd.until_one_view())
            for turn in range(0, updates, size):
                crowd.update_all(turn)
            if updates:
                await trio.lowlevel.checkpoint()
                found.updated.append(await crowd.until_one_view())
            nursery.cancel_scope.cancel()
        found.suspicions.update(
            event.kind for event in crowd.events if event.kind in ("suspected", "evicted", "isolated")
        )
        gc.unfreeze()


def line(title: str, seconds: Sequence[float]) -> str:
    if not seconds:
        return f"{title:32} none"
    ordered = sorted(seconds)
    return f"{title:32}" + "".join(f"{mark:8.2f}" for mark in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))


@click.command()
@click.option("--size", "sizes", type=click.IntRange(2, 512), multiple=True, default=(64, 128), show_default=True)
@click.option("--runs", default=20, show_default=True)
@click.option("--updates", default=1000, show_default=True, help="Changes of metadata made at once after each join.")
@click.option("--seed", default=1, show_default=True)
def bench(sizes: tuple[int, ...], runs: int, updates: int, seed: int) -> None:
    """Many members join one seed at once."""
    for size in sizes:
        found = BootstrapFigures()
        for run in range(runs):
            trio.run(storm, size, updates, seed + run, found)
        click.echo(f"{size} nodes in one process, {runs} runs{'':9}min  median     max   s")
        click.echo(line("start to one view", found.joined))
        click.echo(line(f"{updates} changes at once to one view", found.updated))
        click.echo(f"suspicions and evictions: {dict(found.suspicions) or 'none'}\n")


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
