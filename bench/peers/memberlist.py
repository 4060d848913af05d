"""HashiCorp's memberlist (Debian's package), in a small Go program, tuned to a 200 ms period."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bench.peers.systems import NODES, PLACE, Conditions, NodeEvent, PeerProcess, Unavailable, read_node, run

LIBRARY = Path("/usr/share/gocode/src/github.com/hashicorp/memberlist")
HINT = "apt-get install -y golang-go golang-github-hashicorp-memberlist-dev"


class Memberlist:
    name = "memberlist"
    port = 7947

    def prepare(self) -> str:
        if not LIBRARY.exists():
            raise Unavailable(f"its sources are not installed: {HINT}")
        PLACE.mkdir(parents=True, exist_ok=True)
        self.program = str(PLACE / "memberlist")
        cache = PLACE / "go"
        env = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(cache)}
        run(["go", "build", "-o", self.program, str(NODES / "memberlist.go")], "building it", env=env)
        return run(["dpkg-query", "-W", "-f", "${Version}", "golang-github-hashicorp-memberlist-dev"], "its version")

    def argv(self, process: PeerProcess, conditions: Conditions) -> Sequence[str]:
        seeds = ",".join(f"{seed.ip}:{self.port}" for seed in process.seeds)
        argv = [self.program, "-name", process.name, "-bind", process.host.ip, "-port", str(self.port), "-join", seeds]
        return [*argv, *(["-no-tcp-pings"] if conditions.udp_only else []), *conditions.flags.get(self.name, ())]

    def read(self, line: bytes) -> NodeEvent | None:
        return read_node(line)

    def crowd(self, count: int, limit: float) -> Sequence[str]:
        return [self.program, "-crowd", str(count), "-limit", f"{limit:g}s"]
