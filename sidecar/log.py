"""The sidecar's log: one line per event on stderr. It is JSON, unless stderr is a terminal."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple, TextIO

from rumormill.sidecar.line_writer import LineStream, LineWriter

# structlog imports rich if it is installed, to render tracebacks that this log does not render. That would cost 3 MB
# and 30 ms at each start, so rich is hidden while structlog is imported.
_rich = {name: sys.modules.get(name) for name in ("rich", "rich.console")}
sys.modules.update(dict.fromkeys(_rich))  # type: ignore[arg-type]  # None means "not installed"
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


def open_log(stream: TextIO | None, **fields: str) -> LogFile:
    """The process's log, written to the stream (None: it is closed). Every line carries ``fields``.

    Other packages log through ``structlog.get_logger()`` to the same place. Whatever the process writes to
    ``sys.stderr`` from now on goes there too. The end of the process waits for the last lines, for a bounded time.
    """
    on_terminal = stream is not None and stream.isatty()
    processors: list[structlog.typing.Processor] = [
        _AddFields(fields),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if on_terminal else "iso", utc=not on_terminal),
        structlog.processors.ExceptionRenderer(),
        structlog.dev.ConsoleRenderer(colors=True) if on_terminal else structlog.processors.JSONRenderer(),
    ]
    filtering = structlog.make_filtering_bound_logger("info")
    loss_line = structlog.wrap_logger(structlog.ReturnLogger(), processors, filtering)
    writer = LineWriter(
        None if stream is None else stream.fileno(),
        lambda lost: str(
            loss_line.warning("log", dropped=lost, text=f"{lost} lines were dropped: stderr did not accept them")
        ),
    )
    structlog.configure(
        processors=processors,
        wrapper_class=filtering,
        logger_factory=lambda *_: _LineLogger(writer),
        cache_logger_on_first_use=True,
    )
    sys.stderr = LineStream(writer, terminal=on_terminal)
    atexit.register(writer.close)
    log: Log = structlog.get_logger().bind()  # bind() once: the proxy would build a logger for every line
    return LogFile(log, writer)


class _AddFields:
    """Adds the same fields to every line."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def __call__(self, _logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"event": line.pop("event", ""), **self._fields, **line}


def monotonic() -> float:
    """Seconds on CLOCK_MONOTONIC: a timestamp that is comparable between all processes of one machine."""
    return round(time.monotonic(), 6)


class _LineLogger:
    """The logger behind structlog: lines of every level go to one writer."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, message: str) -> None:
        self._writer.put(message)

    debug = info = warning = error = critical = exception = msg
