"""/openapi.json says what the endpoint does, and the endpoint does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from seeds import MORE_SEEDS
from serving import proven, serving

from rumormill.discovery.api.routes import ROUTES
from rumormill.discovery.http.limits import Limits
from rumormill.membership.view import Event

ASKED = {
    "GET /v1/lookup": "/v1/lookup?key=a",
    "GET /v1/explain": "/v1/explain?key=a",
    "GET /v1/watch": None,  # has no end
    "GET /v1/health/service/{service}": "/v1/health/service/embed",
    "GET /v1/health/state/{state}": "/v1/health/state/any",
    "GET /v1/catalog/service/{service}": "/v1/catalog/service/embed",
    "PUT /v1/weight": "/v1/weight?weight=0.5",
    "PUT /v1/keys": "/v1/keys?id=3c45ae74",
    "DELETE /v1/keys": "/v1/keys?id=3c45ae74",
}
BODIES = {
    "POST /v1/keys": b'{"key": "bm8gc3VjaCBrZXk="}',
    "PUT /v1/canary": b'{"release": "v2", "share": 0.05}',
    "PUT /v1/maintenance": b'{"workers": ["w3"]}',
    "PUT /v1/zone": b'{"zone": "a"}',
    "POST /v3/discovery:endpoints": b'{"resource_names": ["embed"]}',
    "POST /v3/discovery:clusters": b"{}",
    "POST /v3/discovery:listeners": b'{"node": {"metadata": {"rumormill_listen": "127.0.0.1:80"}}}',
}


async def test_every_route_and_every_parameter_stands_in_the_document():
    async with serving() as endpoint:
        document = (await endpoint.get("/openapi.json")).json
        assert document["openapi"] == "3.1.0"
        for route in ROUTES:
            operation = document["paths"][route.path][route.method.lower()]
            named = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] != "header"]
            assert named == list(route.query.__struct_fields__)
            assert str(route.status) in operation["responses"]
            assert ("401" in operation["responses"]) != route.public
        assert sum(len(methods) for methods in document["paths"].values()) == len(ROUTES)
        required = [one["name"] for one in document["paths"]["/v1/lookup"]["get"]["parameters"] if one["required"]]
        assert required == ["key"]


async def test_every_reference_in_the_document_leads_somewhere():
    async with serving() as endpoint:
        document = (await endpoint.get("/openapi.json")).json
        references = list(_references(document))
        assert references
        for reference in references:
            assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def _references(node: Any) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_an_answer_is_of_the_type_that_the_document_was_made_from(route):
    asked = f"{route.method} {route.path}"
    target = ASKED.get(asked, route.path)
    if target is None or route.answer is None:
        target = "/openapi.json"
    async with serving() as endpoint:
        endpoint.server.publish_events([Event(1.0, "joined", "w1", "w1 joined")])
        body = BODIES.get(asked, b"")
        proof = proven(route.method, target, body) if "/v1/keys" in target else {}
        method = route.method if target != "/openapi.json" else "GET"
        got = await endpoint.ask(method, target, body, **proof)
        if route.answer is not None:
            assert got.status == route.status
            read = msgspec.json.decode(got.body, type=route.answer, strict=True)
            assert msgspec.json.encode(read) == got.body


@MORE_SEEDS
async def test_a_stranger_who_has_only_the_document_finds_nothing_wrong(tmp_path: Path):
    """Schemathesis generates valid and invalid requests, and checks each answer against the document."""
    # It learns indexes from answers, and then blocks on them for as long as it may.
    async with serving(limits=Limits(longest_wait=0.02), within=600) as endpoint:
        endpoint.server.publish_events([Event(1.0, "joined", "w1", "w1 joined")])
        ran = await trio.run_process(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{endpoint.port}/openapi.json"),
                *(
                    "--exclude-path",
                    "/v1/watch",
                    "--checks",
                    "all",
                    "--max-examples",
                    "25",
                    "--request-timeout",
                    "5",
                ),
                *("--phases", "coverage,fuzzing", "--continue-on-failure", "--no-color", "--seed", "1"),
            ],
            cwd=tmp_path,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout.decode()
        assert "leave" in endpoint.sidecar.told
        assert endpoint.server.counters["requests_failed"] == 0
