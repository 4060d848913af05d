"""A real Redis on a free port of loopback, with its files in a given folder. It can be killed and started again."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import redis

from bench.ports import reserved_port

SETTINGS = {"save": "", "bind": "127.0.0.1", "daemonize": "no", "maxmemory-policy": "noeviction"}
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
"""Redis answers a write once it is on disk, so a kill loses none."""


START_LIMIT = 120.0
"""Seconds that Redis has to answer. Only a hang takes so long."""


class RedisServer:
    """One Redis process at a time, always on the same port."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder = folder
        self._settings = {**SETTINGS, **settings}
        self.port = reserved_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = [word for name, value in self._settings.items() for word in (f"--{name}", value)]
        command = ["redis-server", "--port", str(self.port), "--dir", str(self._folder), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends = time.monotonic() + START_LIMIT
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    if self._process.poll() is not None or time.monotonic() > ends:
                        raise RuntimeError(
                            f"redis-server does not answer; run it by hand: {' '.join(command)}"
                        ) from None
                    time.sleep(0.02)
                else:
                    return

    def kill(self) -> None:
        """kill -9. Safe to repeat."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
