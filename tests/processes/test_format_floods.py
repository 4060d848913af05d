"""Gossip first: floods of every kind of caller at one of three sidecars cost it no heartbeat that the others miss.

DNS queries, agent checks and requests for formats come as fast as this process can send them. A busy machine may delay
a sidecar by itself, so what is held is what no delay excuses: nobody is evicted, every kind of caller is answered in
the flood and after it, and the sidecar's memory does not grow with what it was sent.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import httpx2
import trio
from agents import Agent, Worker, all_routable
from limits import LIVENESS_LIMIT

FLOOD = int(os.environ.get("RUMORMILL_FLOOD", "20000"))
"""DNS queries; a tenth of that many requests, and a fortieth of agent checks."""
MOST_GROWTH = 20_000_000
"""Bytes."""
RESEND_AFTER = 1.0
"""Seconds."""
QUERY = dns.message.make_query("_embed._tcp.rumormill", "SRV")
REQUEST = b"GET /v1/health/service/embed?passing HTTP/1.1\r\nHost: localhost\r\n\r\n"


def resident(agent: Agent) -> int:
    """Bytes of memory."""
    (line,) = (row for row in Path(f"/proc/{agent.process.pid}/status").read_text().splitlines() if "VmRSS" in row)
    return int(line.split()[1]) * 1024


async def flood_dns(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        wire = QUERY.to_wire()
        for number in range(FLOOD):
            # The names differ, so that no answer is kept.
            sock.send((number % 65536).to_bytes(2, "big") + wire[2:12] + b"\x05x%04x" % (number % 65536) + wire[12:])
            if number % 64 == 0:
                await trio.sleep(0)


async def flood_checks(port: int) -> None:
    """Asks again where a check was not answered in its time, as HAProxy does."""
    for _ in range(FLOOD // 40):
        while not await check_answer(port):
            pass


async def flood_http(port: int) -> None:
    """Pipelined requests on one connection, whose answers are counted."""
    count, head = FLOOD // 10, b"HTTP/1.1 200 OK"
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, REQUEST * count)
        answers, rest = 0, b""
        while answers < count:
            data = await stream.receive_some(65536)
            assert data, "the sidecar has closed the connection"
            answers += (rest + data).count(head)
            rest = data[-(len(head) - 1) :]


async def until_settled(http: str) -> None:
    """A sidecar that has just started answers no format until it knows its pool."""
    async with httpx2.AsyncClient(timeout=LIVENESS_LIMIT, trust_env=False) as client:
        while (await client.get(f"{http}/v1/health/service/embed")).status_code != 200:
            await trio.sleep(0.1)


async def everyone_is_answered(http: str, dns_port: int, check_port: int) -> None:
    """Every kind of caller gets an answer at once, and the whole pool soon.

    The worker shares this process with the floods: a probe that it answers late takes it out for a moment.
    """
    async with httpx2.AsyncClient(timeout=LIVENESS_LIMIT, trust_env=False) as client:
        assert (await client.get(f"{http}/v1/workers")).status_code == 200
    while not (await srv_records(dns_port) == 3 and await check_answer(check_port) == b"up ready 10000%\n"):
        await trio.sleep(0.05)


async def srv_records(port: int) -> int:
    """Asks again as every resolver does: the flood overflows the kernel's buffer, and queries are lost."""
    while True:
        try:
            answer, _ = await dns.asyncquery.udp_with_fallback(QUERY, "127.0.0.1", port=port, timeout=RESEND_AFTER)
        except dns.exception.Timeout:
            continue
        assert answer.rcode() == dns.rcode.NOERROR
        return sum(len(records) for records in answer.answer)


async def check_answer(port: int) -> bytes:
    """Empty if the sidecar closed the connection without an answer."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"w3\n")
        try:
            return await stream.receive_some(64)
        except trio.BrokenResourceError:
            return b""


async def test_floods_evict_nobody_and_keep_nobody_out() -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        flags = ("--haproxy-agent", "127.0.0.1:0", "--dns", "127.0.0.1:0")
        victim = await Agent.start(nursery, "w1", worker, *flags)
        others = [await Agent.start(nursery, name, worker, "--join", victim.gossip) for name in ("w2", "w3")]
        for agent in (victim, *others):
            await agent.until(all_routable("w1", "w2", "w3"))
        serving = await victim.logged("serving")
        dns_port, check_port = (int(serving[key].rpartition(":")[2]) for key in ("dns", "haproxy_agent"))
        http_port = int(victim.http.rpartition(":")[2])
        with trio.fail_after(LIVENESS_LIMIT):
            await until_settled(victim.http)
        before = resident(victim)
        with trio.fail_after(LIVENESS_LIMIT):
            async with trio.open_nursery() as floods:
                floods.start_soon(flood_dns, dns_port)
                floods.start_soon(flood_checks, check_port)
                floods.start_soon(flood_http, http_port)
                await everyone_is_answered(victim.http, dns_port, check_port)
            await everyone_is_answered(victim.http, dns_port, check_port)
        assert resident(victim) - before < MOST_GROWTH
        for agent in (victim, *others):
            assert [line for line in agent.lines if line["event"] == "evicted"] == []
            await agent.until(all_routable("w1", "w2", "w3"))
        counters = (await victim.ask("/v1/status"))["counters"]
        suspicions = [line["text"] for agent in others for line in agent.lines if line["event"] == "suspected"]
        print(counters["dns_queries_answered"], "of", FLOOD, "queries answered; suspicions:", suspicions)
        assert counters["haproxy_checks_answered"] >= FLOOD // 40
        nursery.cancel_scope.cancel()
