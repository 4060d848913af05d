"""Writes what a verb was asked to put into a file."""

from __future__ import annotations

from pathlib import Path

from rumormill.cli.exit_codes import BadRequest
from rumormill.sidecar.file_writer import replace_file


def write_output(path: Path, text: bytes) -> None:
    """Replace a file, or write to a pipe or a device. Raises :class:`BadRequest`; an old file is then unchanged."""
    try:
        if path.is_file() or not path.exists():
            replace_file(path, text, mode=0o666)
        else:
            path.write_bytes(text)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}", "choose another file") from None
