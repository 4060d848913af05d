"""A caller on one host, through the host's own sidecar: ``python -m bench.peers.nodes.caller URL RATE``

It sends keyed requests through the client library until its standard input ends. Each outcome is a line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys

import trio

from rumormill.cli.demo.caller import Caller
from rumormill.cli.demo.request_log import RequestOutcome


def tell(outcome: RequestOutcome) -> None:
    sys.stdout.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
    sys.stdout.flush()


async def main(url: str, rate: float) -> None:
    caller = Caller([url], service="embed", record=tell, rate=rate, rng=random.Random(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(caller.run)
        async with trio.lowlevel.FdStream(0) as stdin:
            await stdin.receive_some()
        await caller.finish()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]))
