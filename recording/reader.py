"""Reads a record (file_format.py) of anybody, with the bounded streaming reader of the msgpack package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import msgpack

from rumormill.recording.file_format import Entry, Header

MAX_OBJECT_BYTES: Final = 256 << 20
"""The longest object that is read: the state of a pool of ten thousand."""


class UnreadableRecord(ValueError):
    """Not a record, or one of another version. The text says what to do."""


@dataclass(slots=True)
class RecordedSegment:
    """One segment as it was read."""

    now: float
    key_version: int
    state: Any
    entries: list[Entry]


@dataclass(slots=True)
class FlightRecord:
    """A record as it was read."""

    header: Header
    segments: list[RecordedSegment]
    torn: str = ""
    """What is wrong with its end; empty if nothing is."""


def read_record_untrusted(file: BinaryIO) -> FlightRecord:
    """Read a record. A torn end (the process was killed while it wrote) is cut off and reported.

    Raises :class:`UnreadableRecord`.
    """
    objects = _objects(file)
    try:
        header = _header(next(objects, None))
    except UnreadableRecord as error:
        raise UnreadableRecord(f"this is no record ({error}); `rumormill record dump` writes one") from None
    record = FlightRecord(header, [])
    try:
        for place, found in enumerate(objects, 2):
            if not isinstance(found, list) or not found or not isinstance(found[0], str):
                raise UnreadableRecord(f"object {place} is no entry")
            if found[0] == "segment":
                _, now, key_version, state = found
                record.segments.append(RecordedSegment(float(now), int(key_version), state, []))
            elif record.segments:
                record.segments[-1].entries.append(tuple(found))
    except (UnreadableRecord, TypeError, ValueError) as error:
        record.torn = str(error)
    if not record.segments:
        raise UnreadableRecord(f"the record of {header.name} has no segment{': ' + record.torn if record.torn else ''}")
    return record


def _header(first: Any) -> Header:
    match first:
        case ["rumormill record", 1, {"name": str(), "cluster": str(), "version": str(), "python": str()} as fields]:
            return Header(**{name: fields[name] for name in Header.__slots__})
        case ["rumormill record", int(other), *_]:
            raise UnreadableRecord(f"its format is {other}; read it with the version that wrote it")
    raise UnreadableRecord("it does not begin like one")


def _objects(file: BinaryIO) -> Iterator[Any]:
    """Each object in turn. Raises :class:`UnreadableRecord` at the first that is torn or damaged."""
    unpacker = msgpack.Unpacker(file, raw=False, max_buffer_size=MAX_OBJECT_BYTES, strict_map_key=False)
    while True:
        at = unpacker.tell()
        try:
            found = unpacker.unpack()
        except msgpack.OutOfData:
            size = file.seek(0, 2)
            if at < size:
                raise UnreadableRecord(f"its last {size - at} bytes are the beginning of an object") from None
            return
        except (msgpack.UnpackException, ValueError) as error:
            raise UnreadableRecord(f"byte {at} begins no MessagePack object ({error})") from None
        yield found
