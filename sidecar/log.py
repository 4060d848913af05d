"""The sidecar's log: one line an event on stderr, JSON unless a person is watching."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple, TextIO

from rumormill.sidecar.line_writer import LineStream, LineWriter

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


class LogFile(NamedTuple):
    """An open log."""

    log: Log
    writer: LineWriter


def open_log(stream: TextIO | None, **always: str) -> LogFile:
    """The process's log, to the stream (None: it is closed); ``always`` stands on every line (the member's name, say).

    What other rooms log through ``structlog.get_logger()`` goes the same way, and so does whatever the process writes
    to ``sys.stderr`` from now on. The end of the process waits for the last lines, for a bounded time.
    """
    person = stream is not None and stream.isatty()
    processors: list[structlog.typing.Processor] = [
        _Always(always),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if person else "iso", utc=not person),
        structlog.processors.ExceptionRenderer(),
        structlog.dev.ConsoleRenderer(colors=True) if person else structlog.processors.JSONRenderer(),
    ]
    filtering = structlog.make_filtering_bound_logger("info")
    about_loss = structlog.wrap_logger(structlog.ReturnLogger(), processors, filtering)
    writer = LineWriter(
        None if stream is None else stream.fileno(),
        lambda lost: str(about_loss.warning("log", dropped=lost, text=f"{lost} lines were dropped: nobody took them")),
    )
    structlog.configure(
        processors=processors,
        wrapper_class=filtering,
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=True,
    )
    sys.stderr = LineStream(writer, terminal=person)
    atexit.register(writer.close)
    log: Log = structlog.get_logger().bind()  # a proxy would build a logger for every line
    return LogFile(log, writer)


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
    """Takes a line of any level; one writer serves all of them."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, message: str) -> None:
        self._writer.put(message)

    debug = info = warning = error = critical = exception = msg
