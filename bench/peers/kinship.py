"""kinship (PyPI, with a Rust core), in a small Python program, tuned to a 200 ms period."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from bench.peers.systems import NODES, Conditions, NodeEvent, PeerProcess, read_node, run

VERSION = "0.4.0"


class Kinship:
    name = "kinship"
    port = 7948
    program = str(NODES / "kinship_node.py")

    def prepare(self) -> str:
        if importlib.util.find_spec("kinship") is None:
            run([sys.executable, "-m", "pip", "install", "--quiet", f"kinship=={VERSION}"], "installing it")
        asked = "import importlib.metadata as m; print(m.version('kinship'))"
        return run([sys.executable, "-c", asked], "its version").strip()

    def argv(self, process: PeerProcess, conditions: Conditions) -> Sequence[str]:
        argv = [sys.executable, self.program, "--name", process.name, "--bind", f"{process.host.ip}:{self.port}"]
        for seed in process.seeds:
            argv += ["--join", f"{seed.ip}:{self.port}"]
        return [*argv, *(["--no-tcp-pings"] if conditions.udp_only else []), *conditions.flags.get(self.name, ())]

    def read(self, line: bytes) -> NodeEvent | None:
        return read_node(line)

    def crowd(self, count: int, limit: float) -> Sequence[str]:
        return [sys.executable, self.program, "--crowd", str(count), "--limit", str(limit)]
