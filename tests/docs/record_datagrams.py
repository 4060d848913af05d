"""Records the golden datagrams of test_wire.py: ``.venv/bin/python tests/docs/record_datagrams.py``, some 30 seconds.

A pool of real nodes gossips over real UDP sockets on this machine: members join, fall silent, leave, restart, claim a
name that is taken, steer, and change their keys. Of each message the first few datagrams that carried it are kept, as
they were on the wire and as their receiver opened them, with the keys that open them. The keys are made for the
recording and are good for nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from rumormill.discovery.schema.policy_bodies import (
    POLICY_SCHEMA,
    CanaryPolicy,
    Maintenance,
    Share,
    ZonePreference,
    encode_body,
)
from rumormill.gossip import KeyRing, Node, NodeConfig, Profile, wire
from rumormill.gossip.udp.transport import GossipTransport, bind_udp, boot_clock
from rumormill.membership.record import WIRE_VERSION, Readiness

CLUSTER = "golden"
FILE = Path(__file__).parent / f"datagrams-{WIRE_VERSION}.json"
KEPT = 2
"""Datagrams of each message."""
PROFILE = Profile(
    "embed",
    "http://127.0.0.1:9001/api",
    zone="a",
    release="v2",
    weight=1500,
    readiness=Readiness.PASSING,
    tags={"gpu": "h100"},
)


class Tap:
    """Stands in for the decoder of payloads, and knows which datagram is being opened."""

    def __init__(self) -> None:
        self._decoder = wire._decoder
        self.datagram = b""
        self.kept: list[dict[str, Any]] = []
        self.counts: dict[int, int] = defaultdict(int)

    def decode(self, payload: bytes) -> wire.Payload:
        decoded = self._decoder.decode(payload)
        ids = {message[0] for message in msgpack.unpackb(payload)[2]}
        if self.datagram and any(self.counts[number] < KEPT for number in ids):
            for number in ids:
                self.counts[number] += 1
            self.kept.append({"datagram": self.datagram.hex(), "payload": bytes(payload).hex()})
        self.datagram = b""
        return decoded


@dataclass
class Listener:
    """A node whose datagrams are shown to the tap first."""

    node: Node
    tap: Tap

    def receive_datagram(self, data: bytes, source: Any, now: float, arrived: float | None = None) -> None:
        self.tap.datagram = data
        self.node.receive_datagram(data, source, now, arrived)
        self.tap.datagram = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.node, name)


@dataclass
class Pool:
    nursery: trio.Nursery
    sockets: ExitStack
    tap: Tap
    group_keys: list[bytes]
    secrets: list[bytes] = field(default_factory=list)
    scopes: dict[str, trio.CancelScope] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    transports: dict[str, GossipTransport] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def token_bytes(self, size: int) -> bytes:
        token = os.urandom(size)
        if size == 32:
            self.secrets.append(token)
        return token

    def start(self, key: str, *, name: str | None = None, seeds: tuple[str, ...] = (), port: int = 0) -> Node:
        """A node under this key (its name, unless another is given)."""
        sock = self.sockets.enter_context(bind_udp(("127.0.0.1", port)))
        node = Node(
            NodeConfig(
                policy_schema=POLICY_SCHEMA,
                name=name or key,
                address=sock.getsockname(),
                cluster=CLUSTER,
                profile=PROFILE,
                keyring=KeyRing((self.group_keys[0],)),
            ),
            rng=random.Random(),
            token_bytes=self.token_bytes,
            now=boot_clock(),
        )
        node.set_seeds([("127.0.0.1", self.ports[seed]) for seed in seeds])
        self.nodes[key], self.ports[key] = node, sock.getsockname()[1]
        listener: Any = Listener(node, self.tap)
        self.transports[key] = GossipTransport(listener, sock, on_change=lambda: None, on_events=lambda _: None)
        self.thaw(key)
        return node

    def freeze(self, key: str) -> None:
        """Stop a node, and leave its socket as it is."""
        self.scopes[key].cancel()

    def thaw(self, key: str) -> None:
        scope = self.scopes[key] = trio.CancelScope()
        self.nursery.start_soon(self._run, self.transports[key], scope)

    async def _run(self, transport: GossipTransport, scope: trio.CancelScope) -> None:
        with scope:
            await transport.run()

    def tell(self, key: str, action: Callable[[Node, float], Any]) -> None:
        """Have a node do something, and send what comes of it."""
        action(self.nodes[key], boot_clock())
        self.transports[key].wake()


async def live(pool: Pool) -> None:
    """A short life of a pool in which everything that can be said is said."""
    names = [f"w{number}" for number in range(1, 9)]
    pool.start("w1")
    for name in names[1:]:
        pool.start(name, seeds=("w1",))
    await trio.sleep(2.5)
    pool.tell(
        "w2",
        lambda node, now: node.write_policy(
            "embed", encode_body(CanaryPolicy([Share("v2", 500)])), 1_700_000_000_000, now
        ),
    )
    pool.tell(
        "w3", lambda node, now: node.write_policy("embed", encode_body(Maintenance(["w8"])), 1_700_000_000_000, now)
    )
    pool.tell(
        "w4", lambda node, now: node.write_policy("embed", encode_body(ZonePreference("a")), 1_700_000_000_000, now)
    )
    pool.freeze("w4")  # sleeps through the death of w8
    pool.freeze("w8")  # silent, and its socket stays: three heartbeats are missed
    await trio.sleep(2.0)
    pool.thaw("w4")
    await trio.sleep(2.0)
    pool.tell("w7", lambda node, now: node.leave(now))
    await trio.sleep(0.5)
    pool.start("rival", name="w6", seeds=("w1",))  # its name is in use
    pool.start("late", seeds=("w2",))  # is told of the dead and the left
    await trio.sleep(8.0)
    for number in range(24):  # too many to be served at once
        pool.start(f"n{number}", seeds=("w1",))
    await trio.sleep(3.0)
    pool.group_keys.append(os.urandom(32))
    ring = KeyRing(tuple(pool.group_keys))
    pool.tell("w1", lambda node, now: node.change_keys(ring, now))
    await trio.sleep(0.5)
    pool.tell("w1", lambda node, now: node.audit_keys(now))
    await trio.sleep(1.0)


async def record() -> None:
    tap = Tap()
    wire._decoder = tap  # type: ignore[assignment]
    with ExitStack() as sockets:
        async with trio.open_nursery() as nursery:
            pool = Pool(nursery, sockets, tap, [os.urandom(32)])
            await live(pool)
            nursery.cancel_scope.cancel()
    ids = sorted(number for number in tap.counts)
    print(f"{len(tap.kept)} datagrams of the messages {ids}")
    write(tap, pool)


def write(tap: Tap, pool: Pool) -> None:
    """The datagrams, and of their senders and receivers the keys."""
    parties = {bytes.fromhex(kept["datagram"])[at : at + 8] for kept in tap.kept for at in (10, 18)}
    known = members(pool.secrets)
    FILE.write_text(
        json.dumps(
            {
                "recorded": time.strftime("%Y-%m-%d"),
                "cluster": CLUSTER,
                "group_keys": [key.hex() for key in pool.group_keys],
                "members": [
                    {"public": public.hex(), "private": private.hex()}
                    for member_id, (public, private) in sorted(known.items())
                    if member_id in parties | mentioned(tap)
                ],
                "datagrams": tap.kept,
            },
            indent=1,
        )
        + "\n"
    )


def members(secrets: list[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
    """Public keys and private agreement key by member id: of whatever two secrets made one after the other would be."""
    found = {}
    for signing, agreement in pairwise(secrets):
        public = Ed25519PrivateKey.from_private_bytes(signing).public_key().public_bytes_raw()
        public += X25519PrivateKey.from_private_bytes(agreement).public_key().public_bytes_raw()
        found[hashlib.sha256(public).digest()[:8]] = (public, agreement)
    return found


def mentioned(tap: Tap) -> set[bytes]:
    """Members that a message is about, or whose votes or records it has."""
    found: set[bytes] = set()
    for kept in tap.kept:
        for message in msgpack.unpackb(bytes.fromhex(kept["payload"]))[2]:
            if message[0] in (17, 18, 20, 21):
                found.add(message[1])
            found |= {
                vote[0] for vote in ([message[3]] if message[0] == 20 else message[3] if message[0] == 21 else [])
            }
            written = {16: lambda m: [m[1]], 34: lambda m: [m[3]], 35: lambda m: [one[0] for one in m[4]]}
            records = written.get(message[0], lambda _: [])(message)
            found |= {hashlib.sha256(record[4]).digest()[:8] for record in records}
    return found


if __name__ == "__main__":
    trio.run(record)
