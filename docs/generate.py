"""Writes the pages of docs/reference that are made from the code: ``python docs/generate.py``.

Each page comes from what the program itself uses: the settings, the command line, the table of routes, the metrics, the
exit codes and the error classes. A test compares the pages with what this module makes of the code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
from engine_page import engines_page
from field_meanings import USUAL
from page_text import (
    all_subclasses,
    anchor,
    attribute_docs,
    attribute_docs_of_module,
    by_exit_code,
    code,
    first_paragraph,
    json_text,
    one_line,
    page,
    table,
)
from probe_page import probe_files_page
from verbs_page import verbs_page

import rumormill.client
from rumormill.cli.exit_codes import CliError
from rumormill.client import Figures, PoolOptions
from rumormill.discovery.api import openapi
from rumormill.discovery.api.metrics import EndpointMeasurements, prepare_metrics
from rumormill.discovery.api.routes import ROUTES
from rumormill.discovery.commands import GpuRow, SidecarMeasurements, Status
from rumormill.discovery.http.request_metrics import RequestMetrics
from rumormill.membership.measurements import NETWORK_SECONDS, GossipMeasurements, Histogram
from rumormill.sidecar import AgentError
from rumormill.sidecar.reload import CHANGEABLE, TLS
from rumormill.sidecar.settings import description_of, fields
from rumormill.sidecar.settings_sources import variable_of

PAGES = Path(__file__).parent / "reference"
MEMBER = "`agent`"


def settings_page() -> str:
    rows = []
    for field in fields():
        about, metavar = description_of(field)
        if field.name in CHANGEABLE:
            reload = "yes"
        elif field.name in TLS:
            reload = "yes, if TLS was on and stays on"
        else:
            reload = "no"
        value = "" if isinstance(field.default, bool) else code(metavar)
        rows.append((f"`{field.encode_name}`", value, _default(field), about, reload))
    return page(
        "Settings",
        "Every setting has one name in three places: the flag `--key-file`, the variable "
        f"`{variable_of('key-file')}` and the TOML key `key-file`. A flag wins over a variable. A variable wins over "
        "the file that `--config` or `RUMORMILL_CONFIG` names. The file wins over the default.",
        "Times have a unit: `200ms`, `1s`, `2m`. An IPv6 address is written in brackets: `[::1]:7946`. Several "
        "values are repeated flags, commas in a variable, or a list in TOML. An unknown key is refused, and the "
        "message names the nearest known one.",
        table(("setting", "value", "default", "meaning", "changes on reload"), rows),
        "[How to run an agent](../run/agent.md) says how to choose the ones that matter.",
    )


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT or field.default in (None, "", ()):
        return ""
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return f"`{field.default:g}`" if type(field.default) is float else f"`{field.default}`"


def http_page() -> str:
    document = msgspec.json.decode(openapi.openapi_document(ROUTES))
    schemas = document["components"]["schemas"]
    kinds = [kind for route in ROUTES for kind in (route.answer, route.body) if isinstance(kind, type)]
    structs = {kind.__name__: kind for kind in kinds if issubclass(kind, msgspec.Struct)}
    sections: list[str] = [
        table(
            ("route", "what it answers"),
            [(f"[`{r.method} {r.path}`](#{anchor(f'{r.method} {r.path}')})", r.summary) for r in ROUTES],
        )
    ]
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        sections += _route(f"{route.method} {route.path}", operation)
    sections.append("## Bodies")
    for name in sorted(schemas):
        sections += _schema(name, schemas[name], structs)
    return page(
        "HTTP API",
        document["info"]["description"],
        "`GET /openapi.json` gives the same as OpenAPI 3.1. Every error is `application/problem+json` "
        "([Problem](#problem)). An unknown parameter is refused with 400, except at the health routes and `/metrics`.",
        *sections,
    )


def _route(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}"
    yield f"{operation['summary']}."
    if operation["parameters"]:
        rows = [
            (
                f"`{p['name']}`" + (f" ({p['in']})" if p["in"] != "query" else ""),
                _kind(p["schema"]),
                "required" if p.get("required") else json_text(p["schema"].get("default", "")),
                p.get("description", ""),
            )
            for p in operation["parameters"]
        ]
        yield table(("parameter", "type", "default", "meaning"), rows)
    if "requestBody" in operation:
        yield f"Takes {_kind(operation['requestBody']['content']['application/json']['schema'])} as JSON."
    rows = []
    for status, response in sorted(operation["responses"].items()):
        for media, content in response.get("content", {"": {}}).items():
            body = _kind(content["schema"]) if media else ""
            rows.append((status, response["description"], body, code(media)))
    yield table(("status", "meaning", "body", "media type"), rows)


def _schema(name: str, schema: dict[str, Any], structs: dict[str, type]) -> Iterator[str]:
    yield f"### {name}"
    if schema.get("description"):
        yield one_line(schema["description"])
    if "properties" not in schema:
        yield _kind(schema)
        return
    kind = _struct_named(name, structs)
    docs: dict[str, str] = encoded_docs(kind) if kind else {}
    rows = [
        (
            f"`{field}`",
            _kind(described),
            "always" if field in schema.get("required", ()) else "optional",
            described.get("description", "") or docs.get(field, "") or USUAL.get(field, ""),
        )
        for field, described in schema["properties"].items()
    ]
    yield table(("field", "type", "there", "meaning"), rows)


def encoded_docs(kind: type) -> dict[str, str]:
    """The docstrings of a struct's fields, by their names in JSON."""
    docs = attribute_docs(kind)
    if not issubclass(kind, msgspec.Struct):
        return docs
    return {field.encode_name: docs[field.name] for field in msgspec.structs.fields(kind) if field.name in docs}


