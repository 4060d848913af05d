"""rumormill: its own agent, sealed, every other setting its own choice."""

from __future__ import annotations

import base64
import importlib.metadata
import os
import secrets
import sys
from collections.abc import Sequence

from bench.peers.systems import PLACE, Conditions, PeerProcess, Said, read_json

WORKER_PORT = 9000
WORDS = {
    "serving": "up",
    "joined": "joined",
    "returned": "joined",
    "restarted": "joined",
    "evicted": "gone",
    "left": "left",
    "suspected": "suspected",
    "refuted": "refuted",
    "updated": "updated",
    "paused": "paused",
    "worker": "worker",
}


class Rumormill:
    name = "rumormill"
    port = 7946

    def prepare(self) -> str:
        PLACE.mkdir(parents=True, exist_ok=True)
        self.key = PLACE / "pool.key"
        if not self.key.exists():
            with os.fdopen(os.open(self.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(base64.b64encode(secrets.token_bytes(32)) + b"\n")
        return importlib.metadata.version("rumormill")

    def argv(self, life: PeerProcess, conditions: Conditions) -> Sequence[str]:
        ip = life.host.ip
        argv = [sys.executable, "-c", "from rumormill.cli.main import main; main()", "agent"]
        argv += ["--name", life.name, "--cluster", "bench", "--service", "embed", "--key-file", str(self.key)]
        argv += ["--worker", f"http://127.0.0.1:{WORKER_PORT}", "--advertise-worker", f"http://{ip}:{WORKER_PORT}"]
        argv += [
            "--gossip",
            f"{ip}:{self.port}",
            "--http",
            "127.0.0.1:7380",
            "--drain-time",
            "0ms",
            "--probation",
            "0s",
        ]
        for seed in life.seeds:
            argv += ["--join", f"{seed.ip}:{self.port}"]
        return [*argv, *conditions.flags.get(self.name, ()), *life.flags]

    def read(self, line: bytes) -> Said | None:
        said = read_json(line)
        if said is None or "monotonic" not in said or (word := WORDS.get(said["event"])) is None:
            return None
        return Said(said["monotonic"], word, said.get("who", said["member"]))

    def crowd(self, count: int, limit: float) -> Sequence[str]:
        return [sys.executable, "-m", "bench.peers.nodes.rumormill_crowd", str(count), str(limit)]
