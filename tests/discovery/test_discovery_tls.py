"""The same endpoint over TLS: the listeners are the sidecar's to make, the endpoint must not mind which."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from serving import PROCESS, THREE, Sidecar, member, pool, until

from rumormill.discovery import DiscoveryServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "here.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


async def test_queries_block_and_hang_up_over_tls_and_plain_callers_do_no_harm(certificate):
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accepting.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    server = DiscoveryServer(commands=Sidecar(), process=PROCESS, wall_offset=0.0)
    server.publish(THREE)
    listeners = await trio.open_ssl_over_tcp_listeners(0, accepting, host="127.0.0.1")
    port = listeners[0].transport_listener.socket.getsockname()[1]
    answers = []

    async def ask(client: httpx.AsyncClient) -> None:
        answers.append(await client.get("/v1/workers?index=1&wait=5m"))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listeners)
            async with httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=trusting) as client:
                assert (await client.get("/livez")).json() == {"ok": True, "why": ""}
                async with trio.open_nursery() as asking:
                    asking.start_soon(ask, client)
                    await until(lambda: server.waiting == 1)
                    server.publish(pool(member("w1")))
                assert answers[0].json()["index"] == 2
            plain = await trio.open_tcp_stream("127.0.0.1", port)
            async with plain:
                await plain.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                while await plain.receive_some(65536):
                    pass
            impatient = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=trusting)
            await impatient.send_all(b"GET /v1/watch HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: server.waiting == 1)
            await trio.aclose_forcefully(impatient)
            await until(lambda: server.connections == 0)
            server.close()
