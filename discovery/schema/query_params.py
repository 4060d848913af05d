"""What may stand after the question mark. These structs check a request and are the parameters in /openapi.json.

Unknown parameters are refused: a misspelt `sevice=` would otherwise answer with every service there is.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec

from rumormill.discovery.http.limits import Limits
from rumormill.discovery.http.response import refuse

MAX_PARAMETERS: Final = 16
DURATION: Final = r"^[0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m)$"
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}
_DURATION: Final = re.compile(DURATION)
_UNKNOWN_FIELD: Final = re.compile(r"unknown field `(.*)`")
_MISSING_FIELD: Final = re.compile(r"missing required field `(.*)`")

Service = Annotated[str, msgspec.Meta(max_length=128, description="The service asked about; left out, all of them.")]
Index = Annotated[
    int, msgspec.Meta(ge=0, le=2**53, description="Block until the index is no longer this one; needs `process`.")
]
Process = Annotated[
    str,
    msgspec.Meta(
        max_length=128, description="The process that counted `index`; with another's it blocks .5 s at most."
    ),
]
Wait = Annotated[
    str,
    msgspec.Meta(pattern=DURATION, description="How long to block, such as `10s`, `500ms` or `5m`; cut to 10m."),
]

Q = TypeVar("Q", bound=msgspec.Struct)


class NoQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """No parameters."""


class AnyQuery(msgspec.Struct, frozen=True):
    """Health routes take no parameters and mind none: probes bring their own (`?verbose`)."""


Force = Annotated[bool, msgspec.Meta(description="Do it even where that may cut members off for a moment.")]
KeyId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$", description="Which key: eight hexadecimal digits.")]


class ForceQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    force: Force = False


class KeyQuery(ForceQuery, frozen=True, kw_only=True):
    id: KeyId


class ServiceQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    service: Service = ""


class PoolQuery(ServiceQuery, frozen=True, kw_only=True):
    # Unset and not None: in a query, `index=null` is no way to leave it out.
    index: Index | msgspec.UnsetType = msgspec.UNSET
    process: Process | msgspec.UnsetType = msgspec.UNSET
    wait: Wait = "10s"


class WorkersQuery(PoolQuery, frozen=True, kw_only=True):
    ready: Annotated[bool, msgspec.Meta(description="Only those that may be sent new work.")] = False


class LookupQuery(ServiceQuery, frozen=True, kw_only=True):
    key: Annotated[str, msgspec.Meta(description="Whose owners are asked for.")]
    n: Annotated[int, msgspec.Meta(ge=1, le=128, description="How many owners, in order of preference.")] = 3


class ExplainQuery(ServiceQuery, frozen=True, kw_only=True):
    key: Annotated[str, msgspec.Meta(description="Whose way is explained.")]
    zone: (
        Annotated[str, msgspec.Meta(max_length=64, description="The caller's own zone; empty for no preference.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class RingQuery(ServiceQuery, frozen=True, kw_only=True):
    format: Annotated[Literal["svg"], msgspec.Meta(description="What the picture is made as.")] = "svg"
    key: Annotated[str, msgspec.Meta(description="Show where this key falls.")] | msgspec.UnsetType = msgspec.UNSET


class CanaryQuery(ServiceQuery, frozen=True, kw_only=True):
    release: Annotated[str, msgspec.Meta(max_length=128, description="Only this one; left out, all of them.")] = ""


class EventsQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    since: Annotated[
        int, msgspec.Meta(ge=0, le=2**53, description="Only events numbered above this; 0 is all that are kept.")
    ] = 0
    process: Process | msgspec.UnsetType = msgspec.UNSET
    wait: Annotated[
        str, msgspec.Meta(pattern=DURATION, description="Block this long where nothing newer has happened.")
    ] = "0s"


def parse_query_untrusted(text: str, kind: type[Q]) -> Q:
    """The text after the question mark to a checked struct. Raises :class:`Refused` with a 400."""
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as error:  # UnicodeDecodeError is one too
        raise refuse(
            400, f"the query cannot be read: {error}", "write name=value&name=value, percent-encoded"
        ) from None
    values = dict(pairs)
    if len(values) < len(pairs):
        raise refuse(400, "a parameter is given twice", "give each parameter once")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise refuse(400, _in_words(str(error), values), _hint(str(error), kind)) from None


def parse_wait(text: str, limits: Limits) -> float:
    """A duration to seconds, cut to what anyone may wait. Raises :class:`Refused` with a 400."""
    match = _DURATION.match(text)
    if match is None:
        raise refuse(400, f"wait={text!r} is not a duration", "write a number and a unit: 500ms, 10s or 5m")
    unit = match[2]
    return min(float(text.removesuffix(unit)) * _UNITS[unit], limits.longest_wait)


def _in_words(error: str, values: dict[str, str]) -> str:
    unknown, missing = _UNKNOWN_FIELD.search(error), _MISSING_FIELD.search(error)
    if unknown:
        return f"there is no parameter {unknown[1][:64]!r} here"
    if missing:
        return f"the parameter {missing[1]!r} is missing"
    what, _, where = error.partition(" - at `$.")
    name = where.removesuffix("`")
    if name == "wait":
        return f"wait={values['wait'][:64]!r} is not a duration"
    return f"{name}={values.get(name, '')[:64]!r} will not do: {what[:1].lower()}{what[1:]}"


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
