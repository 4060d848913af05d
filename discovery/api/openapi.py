"""/openapi.json, generated from the table of routes and the structs that check requests and make answers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

import msgspec

from rumormill.discovery.api.route import Route
from rumormill.discovery.http.response import PROBLEM_JSON, Problem
from rumormill.discovery.schema.workers import WorkersAnswer

Json = dict[str, Any]
_NOT_IN_IDS: Final = re.compile(r"[^A-Za-z0-9]")
REF: Final = "#/components/schemas/{name}"


def openapi_document(routes: Iterable[Route[Any]]) -> bytes:
    """OpenAPI 3.1, as JSON."""
    routes = tuple(routes)
    kinds = [kind for route in routes for kind in (route.answer, route.body) if kind is not None]
    _, components = msgspec.json.schema_components([*kinds, WorkersAnswer, Problem], ref_template=REF)
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
        "operationId": route.method.lower() + _NOT_IN_IDS.sub("_", route.path),
        "parameters": [*_parameters(route), *_conditional(route)],
        "responses": _responses(route),
        **_body(route),
        **({"security": [{}]} if route.public else {}),
    }


def _body(route: Route[Any]) -> Json:
    if route.body is None:
        return {}
    schema = {"$ref": REF.format(name=route.body.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _parameters(route: Route[Any]) -> list[Json]:
    _, components = msgspec.json.schema_components([route.query], ref_template=REF)
    schema = components[route.query.__name__]
    required = set(schema.get("required", ()))
    return [
        _parameter(name, dict(described), required=name in required, place=_place(route, name))
        for name, described in schema.get("properties", {}).items()
    ]


def _place(route: Route[Any], name: str) -> str:
    return "path" if name == route.path_parameter else "query"


def _parameter(name: str, schema: Json, *, required: bool, place: str) -> Json:
    description = schema.pop("description", "")
    if "anyOf" in schema:  # optional: in a query that is said by leaving it out, not by null
        schema.pop("default", None)
        (schema,) = (dict(choice) for choice in schema["anyOf"] if choice != {"type": "null"})
        description = schema.pop("description", description)
    return {"name": name, "in": place, "required": required, "description": description, "schema": schema}


def _conditional(route: Route[Any]) -> list[Json]:
    if not route.conditional:
        return []
    description = "The ETag of an earlier answer. If the answer is still the same, it is a 304 without a body."
    return [{"name": "If-None-Match", "in": "header", "description": description, "schema": {"type": "string"}}]


def _responses(route: Route[Any]) -> Json:
    responses: Json = {str(route.status): _success(route)}
    if route.conditional or route.versioned:
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
    content = {route.media: {"schema": _answer_schema(route)}}
    if route.other_media:
        content[route.other_media] = {"schema": {"type": "string"}}
    response: Json = {"description": HTTPStatus(route.status).phrase, "content": content}
    if route.conditional:
        response["headers"] = {"ETag": {"schema": {"type": "string"}}}
    return response


def _answer_schema(route: Route[Any]) -> Json:
    if route.answer is not None:
        (schema,), _ = msgspec.json.schema_components([route.answer], ref_template=REF)
        return schema
    if route.media == "text/event-stream":
        return {"type": "string", "description": "The data of each event is a WorkersAnswer; its id is the index."}
    return {"type": "string" if route.media.startswith(("text/", "image/")) else "object"}
