"""A real Redis for one test. Tests are skipped where none is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.redis_server import DURABLE, RedisServer

__all__ = ["DURABLE", "RedisServer", "redis_server"]


@contextmanager
def redis_server(folder: Path, **settings: str) -> Iterator[RedisServer]:
    """A running Redis, with its files in the folder."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed; as root, `make test-programs` installs it")
    server = RedisServer(folder, **settings)
    try:
        server.start()
        yield server
    finally:
        server.kill()
