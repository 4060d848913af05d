"""Garbage collection that no heartbeat waits for.

A full collection looks at every object of the process: with some thousand callers that takes a third of a second, more
than a heartbeat's period. Nearly all objects go when nothing refers to them any more, without a collection. So full
ones wait for a moment with few callers. The short collections of new objects go on as usual.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final

import trio

INTERVAL: Final = 60.0
"""Seconds between two looks. Smaller: less garbage, and more pauses of some milliseconds."""
FEW_CALLERS: Final = 256
"""With so many callers a full collection takes about 20 ms."""
NEVER: Final = 1_000_000_000
YOUNG_COLLECTIONS: Final = 10
"""Collections of new objects before a full one, as is usual in Python."""


def hold_full_collections() -> None:
    """Let only :func:`collect_with_few_callers` make full collections.

    What exists by now lives as long as the process, imported modules above all, and is never looked at again.
    """
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], NEVER)


async def collect_with_few_callers(callers: Callable[[], int]) -> None:
    """Make full collections when few are connected and there may be something to collect. Never returns."""
    while True:
        await trio.sleep(INTERVAL)
        if callers() < FEW_CALLERS and gc.get_count()[2] > YOUNG_COLLECTIONS:
            gc.collect()
