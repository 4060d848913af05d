"""Clients on a pool's transports, for mypy: `make lint` checks this file, and every ignore below must be needed."""

from __future__ import annotations

import httpx
import httpx2
from openai import AsyncOpenAI, OpenAI

from rumormill.client import Figures, Pool, SyncPool
from rumormill.client.legacy_httpx import httpx_transport


def the_right_clients(pool: Pool, sync_pool: SyncPool, figures: Figures) -> None:
    OpenAI(http_client=httpx2.Client(transport=sync_pool.transport()))
    AsyncOpenAI(http_client=httpx2.AsyncClient(transport=pool.transport(replay="always")))
    httpx2.AsyncClient(transport=figures.transport(pool.transport()))
    httpx2.Client(transport=figures.sync_transport(sync_pool.transport()))
    httpx.AsyncClient(transport=httpx_transport(pool.transport()))
    httpx.Client(transport=httpx_transport(figures.sync_transport(sync_pool.transport())))


def the_wrong_clients(pool: Pool, sync_pool: SyncPool) -> None:
    httpx2.Client(transport=pool.transport())  # type: ignore[arg-type]
    httpx2.AsyncClient(transport=sync_pool.transport())  # type: ignore[arg-type]
    httpx.AsyncClient(transport=pool.transport())  # type: ignore[arg-type]
    httpx.Client(transport=sync_pool.transport())  # type: ignore[arg-type]
    httpx2.AsyncClient(transport=httpx_transport(pool.transport()))  # type: ignore[arg-type]
    pool.transport(replay="sometimes")  # type: ignore[arg-type]
