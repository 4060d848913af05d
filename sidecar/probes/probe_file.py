"""Reads a probe file (TOML) whole. An error names the file, the line and the key, and says what to write.

    kind = "embeddings"
    model = "e5-small"
    api-key-file = "engine.key"

    [expect]
    length = 384
    norm = 1.0

Keys may be written with underscores too. An unknown key is refused, with the nearest known one: a typo would be an
expectation that nobody checks.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.probes.probe_check import BadProbe, checked
from rumormill.sidecar.probes.specification import KINDS, ProbeSpec
from rumormill.sidecar.probes.toml_lines import line_of
from rumormill.sidecar.settings_values import BadValue, Seconds

MAX_FILE_BYTES = 4 << 20
FREE_TABLES = ("headers", "body", "schema")
"""Tables whose keys are not ours."""
_PATH_IN_ERROR = re.compile(r" - at `\$\.?(.*?)`$")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`")


def read_probe_file(path: Path) -> ProbeSpec:
    """The probe in a file, checked whole, its key file included. Blocks. Raises :class:`SettingsError`."""
    text = _read(path)
    try:
        return parse_probe(text, path.parent)
    except BadProbe as error:
        line = line_of(text, error.key) if error.key else None
        place = f"{path}, line {line}" if line else str(path)
        raise SettingsError(f"{place}: {error}", error.hint) from None


def _read(path: Path) -> str:
    hint = "give --probe-file a TOML file that this user can read; docs/run/probes.md has one for each engine"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise SettingsError(f"{path} is longer than {MAX_FILE_BYTES >> 20} MiB", hint)
        return data.decode()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}", hint) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not text", hint) from None


def parse_probe(text: str, folder: Path) -> ProbeSpec:
    """The probe in the text of a file. Files that it names are looked for in ``folder``. Raises :class:`BadProbe`."""
    try:
        toml = _kebab(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadProbe(f"it is not TOML: {error}", hint='a line looks like  kind = "chat"') from None
    kind = toml.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        known = f"the kinds are {', '.join(KINDS)}"
        given = "there is no kind" if kind is None else f"{kind!r} is not a kind of probe"
        raise BadProbe(given, ("kind",), _nearest(str(kind), KINDS, known))
    return checked(_converted(toml, KINDS[kind]), folder)


def _kebab(toml: dict[str, Any]) -> dict[str, Any]:
    """The keys with hyphens, but for the tables whose keys are not ours."""
    return {
        key.replace("_", "-"): _kebab(value) if isinstance(value, dict) and key not in FREE_TABLES else value
        for key, value in toml.items()
    }


def _converted(toml: dict[str, Any], kind: type[ProbeSpec]) -> ProbeSpec:
    try:
        return msgspec.convert(toml, kind, dec_hook=_parse)
    except msgspec.ValidationError as error:
        raise _explained(error, kind) from None


def _parse(kind: type, given: Any) -> Any:
    if kind is Seconds:
        return Seconds.parse(given)
    if issubclass(kind, Path) and isinstance(given, str) and given:
        return Path(given).expanduser()
    raise BadValue(f"{given!r} is not a file name")


def _explained(error: msgspec.ValidationError, kind: type[ProbeSpec]) -> BadProbe:
    text = str(error)
    place = _PATH_IN_ERROR.search(text)
    text = _PATH_IN_ERROR.sub("", text).replace(" | null", "")
    key = tuple(part for part in re.split(r"[.\[\]]+", place[1]) if part and not part.isdigit()) if place else ()
    if unknown := _UNKNOWN_FIELD.fullmatch(text):
        names = list(_known_keys(kind, key))
        hint = _nearest(unknown[1], names, f"the known ones are {', '.join(names)}")
        return BadProbe(f"unknown key {unknown[1]!r}", (*key, unknown[1]), hint)
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
        return BadProbe(f"{missing[1]!r} is missing", (*key, missing[1]), f"add {missing[1]} = …")
    cause = error.__cause__
    name = ".".join(key)
    if isinstance(cause, BadValue):
        return BadProbe(f"{name}: {cause}", key, cause.hint)
    return BadProbe(f"{name}: {text[:1].lower()}{text[1:]}", key, "docs/run/probes.md shows how to write it")


def _known_keys(kind: type[msgspec.Struct], key: tuple[str, ...]) -> Iterator[str]:
    """The keys of a probe's kind, or of a table in it."""
    fields = msgspec.structs.fields(kind)
    for field in fields:
        if not key:
            yield field.encode_name
        elif field.encode_name == key[0]:
            for inner in _structs_in(msgspec.inspect.type_info(field.type)):
                yield from _known_keys(inner, key[1:])


def _structs_in(kind: msgspec.inspect.Type) -> Iterator[type[msgspec.Struct]]:
    match kind:
        case msgspec.inspect.StructType():
            yield kind.cls
        case msgspec.inspect.VarTupleType():
            yield from _structs_in(kind.item_type)
        case msgspec.inspect.Metadata():
            yield from _structs_in(kind.type)


def _nearest(given: str, known: Any, otherwise: str) -> str:
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise
