"""rumormill: its own agent, sealed, with all other settings at their defaults."""

from __future__ import annotations

import base64
import importlib.metadata
import os
import secrets
import sys
from collections.abc import Sequence

from bench.peers.systems import PLACE, Conditions, NodeEvent, PeerProcess, read_json

WORKER_PORT = 9000
EVENTS = {
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

    def argv(self, process: PeerProcess, conditions: Conditions) -> Sequence[str]:
        ip = process.host.ip
        argv = [sys.executable, "-c", "from rumormill.cli.main import main; main()", "agent"]
        argv += ["--name", process.name, "--cluster", "bench", "--service", "embed", "--key-file", str(self.key)]
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
        for seed in process.seeds:
            argv += ["--join", f"{seed.ip}:{self.port}"]
        return [*argv, *conditions.flags.get(self.name, ()), *process.flags]

    def read(self, line: bytes) -> NodeEvent | None:
        entry = read_json(line)
        if entry is None or "monotonic" not in entry or (word := EVENTS.get(entry["event"])) is None:
            return None
        return NodeEvent(entry["monotonic"], word, entry.get("who", entry["member"]))

    def crowd(self, count: int, limit: float) -> Sequence[str]:
        return [sys.executable, "-m", "bench.peers.nodes.rumormill_crowd", str(count), str(limit)]
