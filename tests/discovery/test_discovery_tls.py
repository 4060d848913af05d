"""The same endpoint over TLS. The sidecar makes the listeners, and the endpoint works with either kind."""

from __future__ import annotations

import ssl

import httpx2
import trio
import trustme
from limits import LIVENESS_LIMIT
from members import member
from serving import PROCESS, THREE, Sidecar, pool, until

from rumormill.discovery.server import DiscoveryServer


async def test_queries_block_and_hang_up_over_tls_and_plain_callers_do_no_harm():
    authority = trustme.CA()
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(accepting)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    sidecar = Sidecar(pool=THREE)
    server = DiscoveryServer(commands=sidecar, process=PROCESS, wall_offset=0.0)
    server.pool_changed()
    listeners = await trio.open_ssl_over_tcp_listeners(0, accepting, host="127.0.0.1")
    port = listeners[0].transport_listener.socket.getsockname()[1]
    answers = []

    async def ask(client: httpx2.AsyncClient) -> None:
        answers.append(await client.get("/v1/workers?index=1&wait=5m"))

    with trio.fail_after(LIVENESS_LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listeners)
            async with httpx2.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=trusting) as client:
                assert (await client.get("/livez")).json() == {"ok": True, "why": ""}
                async with trio.open_nursery() as asking:
                    asking.start_soon(ask, client)
                    await until(lambda: server.waiting == 1)
                    sidecar.pool = pool(member("w1"))
                    server.pool_changed()
                assert answers[0].json()["index"] == 2
            plain = await trio.open_tcp_stream("127.0.0.1", port)
            async with plain:
                await plain.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                while await plain.receive_some(65536):
                    pass
            impatient = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=trusting)
            await impatient.send_all(b"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: server.waiting == 1)
            await trio.aclose_forcefully(impatient)
            await until(lambda: server.connections == 0)
            server.close()
