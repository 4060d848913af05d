"""/openapi.json, generated from the table of routes and the structs that check requests and make answers."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

import msgspec

from rumormill.discovery.api.routes import Route
from rumormill.discovery.http.response import PROBLEM_JSON, Problem
from rumormill.discovery.schema.workers import WorkersAnswer

Json = dict[str, Any]
REF: Final = "#/components/schemas/{name}"


def openapi_document(routes: Iterable[Route[Any]]) -> bytes:
    """OpenAPI 3.1, as JSON."""
    routes = tuple(routes)
    structs = [kind for route in routes for kind in (route.answer, route.body) if kind is not None]
    _, components = msgspec.json.schema_components([*structs, WorkersAnswer, Problem], ref_template=REF)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "rumormill discovery",
                "version": version("rumormill"),
                "description": "Who is in the pool, and who serves which key. GET routes answer HEAD too; errors are "
                "RFC 9457 problems with a hint. Where the sidecar was started with a token for reading, every route "
                "but the health ones needs it; what is not a GET needs the token for changes.",
            },
            "paths": paths,
            "security": [{}, {"token": []}],
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _operation(route: Route[Any]) -> Json:
    return {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{route.path.replace('/', '_').replace('.', '_')}",
        "parameters": [*_parameters(route.query), *_conditional(route)],
        "responses": _responses(route),
        **_body(route),
        **({"security": [{}]} if route.public else {}),
    }


def _body(route: Route[Any]) -> Json:
    if route.body is None:
        return {}
    schema = {"$ref": REF.format(name=route.body.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _parameters(query: type[msgspec.Struct]) -> list[Json]:
    _, components = msgspec.json.schema_components([query], ref_template=REF)
    schema = components[query.__name__]
    required = set(schema.get("required", ()))
    return [
        _parameter(name, dict(described), required=name in required)
        for name, described in schema.get("properties", {}).items()
    ]


def _parameter(name: str, schema: Json, *, required: bool) -> Json:
    description = schema.pop("description", "")
    if "anyOf" in schema:  # optional: in a query that is said by leaving it out, not by null
        schema.pop("default", None)
        (schema,) = (dict(choice) for choice in schema["anyOf"] if choice != {"type": "null"})
        description = schema.pop("description", description)
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


def _conditional(route: Route[Any]) -> list[Json]:
    if not route.conditional:
        return []
    description = "An ETag got before: 304 without a body while the answer is the same."
    return [{"name": "If-None-Match", "in": "header", "description": description, "schema": {"type": "string"}}]


def _responses(route: Route[Any]) -> Json:
    responses: Json = {str(route.status): _success(route)}
    if route.conditional:
        responses["304"] = {"description": "Not changed"}
    if route.unhealthy:
        responses["503"] = {**_success(route), "description": "Not ok, and why"}
    for status in (*route.problems, *(() if route.public else (401, 403, 421))):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_JSON: {"schema": {"$ref": REF.format(name="Problem")}}},
        }
    return responses


def _success(route: Route[Any]) -> Json:
    if route.answer is not None:
        schema: Json = {"$ref": REF.format(name=route.answer.__name__)}
    elif route.media == "text/event-stream":
        schema = {"type": "string", "description": "The data of each event is a WorkersAnswer; its id is the index."}
    elif route.media == "image/svg+xml":
        schema = {"type": "string"}
    else:
        schema = {"type": "string" if route.media.startswith("text/") else "object"}
    response: Json = {"description": HTTPStatus(route.status).phrase, "content": {route.media: {"schema": schema}}}
    if route.conditional:
        response["headers"] = {"ETag": {"schema": {"type": "string"}}}
    return response
