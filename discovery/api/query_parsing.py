"""Parses a query string to a checked struct, or raises a rejection that says what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from rumormill.discovery.http.limits import Limits
from rumormill.discovery.http.response import refuse
from rumormill.discovery.schema.query_params import DURATION

MAX_PARAMETERS: Final = 16
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(DURATION)
_UNKNOWN_FIELD: Final = re.compile(r"unknown field `(.*)`")
_MISSING_FIELD: Final = re.compile(r"missing required field `(.*)`")

Q = TypeVar("Q", bound=msgspec.Struct)


def parse_query_untrusted(text: str, kind: type[Q]) -> Q:
    """The text after the question mark to a checked struct. Raises :class:`RequestRejected` with a 400."""
    pairs = _pairs_untrusted(text, strict=bool(text))
    values = dict(pairs)
    if len(values) < len(pairs):
        raise refuse(400, "a parameter is given twice", "give each parameter once")
    return _convert_untrusted(values, kind)


def parse_foreign_query_untrusted(text: str, kind: type[Q], in_path: Mapping[str, str]) -> Q:
    """The same for a format of other programs, with what stands in the path. Parameters may stand without a value and
    repeatedly: the last counts, or all where the struct has a list. Unknown ones are ignored."""
    values: dict[str, Any] = {}
    lists = {field for field in ("tag",) if field in kind.__struct_fields__}
    for name, value in _pairs_untrusted(text, strict=False):
        if name in lists:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    known = {name: values[name] for name in kind.__struct_fields__ if name in values}
    return _convert_untrusted({**known, **in_path}, kind)


def _pairs_untrusted(text: str, *, strict: bool) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            text, keep_blank_values=True, strict_parsing=strict, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as error:  # UnicodeDecodeError is one too
        raise refuse(
            400, f"the query cannot be read: {error}", "write name=value&name=value, percent-encoded"
        ) from None


def _convert_untrusted(values: dict[str, Any], kind: type[Q]) -> Q:
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise refuse(400, _describe_error(str(error), values), _hint(str(error), kind)) from None


def parse_wait(text: str, limits: Limits) -> float:
    """A duration in seconds, at most the longest wait allowed. Raises :class:`RequestRejected` with a 400."""
    match = _DURATION.match(text)
    if match is None:
        raise refuse(400, f"wait={text!r} is not a duration", "write a number and a unit: 500ms, 10s or 5m")
    unit = match[2]
    return min(float(text.removesuffix(unit)) * _UNITS[unit], limits.longest_wait)


def _describe_error(error: str, values: dict[str, Any]) -> str:
    unknown, missing = _UNKNOWN_FIELD.search(error), _MISSING_FIELD.search(error)
    if unknown:
        return f"there is no parameter {unknown[1][:64]!r} here"
    if missing:
        return f"the parameter {missing[1]!r} is missing"
    what, _, where = error.partition(" - at `$.")
    name = where.removesuffix("`")
    if name == "wait":
        return f"wait={values['wait'][:64]!r} is not a duration"
    return f"{name}={str(values.get(name, ''))[:64]!r} is not valid: {what[:1].lower()}{what[1:]}"


def _hint(error: str, kind: type[msgspec.Struct]) -> str:
    fields = kind.__struct_fields__
    unknown, missing = _UNKNOWN_FIELD.search(error), _MISSING_FIELD.search(error)
    if unknown:
        near = difflib.get_close_matches(unknown[1][:64], fields, 1)
        if near:
            return f"did you mean {near[0]!r}?"
        return f"it takes {', '.join(fields)}" if fields else "it takes no parameters"
    if missing:
        return f"add {missing[1]}=… to the query"
    if "`$.wait`" in error:
        return "write a number and a unit: 500ms, 10s or 5m"
    return "the parameters and their bounds are in /openapi.json"
