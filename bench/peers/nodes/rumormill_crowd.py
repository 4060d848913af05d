"""The members of ``bench.bootstrap`` as a program: ``python -m bench.peers.nodes.rumormill_crowd COUNT LIMIT``

It prints one line of JSON: the seconds until every member held every other, whether that still holds a second later,
and the number of evictions, which should be 0.
"""

from __future__ import annotations

import gc
import json
import secrets
import sys
import time
from contextlib import ExitStack

import trio

from bench.bootstrap import POLL_INTERVAL, SocketCrowd


async def join(count: int, limit: float) -> dict[str, object]:
    with ExitStack() as sockets:
        crowd = SocketCrowd(count, secrets.randbits(64), sockets)
        gc.collect()
        gc.freeze()
        async with trio.open_nursery() as nursery:
            begun = time.monotonic()
            for transport in crowd.transports:
                nursery.start_soon(transport.run)
            while not crowd.one_view() and time.monotonic() - begun < limit:
                await trio.sleep(POLL_INTERVAL)
            took = time.monotonic() - begun
            await trio.sleep(1.0)
            nursery.cancel_scope.cancel()
        gone = sum(event.kind == "evicted" for event in crowd.events)
        return {"seconds": round(took, 3), "one_view": crowd.one_view(), "gone": gone}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(trio.run(join, int(sys.argv[1]), float(sys.argv[2]))) + "\n")
