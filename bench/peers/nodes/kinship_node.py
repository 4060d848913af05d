"""One kinship node, or many in this process, tuned to a 200 ms period. Needs kinship.

Every membership event is a line of JSON on stdout, with its CLOCK_MONOTONIC time. On SIGTERM it leaves.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import sys
import threading
import time
from typing import Any

import kinship
import kinship.blocking

KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
EVENTS = {
    "MemberJoined": "joined",
    "MemberSuspect": "suspected",
    "MemberRecovered": "refuted",
    "MemberDead": "gone",
    "MemberLeft": "left",
    "MemberUpdated": "updated",
}


def say(**words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def tuned(name: str, bind: str, seeds: list[str], no_tcp: bool) -> kinship.Config:
    """Settings not given here are kinship's defaults for a LAN."""
    return kinship.Config.lan(
        name=name,
        bind=bind,
        seeds=seeds,
        keys=[KEY],
        cluster="bench",
        probe_interval=0.2,
        probe_timeout=0.1,
        gossip_interval=0.05,
        suspicion_mult=3,
        tcp_fallback_ping=not no_tcp,
        rejoin_interval=1.0,
    )


def one(name: str, bind: str, seeds: list[str], no_tcp: bool) -> None:
    going = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: going.set())
    cluster = kinship.blocking.Cluster(tuned(name, bind, [], no_tcp)).start()
    say(monotonic=time.monotonic(), event="up", who=name)

    events = cluster.events()
    for member in cluster.members():  # members that joined before the events began
        if member.name != name:
            say(monotonic=time.monotonic(), event="joined", who=member.name)

    def tell() -> None:
        for event in events:
            if (word := EVENTS.get(type(event).__name__)) and (member := getattr(event, "member", None)):
                say(monotonic=time.monotonic(), event=word, who=member.name)

    threading.Thread(target=tell, daemon=True).start()
    joined = not seeds
    while not joined and not going.is_set():
        try:
            joined = cluster.join(seeds) > 0
        except kinship.JoinError:
            going.wait(0.1)
    going.wait()
    cluster.close()


async def many(count: int, limit: float) -> None:
    nodes = [kinship.Cluster(tuned("n0", "127.0.0.1:0", [], False))]
    await nodes[0].start()
    seed = nodes[0].local.addr
    nodes += [kinship.Cluster(tuned(f"n{number}", "127.0.0.1:0", [seed], False)) for number in range(1, count)]
    gone = 0

    async def join(node: kinship.Cluster) -> None:
        await node.start()
        counts.append(asyncio.ensure_future(count_gone(node)))

    async def count_gone(node: kinship.Cluster) -> None:
        nonlocal gone
        async for event in node.events():
            gone += isinstance(event, kinship.MemberDead)

    counts = [asyncio.ensure_future(count_gone(nodes[0]))]
    begun = time.monotonic()
    starts = [asyncio.ensure_future(join(node)) for node in nodes[1:]]
    up = [nodes[0]]

    def complete() -> bool:
        up[1:] = [node for node, start in zip(nodes[1:], starts, strict=True) if start.done()]
        return len(up) == count and all(len(node.members()) == count for node in up)

    while not complete() and time.monotonic() - begun < limit:
        await asyncio.sleep(0.005)
    took = time.monotonic() - begun
    await asyncio.sleep(1.0)
    say(seconds=round(took, 3), one_view=complete(), gone=gone)
    os._exit(0)  # a hundred graceful leaves would take longer than the measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="")
    parser.add_argument("--bind", default="127.0.0.1:7946")
    parser.add_argument("--join", action="append", default=[])
    parser.add_argument("--no-tcp-pings", action="store_true")
    parser.add_argument("--crowd", type=int, default=0)
    parser.add_argument("--limit", type=float, default=45.0)
    options = parser.parse_args()
    if options.crowd:
        asyncio.run(many(options.crowd, options.limit))
    else:
        one(options.name, options.bind, options.join, options.no_tcp_pings)


if __name__ == "__main__":
    main()
