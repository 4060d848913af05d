"""Compiles the JSON Schema of a probe file with fastjsonschema, which is imported only if there is one.

fastjsonschema knows JSON Schema up to draft 7, and passes over keywords that it does not know. Here a keyword that is
not of draft 7 is refused: a schema that checks nothing would let every answer pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ONE = ("not", "additionalProperties", "propertyNames", "contains", "additionalItems", "if", "then", "else")
"""Keywords whose value is a schema."""
LISTS = ("allOf", "anyOf", "oneOf")
"""Keywords whose value is a list of schemas."""
MAPS = ("properties", "patternProperties", "definitions")
"""Keywords whose value holds a schema for each name."""
KNOWN = frozenset(
    (
        *(*ONE, *LISTS, *MAPS, "items", "dependencies"),
        *("$schema", "$id", "$ref", "$comment", "title", "description", "default", "examples", "readOnly", "writeOnly"),
        *("type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
        *("maxLength", "minLength", "pattern", "format", "maxItems", "minItems", "uniqueItems"),
        *("maxProperties", "minProperties", "required", "contentEncoding", "contentMediaType"),
    )
)


class BadSchema(Exception):
    """A schema that cannot be used; ``keyword`` says where in it, joined by dots."""

    def __init__(self, text: str, keyword: str = "", hint: str = "") -> None:
        super().__init__(text)
        self.keyword = keyword
        self.hint = hint or "write a JSON Schema of draft 7: https://json-schema.org/draft-07"


def compile_schema(schema: Mapping[str, Any]) -> Callable[[Any], object]:
    """A function that raises ValueError for an answer that does not fit. Raises :class:`BadSchema`."""
    _refuse_unknown(schema, "")
    import fastjsonschema

    try:
        validate: Callable[[Any], object] = fastjsonschema.compile(dict(schema), use_default=False)
    except Exception as error:  # it documents one, and raises AttributeError, TypeError and re.error for wrong values
        raise BadSchema(f"it is not a JSON Schema: {error}") from None
    return validate


def _refuse_unknown(schema: object, place: str) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise BadSchema(f"{place or 'it'} is not a schema but {type(schema).__name__}", place)
    for keyword, value in schema.items():
        where = f"{place}.{keyword}".strip(".")
        if keyword not in KNOWN:
            raise BadSchema(f"{keyword!r} is not a keyword of draft 7", where, _nearest(keyword))
        if keyword == "$ref" and not str(value).startswith("#"):
            raise BadSchema(f"{value!r} is in another document", where, "write references within the schema: #/…")
        for inner, inside in _schemas_in(keyword, value, where):
            _refuse_unknown(inside, inner)


def _schemas_in(keyword: str, value: Any, where: str) -> Iterator[tuple[str, object]]:
    if keyword in ONE or (keyword == "items" and not isinstance(value, list)):
        yield where, value
    elif keyword in LISTS or keyword == "items":
        if not isinstance(value, list):
            raise BadSchema(f"{keyword!r} is not a list of schemas", where)
        yield from ((where, one) for one in value)
    elif keyword in MAPS or keyword == "dependencies":
        if not isinstance(value, Mapping):
            raise BadSchema(f"{keyword!r} is not a table", where)
        yield from ((f"{where}.{name}", one) for name, one in value.items() if not isinstance(one, list))


def _nearest(keyword: str) -> str:
    close = difflib.get_close_matches(keyword, KNOWN, n=1)
    return f"did you mean {close[0]!r}?" if close else ""
