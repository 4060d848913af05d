"""The page of docs/reference on probe files: the keys of each kind, from the structures that read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect
from page_text import attribute_docs, first_paragraph, one_line, page, table

from rumormill.sidecar.probes.specification import KINDS, HttpBased, ProbeSpec
from rumormill.sidecar.settings_values import Seconds

HEAD = ("key", "value", "default", "meaning")


def probe_files_page() -> str:
    sections = []
    for name, kind in KINDS.items():
        above = HttpBased if issubclass(kind, HttpBased) else ProbeSpec
        shared = {field.encode_name for field in msgspec.structs.fields(above)}
        rows = [row for row in _rows(kind) if row[0].strip("`") not in shared or _differs(kind, above, row[0])]
        also = "of every HTTP probe" if above is HttpBased else "of every probe"
        sections += [
            f"## {name}",
            one_line(first_paragraph(kind)),
            table(HEAD, rows),
            f"And the [keys {also}](#{also.replace(' ', '-').lower()}).",
        ]
    return page(
        "Probe files",
        "The file that `probe-file` names is TOML. Its key `kind` is required and says which of the other keys it may "
        "have. Underscores may replace hyphens. A dot separates a table from its key: `expect.norm` is `norm` below "
        "`[expect]`. [Probe the engine](../run/probes.md) shows a file for each engine.",
        *sections,
        "## Of every HTTP probe",
        table(HEAD, [row for row in _rows(HttpBased) if row not in _rows(ProbeSpec) and row[0] != "`path`"]),
        "And the [keys of every probe](#of-every-probe).",
        "## Of every probe",
        table(HEAD, _rows(ProbeSpec)),
    )


def _differs(kind: type[ProbeSpec], above: type[ProbeSpec], key: str) -> bool:
    """Whether a shared key has another default in this kind."""
    own = {field.encode_name: field.default for field in msgspec.structs.fields(kind)}
    shared = {field.encode_name: field.default for field in msgspec.structs.fields(above)}
    name = key.strip("`")
    return own[name] != shared[name]


def _rows(kind: type[msgspec.Struct], prefix: str = "") -> list[tuple[str, str, str, str]]:
    return list(_each_row(kind, prefix))


def _each_row(kind: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    docs = attribute_docs(kind)
    for field in msgspec.structs.fields(kind):
        if field.name == "expect":
            yield from _each_row(type(field.default), "expect.")
        else:
            meaning = docs.get(field.name, "").replace("``", "`")
            yield f"`{prefix}{field.encode_name}`", _value(field), _default(field), meaning


def _value(field: msgspec.structs.FieldInfo) -> str:
    return _words(inspect.type_info(field.type))


def _words(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata():
            return _words(kind.type)
        case inspect.UnionType():
            return " or ".join(_words(one) for one in kind.types if not isinstance(one, inspect.NoneType))
        case inspect.VarTupleType():
            inner = _words(kind.item_type)
            return inner if inner == "tables" else f"list of {inner}s"
        case inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in sorted(kind.values))
        case inspect.CustomType():
            return "duration" if kind.cls is Seconds else "file"
        case inspect.StructType():
            return "tables"
        case inspect.DictType():
            return "table"
    plain = {inspect.StrType: "text", inspect.BoolType: "true or false", inspect.IntType: "whole number"}
    return plain.get(type(kind), "number")


def _default(field: msgspec.structs.FieldInfo) -> str:
    default: Any = field.default
    if field.required:
        return "required"
    if default is msgspec.NODEFAULT or default in (None, "", ()):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{list(default)}`"
    return f"`{default}`"
