"""Stores in Redis, for all workers together: `pip install "rumormill[redis]"`.

    store = RedisStore.from_url("redis://10.0.0.5:6379/0")         # asyncio
    store = SyncRedisStore.from_url("redis://10.0.0.5:6379/0")     # threads
    store = InThreads(SyncRedisStore.from_url(...))                # trio: redis-py has no client for it

Set `maxmemory-policy noeviction` in that Redis. One that evicts keys forgets claims.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

try:
    import redis
    import redis.asyncio
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import ConstantBackoff
    from redis.exceptions import NoScriptError, RedisError
    from redis.retry import Retry
except ImportError:
    raise ImportError("a store in Redis needs the package redis: pip install 'rumormill[redis]'") from None

from rumormill.worker.errors import StoreUnavailableError
from rumormill.worker.redis_calls import SCRIPTS, Call, Calls
from rumormill.worker.redis_trust import check_trust
from rumormill.worker.stores import ClaimRequest, ClaimState

T = TypeVar("T")

PREFIX: Final = "rumormill:"
TIMEOUT: Final = 1.0
"""Seconds for a connection, and for a reply. More waits longer for a Redis that hangs; less refuses more when it is
slow."""
RETRY_PAUSE: Final = 0.05
"""Seconds until a broken connection is tried once more. Redis closes idle ones."""
RESTART_WINDOW: Final = 70.0
"""Seconds for which a Redis that has started is not trusted (redis_trust.py): the default window and lease together. A
call whose claim was lost may act until its lease ends, and be repeated for a window after that."""


class SyncRedisStore:
    """Claims, sessions and values in Redis. Threads may share it."""

    def __init__(self, client: redis.Redis, *, prefix: str = PREFIX, restart_window: float = RESTART_WINDOW) -> None:
        """`client` must return bytes. `restart_window` is at least window and lease together; 0 trusts every Redis."""
        self._client = client
        self._calls = Calls(prefix)
        self._restart_window = restart_window

    @classmethod
    def from_url(
        cls, url: str, *, prefix: str = PREFIX, restart_window: float = RESTART_WINDOW, timeout: float = TIMEOUT
    ) -> SyncRedisStore:
        """A store with a client of its own, whose connections and replies take at most `timeout` seconds."""
        retry = Retry(ConstantBackoff(RETRY_PAUSE), 1)
        client = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry)
        return cls(client, prefix=prefix, restart_window=restart_window)

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()

    def claim(self, key: bytes, request: ClaimRequest) -> ClaimState:
        return self._run(self._calls.claim(key, request))

    def renew(self, key: bytes, request: ClaimRequest) -> bool:
        return self._run(self._calls.renew(key, request))

    def finish(self, key: bytes, request: ClaimRequest, result: bytes) -> bool:
        return self._run(self._calls.finish(key, request, result))

    def release(self, key: bytes, request: ClaimRequest) -> bool:
        return self._run(self._calls.release(key, request))

    def append(self, key: bytes, turn_id: bytes, turn: bytes, keep: int, ttl: float) -> None:
        self._run(self._calls.append(key, turn_id, turn, keep, ttl))

    def turns(self, key: bytes) -> list[tuple[bytes, bytes]]:
        return self._run(self._calls.turns(key))

    def get(self, key: bytes) -> tuple[bytes, float] | None:
        return self._run(self._calls.get(key))

    def put(self, key: bytes, value: bytes, ttl: float) -> None:
        self._run(self._calls.put(key, value, ttl))

    def _run(self, call: Call[T]) -> T:
        try:
            try:
                return call.read(self._evaluate(call))
            except NoScriptError:
                self._prepare()
                return call.read(self._evaluate(call))
        except (RedisError, OSError) as error:
            raise unavailable(error) from error

    def _evaluate(self, call: Call[T]) -> Any:
        client: Any = self._client  # its annotations forbid bytes and numbers as arguments
        return client.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)

    def _prepare(self) -> None:
        """Load the scripts, if this Redis can be trusted."""
        client: Any = self._client  # its annotations mix both kinds of client
        if self._restart_window:
            check_trust(client.info(), self._fsync(client), self._restart_window)
        for script in SCRIPTS:
            client.script_load(script.source)

    @staticmethod
    def _fsync(client: Any) -> str:
        try:
            return fsync_of(client.config_get("appendfsync"))
        except redis.ResponseError:
            return ""  # hosted Redis often forbids CONFIG


class RedisStore:
    """The same for callers on asyncio."""

    def __init__(
        self, client: redis.asyncio.Redis, *, prefix: str = PREFIX, restart_window: float = RESTART_WINDOW
    ) -> None:
        """`client` must return bytes. `restart_window` is at least window and lease together; 0 trusts every Redis."""
        self._client = client
        self._calls = Calls(prefix)
        self._restart_window = restart_window

    @classmethod
    def from_url(
        cls, url: str, *, prefix: str = PREFIX, restart_window: float = RESTART_WINDOW, timeout: float = TIMEOUT
    ) -> RedisStore:
        """A store with a client of its own, whose connections and replies take at most `timeout` seconds."""
        retry = AsyncRetry(ConstantBackoff(RETRY_PAUSE), 1)
        client = redis.asyncio.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry)
        return cls(client, prefix=prefix, restart_window=restart_window)

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._client.aclose()

    async def claim(self, key: bytes, request: ClaimRequest) -> ClaimState:
        return await self._run(self._calls.claim(key, request))

    async def renew(self, key: bytes, request: ClaimRequest) -> bool:
        return await self._run(self._calls.renew(key, request))

    async def finish(self, key: bytes, request: ClaimRequest, result: bytes) -> bool:
        return await self._run(self._calls.finish(key, request, result))

    async def release(self, key: bytes, request: ClaimRequest) -> bool:
        return await self._run(self._calls.release(key, request))

    async def append(self, key: bytes, turn_id: bytes, turn: bytes, keep: int, ttl: float) -> None:
        await self._run(self._calls.append(key, turn_id, turn, keep, ttl))

    async def turns(self, key: bytes) -> list[tuple[bytes, bytes]]:
        return await self._run(self._calls.turns(key))

    async def get(self, key: bytes) -> tuple[bytes, float] | None:
        return await self._run(self._calls.get(key))

    async def put(self, key: bytes, value: bytes, ttl: float) -> None:
        await self._run(self._calls.put(key, value, ttl))

    async def _run(self, call: Call[T]) -> T:
        try:
            try:
                return call.read(await self._evaluate(call))
            except NoScriptError:
                await self._prepare()
                return call.read(await self._evaluate(call))
        except (RedisError, OSError) as error:
            raise unavailable(error) from error

    async def _evaluate(self, call: Call[T]) -> Any:
        client: Any = self._client
        return await client.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)

    async def _prepare(self) -> None:
        """Load the scripts, if this Redis can be trusted."""
        client: Any = self._client  # its annotations mix both kinds of client
        if self._restart_window:
            check_trust(await client.info(), await self._fsync(client), self._restart_window)
        for script in SCRIPTS:
            await client.script_load(script.source)

    @staticmethod
    async def _fsync(client: Any) -> str:
        try:
            return fsync_of(await client.config_get("appendfsync"))
        except redis.ResponseError:
            return ""  # hosted Redis often forbids CONFIG


def fsync_of(settings: dict[Any, Any]) -> str:
    """The value in the reply to CONFIG GET appendfsync."""
    value = next(iter(settings.values()), b"")
    return value.decode() if isinstance(value, bytes) else str(value)


def unavailable(error: Exception) -> StoreUnavailableError:
    """What the caller is told if Redis fails."""
    return StoreUnavailableError(f"Redis does not serve ({error}); nothing was run. Send the same request again")