def _struct_named(name: str, structs: dict[str, type]) -> type | None:
    """The class behind a schema: one of the routes' own, or one that stands inside them."""
    ours = (kind for kind in all_subclasses(msgspec.Struct) if kind.__module__.startswith("rumormill."))
    return structs.get(name) or next((kind for kind in ours if kind.__name__ == name), None)


def _kind(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{anchor(name)})"
    if "anyOf" in schema:
        return " or ".join(_kind(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
            return f"list of {_kind(items)}"
        case "object":
            inner = schema.get("additionalProperties")
            return f"object of {_kind(inner)}" if isinstance(inner, dict) and inner else "object"
        case None:
            return "any"
        case kind:
            return str(kind)


def metrics_page() -> str:
    sidecar = _families(_example_metrics())
    figures = Figures("embed")
    figures.note("v1", 0.01, failed=False)
    client = _families(figures.prometheus())
    meanings = {
        "rumormill_client_requests_total": "Requests by outcome at each worker that was asked: "
        "`ok`, `error`, `cancelled` (the caller gave up), or `hung` (the caller gave up on a worker that did not "
        "answer).",
        "rumormill_client_request_seconds": "Seconds from the request to the head of its answer.",
    }
    client = [(name, kind, labels, meanings[name.strip("`")]) for name, kind, labels, _ in client]
    return page(
        "Metrics",
        "## Of a sidecar",
        "`GET /metrics` gives these to Prometheus. [Counters](counters.md) says what each value of the labels `reason` "
        "and `cause` counts. [Monitoring](../run/monitoring.md) has the alerts and a dashboard.",
        table(("metric", "type", "labels", "meaning"), sidecar),
        "## Of a client",
        "`rumormill.client.Figures` counts these; its method `prometheus()` writes them. "
        "[Canary releases](../run/canary.md) says how a caller keeps them.",
        table(("metric", "type", "labels", "meaning"), client),
    )


def _example_status() -> Status:
    """One in which every metric has a value."""
    values: dict[str, Any] = {"certificate_not_after": 0.0, "counters": {"sent": 1}}
    values |= {"utilization": 0.0, "queue": 0, "load_age": 0.0, "gpus": [GpuRow(0, "", 0.0, 0, 0)]}
    empty: dict[str, Any] = {"str": "", "int": 0, "bool": False, "float": 0.0}
    for field in msgspec.structs.fields(Status):
        kind = getattr(field.type, "__name__", "str")
        values.setdefault(field.name, empty.get(kind, {} if kind == "dict" else [] if kind == "list" else ""))
    return Status(**values)


def _example_metrics() -> str:
    """The text of `/metrics` in which every family has a sample."""
    requests = RequestMetrics()
    requests.record("/v1/workers", 200, 0.0001)
    counters = {"event_joined": 1, "dropped_label": 1, "receive_EIO": 1, "send_EPERM": 1}
    status = msgspec.structs.replace(_example_status(), counters=counters)
    measured = SidecarMeasurements(GossipMeasurements(), Histogram(NETWORK_SECONDS))
    return prepare_metrics(status, None, measured, EndpointMeasurements(requests, 0, 0, {"embed": False})).body.decode()


def _families(text: str) -> list[tuple[str, str, str, str]]:
    """Name, type, labels and help of each family in Prometheus text."""
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    found = []
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        sample = re.search(rf"^{name}(?:_bucket|_total)?{{(.*?)}} ", text, re.MULTILINE)
        labels = re.findall(r"(\w+)=", sample[1]) if sample else []
        shown = ", ".join(f"`{label}`" for label in labels if label != "le")
        found.append((f"`{name}`", kind, shown, helps.get(name, "")))
    return found


def exit_codes_page() -> str:
    from rumormill.cli import exit_codes

    constants = attribute_docs_of_module(exit_codes)
    rows: list[tuple[int, str, str]] = [(0, "all", "Done. An agent has drained its worker and left the pool.")]
    rows += [(cast("int", getattr(exit_codes, name)), "verbs", text) for name, text in constants.items()]
    rows += [(kind.exit_code, "verbs", first_paragraph(kind)) for kind in by_exit_code(CliError)]
    rows += [(kind.exit_code, MEMBER, first_paragraph(kind)) for kind in by_exit_code(AgentError)]
    rows.append((128, MEMBER, "A second signal, number n, ended the process at once."))
    rows.append((127, "`run`", "The worker's command was not found. 126: it cannot be executed."))
    rows.append((128, "`run`", "Signal n ended the worker, or a second signal ended everything at once."))
    ordered = sorted(set(rows), key=lambda row: (row[0], row[1] != "all", row[1], row[2]))
    lines = [(str(number) if number != 128 else "128 + n", who, text) for number, who, text in ordered]
    return page(
        "Exit codes",
        "Scripts can rely on these codes. `rumormill run` exits with the code of its worker, or with "
        "that of a sidecar that cannot run.",
        table(("code", "of", "meaning"), lines),
    )


def errors_page() -> str:
    offered = [getattr(rumormill.client, name) for name in rumormill.client.__all__]
    raised = [kind for kind in offered if isinstance(kind, type) and issubclass(kind, Exception)]
    client = [
        (f"`{kind.__name__}`", f"`{_httpx_parent(kind)}`", one_line(inspect.cleandoc(kind.__doc__ or "")))
        for kind in sorted(raised, key=lambda k: [c.__name__ for c in reversed(k.__mro__)])
    ]
    agent = [(f"`{kind.__name__}`", str(kind.exit_code), first_paragraph(kind)) for kind in by_exit_code(AgentError)]
    return page(
        "Errors",
        "## What a client raises",
        "All of them are subclasses of `httpx2.TransportError`, so code that handles httpx2's errors handles these. "
        "Other errors are raised as they are: the caller's own mistakes (`httpx2.LocalProtocolError`), its timeouts "
        "(`httpx2.ReadTimeout` and similar), and errors of its own body stream.",
        table(("error", "is a", "meaning"), client),
        "## Why an agent does not start, or ends",
        "The agent writes one line that says what is wrong, and one that says what to do. It then ends with this code.",
        table(("error", "exit code", "meaning"), agent),
        "## What the endpoint answers",
        "Errors are `application/problem+json` (RFC 9457) with a `hint`: see [Problem](http.md#problem). A sidecar "
        "that is full answers 503 with `Retry-After: 1`.",
    )


def client_options_page() -> str:
    docs = attribute_docs(PoolOptions)
    rows = [
        (
            f"`{name}`",
            f"`{found.annotation}`",
            "" if found.default is found.empty else f"`{found.default!r}`",
            docs[name],
        )
        for name, found in inspect.signature(PoolOptions).parameters.items()
    ]
    return page(
        "Client options",
        "`Pool` and `SyncPool` of `rumormill.client` take the same arguments. All but `sources` and `service` are "
        "keywords. A wrong value raises a `ValueError` with a hint. [Call the pool from Python](../start/python.md) "
        "shows how to use them.",
        table(("argument", "type", "default", "meaning"), rows),
    )


def _httpx_parent(kind: type) -> str:
    parent = kind.__mro__[1]
    return f"httpx2.{parent.__name__}" if parent.__module__.startswith("httpx2") else parent.__name__


def pages() -> dict[str, str]:
    """Every page that is made, by its file name."""
    return {
        "settings.md": settings_page(),
        "engines.md": engines_page(),
        "verbs.md": verbs_page(),
        "http.md": http_page(),
        "metrics.md": metrics_page(),
        "exit-codes.md": exit_codes_page(),
        "errors.md": errors_page(),
        "client-options.md": client_options_page(),
        "probe-files.md": probe_files_page(),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (PAGES / name).write_text(text)
