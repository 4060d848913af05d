"""The key ring over HTTP: steps run in order, no answer contains a key, and a pool in plaintext says so everywhere."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing
from serving import ONE_KEY, PROCESS, Answer, Serving, Sidecar, proven, serving

from rumormill.discovery.http.access import Access
from rumormill.discovery.server import DiscoveryServer

KEY = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="
LAGGING = msgspec.structs.replace(ONE_KEY, unanswered=["w2"], settled=False)
BEHIND = msgspec.structs.replace(ONE_KEY, behind=["w3"], settled=False)


INSTALL = msgspec.json.encode({"key": KEY})


async def ask(endpoint: Serving, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    """As a caller that holds a key of the pool."""
    return await endpoint.ask(method, target, body, **proven(method, target, body), **headers)


async def test_who_changes_keys_must_hold_one_whatever_else_it_may_do():
    """Otherwise any program on the machine could install its own key and become a member."""
    async with serving(access=Access(change_token="open-wide")) as endpoint:
        right = {"Authorization": "Bearer open-wide"}
        target = "/v1/keys?id=fa4b85b6"
        for proof in (
            {},
            {"Rumormill_Key_Proof": "not hexadecimal"},
            proven("PUT", target, key=b"x" * 32),
            proven("DELETE", target),
            proven("PUT", "/v1/keys?id=3c45ae74"),
            proven("PUT", target, b"body"),
        ):
            got = await endpoint.ask("PUT", target, **proof, **right)
            assert got.status == 403
            assert "--key-file" in got.json["hint"]
        assert (await endpoint.ask("PUT", target, **proven("PUT", target))).status == 401
        assert (await endpoint.ask("POST", "/v1/keys", INSTALL, **right)).status == 403
        assert endpoint.sidecar.told == []
        assert (await endpoint.ask("PUT", target, **proven("PUT", target), **right)).status == 200


async def test_each_step_is_one_request():
    async with serving() as endpoint:
        assert (await endpoint.get("/v1/keys")).json["keys"][0]["id"] == "3c45ae74"
        assert (await ask(endpoint, "POST", "/v1/keys", INSTALL)).status == 200
        assert (await ask(endpoint, "PUT", "/v1/keys?id=fa4b85b6")).status == 200
        assert (await ask(endpoint, "DELETE", "/v1/keys?id=3c45ae74")).status == 200
        assert endpoint.sidecar.told == ["install", "use fa4b85b6", "remove 3c45ae74"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"key": 7}', b'{"kye": "x"}', b"\xff", KEY.encode(), b'{"key": "x", "more": 1}']
)
async def test_a_body_that_will_not_do_is_refused_and_never_quoted(body):
    async with serving() as endpoint:
        got = await ask(endpoint, "POST", "/v1/keys", body)
        assert got.status == 400
        assert KEY not in got.body.decode()
        assert endpoint.sidecar.told == []


async def test_a_key_that_will_not_do_is_refused_with_what_to_do():
    async with serving() as endpoint:
        got = await ask(endpoint, "POST", "/v1/keys", b'{"key": "bad"}')
        assert (got.status, got.json["hint"]) == (409, "make another")


async def test_an_id_is_eight_digits():
    async with serving() as endpoint:
        for query in ("", "?id=3c", "?id=3C45AE74", "?key=3c45ae74"):
            assert (await endpoint.ask("PUT", f"/v1/keys{query}")).status == 400


@pytest.mark.parametrize("ring", [LAGGING, BEHIND])
async def test_while_somebody_could_be_cut_off_nothing_changes_unless_forced(ring, autojump_clock):
    """In virtual time, over a stream in memory, so the wait for members that lag takes no real time."""
    sidecar = Sidecar(ring=ring)
    server = DiscoveryServer(commands=sidecar, process=PROCESS, wall_offset=0.0)
    there, here = trio.testing.memory_stream_pair()

    class Once(trio.abc.Listener[trio.abc.Stream]):
        def __init__(self) -> None:
            self._streams = [there]

        async def accept(self) -> trio.abc.Stream:
            if not self._streams:
                await trio.sleep_forever()
            return self._streams.pop()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [Once()])
        for query, status in (("id=fa4b85b6", b"409"), ("id=fa4b85b6&force=true", b"200")):
            proof = proven("PUT", f"/v1/keys?{query}")["Rumormill_Key_Proof"]
            head = f"PUT /v1/keys?{query} HTTP/1.1\r\nHost: localhost\r\nRumormill-Key-Proof: {proof}\r\n\r\n"
            await here.send_all(head.encode())
            answer = bytes(await here.receive_some())
            assert answer.startswith(b"HTTP/1.1 " + status)
            if status == b"409":
                assert (*ring.unanswered, *ring.behind)[0].encode() in answer
                assert sidecar.told == []
        assert sidecar.told == ["use fa4b85b6"]
        server.close()


@pytest.mark.parametrize(
    ("access", "status"),
    [
        (Access(change_token="open-wide", local=False), 403),
        (Access(change_token="open-wide", local=False, encrypted=True), 200),
        (Access(change_token="open-wide"), 200),
    ],
    ids=["in the clear", "TLS", "loopback"],
)
async def test_a_key_does_not_cross_a_network_in_the_clear(access, status):
    async with serving(access=access) as endpoint:
        right = {"Authorization": "Bearer open-wide"}
        assert (await ask(endpoint, "POST", "/v1/keys", INSTALL, **right)).status == status
        assert (await ask(endpoint, "PUT", "/v1/keys?id=fa4b85b6", **right)).status == 200


async def test_where_gossip_is_plaintext_every_answer_says_so():
    async with serving(sealed=False) as endpoint:
        for path in ("/", "/v1/workers", "/livez", "/nowhere"):
            assert (await endpoint.get(path)).headers["x-rumormill-seal"] == "plaintext"
    async with serving() as endpoint:
        assert "x-rumormill-seal" not in (await endpoint.get("/")).headers
