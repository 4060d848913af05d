"""Makes sure that a pool of processes leaves nothing behind, even if the process that runs it is killed.

Every process of a pool has the pool's directory in its environment, and passes it to its children. The reaper is a
process in a session of its own that waits for the end of its standard input. The process that runs the pool holds the
other end of that pipe. However that process ends (even by kill -9), the kernel closes the pipe. Then the reaper kills
every process with the directory in its environment, and removes the directory. Normally the running process calls
:func:`clean_up` itself.

It is run as a file with ``python -I -S``, so it starts in 15 ms and imports only the standard library.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

POOL_VARIABLE = "LOCAL_POOL_DIRECTORY"
_PATIENCE_SECONDS = 5.0


def pool_processes(directory: str) -> list[int]:
    """The ids of the other processes with this directory in their environment. Those of other users cannot be read."""
    mark = f"{POOL_VARIABLE}={directory}".encode()
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 - a cheap look is wanted
    return [pid for pid in pids if pid != os.getpid() and mark in environment(pid)]


def environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def kill_pool_processes(directory: str) -> None:
    """Kill all processes of the pool, repeatedly until none is left, because one may be starting another meanwhile."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while (found := pool_processes(directory)) and time.monotonic() < until:
        for pid in found:
            _kill(pid, directory)
        time.sleep(0.01)


def _kill(pid: int, directory: str) -> None:
    """Kill one process through a pidfd that is opened before its environment is checked again. So a process that has
    reused the id is never killed."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if f"{POOL_VARIABLE}={directory}".encode() in environment(pid):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        pass  # it ended by itself
    finally:
        os.close(descriptor)


def clean_up(directory: str) -> None:
    """Kill all processes of the pool, and remove its directory."""
    kill_pool_processes(directory)
    shutil.rmtree(directory, ignore_errors=True)


def main(directory: str) -> None:
    """Wait for the end of standard input, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(4096):
        pass
    clean_up(directory)


if __name__ == "__main__":
    main(sys.argv[1])
