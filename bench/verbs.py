"""The CPU that a verb takes until it asks a sidecar, beside an empty Python and beside importing httpx2 alone."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence

RUNS = 7
VERB = "from rumormill.cli.main import main; main()"


def cpu_seconds(*arguments: str) -> float:
    """The least CPU (user and system) that this Python takes in several runs."""
    return min(_once(arguments) for _ in range(RUNS))


def _once(arguments: Sequence[str]) -> float:
    before = _of_children()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return _of_children() - before


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    empty, library = cpu_seconds("-c", "pass"), cpu_seconds("-c", "import httpx2")
    print(f"python, nothing imported   {empty:.3f} s")
    print(f"python, httpx2 imported    {library:.3f} s")
    for verb in ("members", "workers", "lookup k", "events", "status", "drain", "canary show", "doctor"):
        took = cpu_seconds("-c", VERB, *verb.split(), "--http", "http://127.0.0.1:1")
        print(f"rumormill {verb:17}{took:.3f} s, {took / empty:.1f} times an empty Python")
