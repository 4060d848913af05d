"""The last good list of workers on disk, for a caller that starts while no sidecar answers.

It is one JSON file, with the answer and the wall-clock time at which it was good. It is replaced atomically.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from rumormill.discovery.schema.workers import WorkersAnswer

MAX_AGE = 3600.0
"""Seconds. An address in an older file may belong to somebody else now, who should not get this caller's requests."""
MAX_BYTES = 32 * 2**20


class SavedTopology(msgspec.Struct, frozen=True):
    """The content of the file."""

    saved: float
    """Wall clock, seconds since 1970."""
    answer: WorkersAnswer


class UnusableSnapshot(Exception):
    """The file holds no usable list. The message says why."""


_decode = msgspec.json.Decoder(SavedTopology).decode


def load_snapshot(path: Path, service: str, cluster: str | None, wall: float) -> tuple[WorkersAnswer, float]:
    """The answer and its age in seconds. Raises :class:`UnusableSnapshot`, nothing else.

    `cluster` is the required one, if any. `wall` is the wall-clock time now.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnusableSnapshot(f"{path} is larger than any list of workers; remove it")
        snapshot = _decode(path.read_bytes())
    except FileNotFoundError:
        raise UnusableSnapshot(f"{path} does not exist yet") from None
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise UnusableSnapshot(f"{path} cannot be read ({error}); remove it; the pool writes a new one") from None
    age = max(wall - snapshot.saved, 0.0)
    if snapshot.answer.service != service:
        raise UnusableSnapshot(
            f"{path} is of service {snapshot.answer.service!r}, not {service!r}; give each pool its own file"
        )
    if cluster is not None and snapshot.answer.cluster != cluster:
        raise UnusableSnapshot(
            f"{path} is of cluster {snapshot.answer.cluster!r}, not {cluster!r}; give each pool its own file"
        )
    if age > MAX_AGE:
        raise UnusableSnapshot(f"{path} is {age / 3600:.1f} hours old")
    return snapshot.answer, age


def save_snapshot(path: Path, answer: WorkersAnswer, wall: float) -> None:
    """Replace the file. Raises OSError, and then leaves the file unchanged."""
    data = msgspec.json.encode(SavedTopology(wall, answer))
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
