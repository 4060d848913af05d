"""The sidecar's log: one line an event on stderr, JSON unless a person is watching."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

# structlog looks for rich, to draw tracebacks that this log never draws, and takes 3 MB and 30 ms for it.
_rich = {name: sys.modules.get(name) for name in ("rich", "rich.console")}
sys.modules.update(dict.fromkeys(_rich))  # type: ignore[arg-type]  # None stands for "not there"
try:
    import structlog
finally:
    for _name, _module in _rich.items():
        if _module is None:
            del sys.modules[_name]
        else:
            sys.modules[_name] = _module

Log = structlog.typing.FilteringBoundLogger


def open_log(stream: TextIO | None = None, **always: str) -> Log:
    """The process's log, to the stream (stderr); ``always`` stands on every line (the member's name, say).

    What other rooms log through ``structlog.get_logger()`` goes the same way.
    """
    stream = stream or sys.stderr
    person = stream.isatty()
    structlog.configure(
        processors=[
            _Always(always),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if person else "iso", utc=not person),
            structlog.processors.ExceptionRenderer(),
            structlog.dev.ConsoleRenderer(colors=True) if person else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=True,
    )
    log: Log = structlog.get_logger().bind()  # a proxy would build a logger for every line
    return log


class _Always:
    """Puts the same words on every line."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self._words = words

    def __call__(self, _logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"event": line.pop("event", ""), **self._words, **line}


def monotonic() -> float:
    """A stamp that lines of all processes of one machine can be compared by: seconds on CLOCK_MONOTONIC."""
    return round(time.monotonic(), 6)


class _Lines:
    """Writes whole lines. A log that cannot be written (a full disk, a closed pipe) stops nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        try:
            self._stream.write(message + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = exception = msg
