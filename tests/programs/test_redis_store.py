"""The stores in Redis: the contract of stores, agreement with the store in memory, and a Redis that goes and comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import DURABLE, RedisServer, redis_server
from store_contract import CLAIMS, LEASE, OTHERS, WINDOW, request

from rumormill.worker import InThreads, StoreUnavailableError, SyncMemoryStore
from rumormill.worker.redis_store import RedisStore, SyncRedisStore
from rumormill.worker.redis_trust import StoreRestartedError
from rumormill.worker.stores import Claimed, ClaimRequest, Finished


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Blocking:
    """A RedisStore for stories that are told without tasks: every call has an event loop of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            store = RedisStore.from_url(self._url, restart_window=0)
            try:
                return await getattr(store, name)(*args)
            finally:
                await store.aclose()

        return lambda *args: anyio.run(call, *args, backend="asyncio")


def fresh(server: RedisServer) -> SyncRedisStore:
    with redis.Redis(port=server.port) as client:
        client.flushall()
    return SyncRedisStore.from_url(server.url, restart_window=0)


def let_pass(server: RedisServer, seconds: float) -> None:
    """Time passes for every key in Redis."""
    with redis.Redis(port=server.port) as client:
        for key in client.keys("*"):
            left = client.pttl(key) - int(1000 * seconds)
            if left > 0:
                client.pexpire(key, left)
            else:
                client.delete(key)


@pytest.mark.parametrize("story", [*CLAIMS, *OTHERS])
def test_it_keeps_the_contract_of_stores(story, server) -> None:
    store = fresh(server)
    story(store, lambda seconds: let_pass(server, seconds))
    store.close()


@pytest.mark.parametrize("story", [*CLAIMS, *OTHERS])
def test_it_keeps_the_contract_on_asyncio(story, server) -> None:
    fresh(server).close()
    story(Blocking(server.url), lambda seconds: let_pass(server, seconds))


def test_on_trio_it_runs_in_threads(server) -> None:
    async def story() -> None:
        store = InThreads(fresh(server))
        assert await store.claim(b"k", request("first")) == Claimed(1)
        assert await store.renew(b"k", request("first"))
        assert await store.finish(b"k", request("first"), b"done")
        assert await store.claim(b"k", request("second")) == Finished(b"same", b"done")
        assert not await store.release(b"k", request("second"))
        await store.append(b"s", bytes(16), b"turn", 3, 9.0)
        assert await store.turns(b"s") == [(bytes(16), b"turn")]
        await store.put(b"v", b"value", 9.0)
        assert (await store.get(b"v") or b"")[0] == b"value"

    anyio.run(story, backend="trio")


class AgreementClock:
    """Time for the store in memory."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


steps = st.lists(
    st.tuples(
        st.sampled_from(["claim", "renew", "finish", "release", "time passes"]),
        st.sampled_from(["ada", "bob", "eve"]),
        st.sampled_from([b"same", b"other"]),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_it_agrees_with_the_store_in_memory(steps, server) -> None:
    """Two stores that share no code get the same calls. Time passes for both when a step says so."""
    in_redis, clock = fresh(server), AgreementClock()
    in_memory = SyncMemoryStore(clock=clock)
    for step, owner, fingerprint, take_over in steps:
        asked = ClaimRequest(owner.encode(), fingerprint, LEASE, WINDOW, take_over)
        match step:
            case "time passes":
                let_pass(server, LEASE + 1)
                clock.now += LEASE + 1
            case "finish":
                assert in_redis.finish(b"k", asked, owner.encode()) == in_memory.finish(b"k", asked, owner.encode())
            case _:
                assert getattr(in_redis, step)(b"k", asked) == getattr(in_memory, step)(b"k", asked)
    in_redis.close()


def test_names_in_redis_have_a_bounded_length_whatever_the_key(server) -> None:
    store = fresh(server)
    for key in (b"", b"x" * 10_000, b"\x00 {}\xff"):
        store.claim(key, request("first"))
    with redis.Redis(port=server.port) as client:
        names = client.keys("*")
    store.close()
    assert len(names) == 6
    assert max(map(len, names)) < 80


def test_a_client_that_decodes_is_told(server) -> None:
    client = redis.Redis(port=server.port, decode_responses=True)
    with client, pytest.raises(ValueError, match="decode_responses=False"):
        SyncRedisStore(client, restart_window=0).claim(b"k", request("first"))


def test_a_redis_that_is_away_is_told_at_once_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    with redis_server(tmp_path, **DURABLE) as server:
        store = SyncRedisStore.from_url(server.url)
        assert store.claim(b"k", request("first")) == Claimed(1), "it writes every command, so it is trusted at once"
        store.finish(b"k", request("first"), b"done")
        server.kill()
        with pytest.raises(StoreUnavailableError, match="Redis does not serve"):
            store.claim(b"k", request("second"))
        server.start()
        assert store.claim(b"k", request("second")) == Finished(b"same", b"done")
        store.close()


def test_a_redis_that_forgets_is_not_used_until_a_window_has_passed(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        trusting = SyncRedisStore.from_url(server.url, restart_window=0)
        trusting.claim(b"k", request("first"))
        server.kill()
        server.start()
        careful = SyncRedisStore.from_url(server.url)
        with pytest.raises(StoreRestartedError, match="may have lost claims"):
            careful.claim(b"k", request("second"))
        patient = SyncRedisStore.from_url(server.url, restart_window=1.0)
        time.sleep(2)
        assert patient.claim(b"k", request("second")) == Claimed(1)
        for store in (trusting, careful, patient):
            store.close()


def test_on_asyncio_a_redis_that_forgets_is_refused_too(tmp_path: Path) -> None:
    async def story(url: str) -> None:
        store = RedisStore.from_url(url)
        with pytest.raises(StoreRestartedError):
            await store.claim(b"k", request("first"))
        await store.aclose()

    with redis_server(tmp_path) as server:
        anyio.run(story, server.url, backend="asyncio")
