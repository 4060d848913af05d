"""Times on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from rumormill.cli.exit_codes import BadRequest

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")


def parse_time(option: str, text: str) -> float:
    """Seconds from a time with a unit: 200ms, 30s, 5m. Raises :class:`BadRequest`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise BadRequest(f"{option} {text!r} is not a time", "write it with a unit: 30s, 5m")
    return float(match[1]) * _UNITS[match[2]]


def utc_stamp(seconds: float) -> str:
    """Seconds since 1970 as date and time in UTC, to the millisecond."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
