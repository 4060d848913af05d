"""Asks the host's own sidecar without end: ``python -m bench.peers.nodes.asker URL``

It asks ``/readyz``, then ``/v1/lookup`` for the next of a few keys, and so on, until its standard input ends. Each pair
is a line of JSON: when the lookup was answered (monotonic time), the status of ``/readyz``, and the first owner, or ""
if there is none.
"""

from __future__ import annotations

import json
import sys
import time

import httpx2
import trio

KEYS = 20
PAUSE = 0.002


async def ask(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as http:
        number = 0
        while True:
            ready = (await http.get("/readyz")).status_code
            query = {"service": "embed", "key": f"user-{number % KEYS}"}
            owners = (await http.get("/v1/lookup", params=query)).json()["owners"]
            print(json.dumps([time.monotonic(), ready, owners[0]["name"] if owners else ""]), flush=True)
            number += 1
            await trio.sleep(PAUSE)


async def main(url: str) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, url)
        async with trio.lowlevel.FdStream(0) as stdin:
            await stdin.receive_some()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
