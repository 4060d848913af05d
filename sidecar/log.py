"""The sidecar's log: one line per event on stderr. It is JSON, unless stderr is a terminal."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, NamedTuple, TextIO, get_args

from rumormill.sidecar.line_writer import LineStream, LineWriter
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import LogLevel

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
LEVELS: Final[tuple[LogLevel, ...]] = get_args(LogLevel)
_lowest = [0]
"""The place in :data:`LEVELS` of the lowest level that is written. It can change while loggers exist."""


class LogFile(NamedTuple):
    """An open log."""

    log: Log
    writer: LineWriter


def set_log_level(level: LogLevel) -> None:
    """Write only lines of at least this level from now on."""
    _lowest[0] = LEVELS.index(level)


def open_log(stream: TextIO | None, settings: Settings) -> LogFile:
    """The process's log, written to the stream (None: it is closed). Every line names the member.

    The format "auto" is text on a terminal, and JSON otherwise. Other packages log through
    ``structlog.get_logger()`` to the same place. Whatever the process writes to ``sys.stderr`` from now on goes there
    too. The end of the process waits for the last lines, for a bounded time.
    """
    set_log_level(settings.log_level)
    on_terminal = stream is not None and stream.isatty()
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and on_terminal)
    processors: list[structlog.typing.Processor] = [
        _drop_low_levels,
        _AddFields({"member": settings.name}),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S" if as_text else "iso", utc=not as_text),
        structlog.processors.ExceptionRenderer(),
        structlog.dev.ConsoleRenderer(colors=on_terminal) if as_text else structlog.processors.JSONRenderer(),
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


def _drop_low_levels(_logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if method in LEVELS and LEVELS.index(method) < _lowest[0]:
        raise structlog.DropEvent
    return line


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
