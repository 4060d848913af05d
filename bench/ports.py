"""Ports of loopback for programs that are told theirs before they start, and keep it when they are started again."""

from __future__ import annotations

import atexit
import random
from contextlib import ExitStack

from rumormill.cli.demo.ports import hold_port

_holds = ExitStack()
atexit.register(_holds.close)


def reserved_port() -> int:
    """A port for TCP and UDP that nobody else is given as long as this process runs."""
    return _holds.enter_context(hold_port(random.Random())).port
