"""Equal routing digests mean equal owners: at every sidecar, over HTTP, and in the client."""

from __future__ import annotations

import random

import msgspec
import trio
from agents import all_routable, gone, pool
from limits import LIVENESS_LIMIT

from rumormill.client import Pool

KEYS = 10_000
BATCH = 100


class Answer(msgspec.Struct):
    key: str
    routing_digest: str
    owners: list[dict[str, object]]


Answers = dict[str, tuple[str, list[object]]]


async def settled_lookups(http: str, keys: list[str]) -> Answers:
    """Digest and owners of each key, as answered while nobody was suspect: suspects are put last, out of the ring's
    order, and on a busy machine anybody may be suspect for a moment."""
    found: Answers = {}
    with trio.fail_after(LIVENESS_LIMIT):
        while missing := [key for key in keys if key not in found]:
            found.update(await lookups(http, missing))
    return found


async def lookups(http: str, keys: list[str]) -> Answers:
    """The same for the keys whose owners are all alive, in pipelined requests over one connection."""
    host, port = http.removeprefix("http://").split(":")
    found: Answers = {}
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        data = b""
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            lines = (f"GET /v1/lookup?service=embed&key={key}&n=3 HTTP/1.1\r\nHost: localhost\r\n\r\n" for key in batch)
            await stream.send_all("".join(lines).encode())
            for _ in batch:
                while b"\r\n\r\n" not in data:
                    data += await stream.receive_some()
                head, _, data = data.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                length = next(
                    int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")
                )
                while len(data) < length:
                    data += await stream.receive_some()
                answer = msgspec.json.decode(data[:length], type=Answer)
                data = data[length:]
                if all(owner["liveness"] == "alive" for owner in answer.owners):
                    found[answer.key] = (answer.routing_digest, [owner["name"] for owner in answer.owners])
    return found


async def test_ten_thousand_keys_have_one_owner_everywhere() -> None:
    rng = random.Random(20)
    keys = [f"user-{rng.getrandbits(64):x}" for _ in range(KEYS)]
    async with pool(4, "--service", "embed") as (agents, _):
        agents[3].process.kill()
        survivors = agents[:3]
        for agent in survivors:
            await agent.until(gone("w4"))
            await agent.until(all_routable("w1", "w2", "w3"))
        answers = [await settled_lookups(agent.http, keys) for agent in survivors]
        assert answers[0] == answers[1] == answers[2]
        async with Pool([agent.http for agent in survivors], service="embed") as client:
            with trio.fail_after(LIVENESS_LIMIT):
                while client.topology.routing.digest != answers[0][keys[0]][0]:
                    await client.changed(client.topology)
            assert {key: [w.name for w in client.owners(key, 3)] for key in keys} == {
                key: owners for key, (_, owners) in answers[0].items()
            }
