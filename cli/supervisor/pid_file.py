"""The PID file through which the sidecar follows the worker. It is in memory, so it needs no writable disk."""

from __future__ import annotations

import os
from typing import Final

DESCRIPTOR: Final = 3
"""The file's descriptor in the sidecar's process."""
PATH: Final = f"/proc/self/fd/{DESCRIPTOR}"
"""Where the sidecar reads it."""


class MemoryPidFile:
    """A file without a name. The sidecar inherits its descriptor, and opens it anew for each read."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("worker.pid")

    def write(self, pid: int) -> None:
        """Name this process; 0 for none."""
        os.pwrite(self.descriptor, b"%-10d\n" % pid, 0)
