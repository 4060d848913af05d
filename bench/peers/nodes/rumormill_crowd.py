"""So many rumormill members in this process, which join one at once: ``python -m bench.peers.nodes.rumormill_crowd 64``

Real sockets, sealed, each member with the real shell of its own; only the sidecar's HTTP half is left out. Prints one
line of JSON: seconds until every member held every other, whether that still holds a second later, and how many
evictions there were (there is nobody to evict).
"""

from __future__ import annotations

import json
import os
import random
import secrets
import sys
from collections.abc import Sequence

import trio

from rumormill.gossip import KeyRing, Node, Profile
from rumormill.gossip.transport import GossipTransport, bind_udp, boot_clock
from rumormill.membership.record import Address, Readiness
from rumormill.membership.view import Event


class Crowd:
    def __init__(self, count: int) -> None:
        self.count = count
        self.gone = 0
        self._rng = random.Random(secrets.randbits(64))
        self._keys = KeyRing((secrets.token_bytes(32),))
        self.nodes: list[Node] = []
        self.transports: list[GossipTransport] = []
        self.seed: Address | None = None
        for number in range(count):
            self._add(number)

    def _add(self, number: int) -> None:
        sock = bind_udp(("127.0.0.1", 0))
        address: Address = sock.getsockname()[:2]
        self.seed = self.seed or address
        node = Node(
            name=f"n{number}",
            address=address,
            cluster="bench",
            profile=Profile("embed", "http://127.0.0.1:9000", readiness=Readiness.PASSING),
            keyring=self._keys,
            rng=random.Random(self._rng.getrandbits(64)),
            token_bytes=os.urandom,
            now=boot_clock(),
        )
        self.nodes.append(node)
        self.transports.append(GossipTransport(node, sock, on_view=lambda _: None, on_events=self._count))

    def _count(self, events: Sequence[Event]) -> None:
        self.gone += sum(event.kind == "evicted" for event in events)

    def one_view(self) -> bool:
        """Nobody lacks anybody, and all agree."""
        digests = {node.table_digest for node in self.nodes}
        return len(digests) == 1 and len(self.nodes[0].addresses()) == self.count - 1

    async def join(self, limit: float) -> dict[str, object]:
        async with trio.open_nursery() as nursery:
            begun = boot_clock()
            for node, transport in zip(self.nodes, self.transports, strict=True):
                if node is not self.nodes[0] and self.seed is not None:
                    node.set_contacts([self.seed])
                nursery.start_soon(transport.run)
            with trio.move_on_after(limit):
                while not self.one_view():
                    await trio.sleep(0.002)
            took = boot_clock() - begun
            await trio.sleep(1.0)
            nursery.cancel_scope.cancel()
        return {"seconds": round(took, 3), "one_view": self.one_view(), "gone": self.gone}


def main() -> None:
    count, limit = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 45.0
    sys.stdout.write(json.dumps(trio.run(Crowd(count).join, limit)) + "\n")


if __name__ == "__main__":
    main()
