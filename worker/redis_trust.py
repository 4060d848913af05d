"""Whether a Redis may have lost claims by restarting. Pure.

A Redis that restarts without its last writes has forgotten claims, and a call that it forgot would be run again. So a
store does not use a Redis that started less than a window and a lease ago, unless Redis writes every command to its
append-only file before it answers. After that time, every claim that it could have lost would have expired anyway.

Redis forgets its scripts when it restarts and when a replica becomes the primary. So the first NOSCRIPT reply is the
moment to ask. The scripts are loaded only into a Redis that passes, and other workers then find them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rumormill.worker.errors import StoreUnavailableError


class StoreRestartedError(StoreUnavailableError):
    """This Redis may have lost claims of the last window. It is used again once the window has passed."""


def check_trust(server: Mapping[str, Any], fsync: str, window: float) -> None:
    """Raises :class:`StoreRestartedError` if claims of the last `window` seconds may be missing.

    `server` is the reply to INFO. `fsync` is the setting `appendfsync`, or empty if Redis does not tell.
    """
    uptime = float(server.get("uptime_in_seconds", 0))
    durable = bool(server.get("aof_enabled")) and fsync == "always"
    if uptime >= window or durable:
        return
    raise StoreRestartedError(
        f"this Redis started {uptime:.0f} s ago and may have lost claims of the last {window:g} s; it is used in "
        f"{window - uptime:.0f} s. To use it at once, set `appendonly yes` and `appendfsync always` in Redis, or "
        "restart_window=0 in the store if losing claims is harmless"
    )
