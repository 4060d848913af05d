"""A pool of the stage's workers with an HTTP client on it, in the test's own loop or for threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
from limits import LIVENESS_LIMIT
from stage import Stage, StageInThread

from rumormill.client import Pool, SyncPool

KEYED = {"Rumormill-Key": "user-1"}


@asynccontextmanager
async def calling(scene: Stage, **settings: Any) -> AsyncIterator[tuple[Pool, httpx2.AsyncClient]]:
    """A pool of the stage's workers, and an httpx2 client on it."""
    async with (
        Pool(scene.urls, "embed", **{"patience": LIVENESS_LIMIT, **settings}) as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http,
    ):
        yield pool, http


def names(response: httpx2.Response) -> list[str]:
    """The workers that were tried, in order."""
    return [attempt.worker.name for attempt in response.extensions["rumormill_attempts"]]


@contextmanager
def calling_in_thread(scene: StageInThread, **settings: Any) -> Iterator[tuple[SyncPool, httpx2.Client]]:
    """The same for threads, without a timeout."""
    with (
        SyncPool(scene.scene.urls, "embed", **{"patience": LIVENESS_LIMIT, **settings}) as pool,
        httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
    ):
        yield pool, http
