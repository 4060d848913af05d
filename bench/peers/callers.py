"""A partition as callers see it: one caller per side, through its own sidecar, before, during and after."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.netns_testbed import Bed, NetnsHost
from bench.peers import measures
from bench.peers.rumormill import WORKER_PORT
from bench.peers.testbed import PeerTestbed

RATE = 50.0
BEFORE_SECONDS = 3.0


class CallerOn:
    """A caller's process on a host. Its outcomes are read when it ends."""

    def __init__(self, bed: Bed, host: NetnsHost, folder: Path) -> None:
        self._file = (folder / f"{host.number}").open("w+b")
        argv = [sys.executable, "-m", "bench.peers.nodes.caller", "http://127.0.0.1:7380", str(RATE)]
        self._process = subprocess.Popen(bed.command(host, argv), stdin=subprocess.PIPE, stdout=self._file)

    def finish(self) -> list[dict[str, Any]]:
        self._process.communicate(b".")
        self._file.seek(0)
        return [json.loads(line) for line in self._file]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._file.close()


def partition(testbed: PeerTestbed, seconds: float) -> None:
    """:func:`measures.partition` with real workers, and a caller on each side."""
    (pool,) = testbed.pools
    measured = testbed.measurements[pool.name]
    with ExitStack() as stack:
        for member in pool.members:
            stack.callback(end_process, start_worker(testbed.bed, member.host, member.name))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [testbed.bed[0], testbed.bed[len(testbed.bed) // 2]]
        callers = [CallerOn(testbed.bed, host, folder) for host in sides]
        for caller in callers:
            stack.callback(caller.close)
        time.sleep(BEFORE_SECONDS)
        begun = time.monotonic()
        measures.partition(testbed, seconds)
        time.sleep(1.0)
        outcomes = [outcome for caller in callers for outcome in caller.finish() if outcome["ended"] >= begun]
    measured.samples["requests"] = [outcome["ended"] - outcome["begun"] for outcome in outcomes]
    failed = [outcome["trouble"] or outcome["wrong"] for outcome in outcomes if outcome["trouble"] or outcome["wrong"]]
    measured.numbers["requests sent"] = len(outcomes)
    measured.numbers["requests failed"] = len(failed)
    if failed:
        testbed.log(f"failed, for example: {failed[0]}")


def start_worker(bed: Bed, host: NetnsHost, name: str, address: str = "") -> subprocess.Popen[bytes]:
    """A worker on a host; without an address it listens on the host's own alone."""
    own = ["-m", "rumormill.cli.demo.worker", "--name", name, "--host", address or host.ip, "--port", str(WORKER_PORT)]
    argv = bed.command(host, [sys.executable, *own, "--think", "3"])
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL)


def end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
