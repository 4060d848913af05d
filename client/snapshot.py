"""The last good list on disk: so that a caller that starts while no sidecar answers still knows whom to ask.

One JSON file with the answer and the wall-clock time it was good. It is replaced as a whole or not at all.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from rumormill.discovery.schema.workers import WorkersAnswer

GOOD_FOR = 3600.0
"""Seconds. Older, and an address may long be somebody else's, who should not get this caller's requests."""
MAX_BYTES = 32 * 2**20


class SavedTopology(msgspec.Struct, frozen=True):
    """What stands in the file."""

    saved: float
    """Wall clock, seconds since 1970."""
    answer: WorkersAnswer


class UnusableSnapshot(Exception):
    """There is no list worth believing in the file; the message says why."""


_decode = msgspec.json.Decoder(SavedTopology).decode


def load_snapshot(path: Path, service: str, cluster: str | None, wall: float) -> tuple[WorkersAnswer, float]:
    """The answer and its age in seconds. Raises :class:`UnusableSnapshot`, nothing else.

    `cluster` is the one insisted on, if any; `wall` is the clock now.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnusableSnapshot(f"{path} is larger than any list of workers; remove it")
        snapshot = _decode(path.read_bytes())
    except FileNotFoundError:
        raise UnusableSnapshot(f"there is no {path} yet") from None
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise UnusableSnapshot(f"{path} cannot be read ({error}); remove it, and it will be written anew") from None
    age = max(wall - snapshot.saved, 0.0)
    if snapshot.answer.service != service:
        raise UnusableSnapshot(
            f"{path} is of service {snapshot.answer.service!r} and not {service!r}; give each its own"
        )
    if cluster is not None and snapshot.answer.cluster != cluster:
        raise UnusableSnapshot(
            f"{path} is of cluster {snapshot.answer.cluster!r} and not {cluster!r}; give each its own"
        )
    if age > GOOD_FOR:
        raise UnusableSnapshot(f"{path} is {age / 3600:.1f} hours old")
    return snapshot.answer, age


def save_snapshot(path: Path, answer: WorkersAnswer, wall: float) -> None:
    """Replace the file. Raises OSError; the file is then what it was."""
    data = msgspec.json.encode(SavedTopology(wall, answer))
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
