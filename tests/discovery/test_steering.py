"""Canary, maintenance, zone, explanation and picture over HTTP: what is written, what is refused, what follows."""

from __future__ import annotations

import itertools
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from members import member
from serving import THREE, Serving, pool, serving

from rumormill.discovery.schema.policy_bodies import CanaryPolicy, Rollout, Share, ZonePreference, encode_body
from rumormill.discovery.view import RoutingView
from rumormill.membership.policy import PolicyRecord


async def put(endpoint: Serving, path: str, **body: Any) -> tuple[int, Any]:
    got = await endpoint.ask("PUT", path, msgspec.json.encode(body))
    return got.status, got.json


MIXED = pool(member("w1"), member("w2"), member("w3", release="v2"))


async def test_several_candidates_stand_side_by_side_in_the_order_they_came():
    async with serving(MIXED) as endpoint:
        await put(endpoint, "/v1/canary", release="v2", share=0.05)
        await put(endpoint, "/v1/canary", release="v3", share=0.01)
        status, answer = await put(endpoint, "/v1/canary", service="embed", release="v2", share=0.25)
        assert status == 200
        assert answer["canary"] == [
            {"release": "v2", "share": 0.25, "workers": 1},
            {"release": "v3", "share": 0.01, "workers": 0},
        ]
        assert answer["rest"] == 0.74
        assert (answer["service"], answer["index"], answer["writer"]) == ("embed", 3, "w1")
        assert (await endpoint.get("/v1/canary")).json == answer


async def test_a_release_without_workers_is_a_warning():
    async with serving(MIXED) as endpoint:
        assert (await put(endpoint, "/v1/canary", release="v2", share=0.05))[1]["warnings"] == []
        (warning,) = (await put(endpoint, "/v1/canary", release="v9", share=0.05))[1]["warnings"]
        assert "no worker" in warning
        assert "'v9'" in warning


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"release": "v2", "share": 1.5}', 400, "0.05 is 5 %"),
        (b'{"release": "v2", "share": -1}', 400, "share"),
        (b'{"release": "", "share": 0.5}', 400, "release"),
        (b'{"release": "v2"}', 400, "share"),
        (b'{"release": "v2", "share": 0.5, "sevice": "x"}', 400, "sevice"),
        (b"{", 400, "the body is not valid"),
        (b'{"release": "v2", "share": "\xff"}', 400, "the body is not valid"),
        (
            b'{"release": "v2", "share": 0.5, "rollout": {"release": "v3", "steps": [1], "hold": 1}}',
            409,
            "the rollout is for 'v3'",
        ),
        (
            b'{"release": "v2", "share": 0.5, "rollout": {"release": "v2", "steps": [1], "hold": 1, "position": 1}}',
            409,
            "step index is out of range",
        ),
        (b'{"release": "v3", "share": 0.6}', 409, "add up to 110 %"),
        (b'{"release": "v3", "share": 0.1, "index": 7}', 409, "has changed"),
    ],
)
async def test_what_will_not_do_is_refused_and_changes_nothing(body: bytes, status: int, words: str):
    async with serving(MIXED) as endpoint:
        await put(endpoint, "/v1/canary", release="v2", share=0.5)
        got = await endpoint.ask("PUT", "/v1/canary", body)
        assert got.status == status
        assert got.headers["content-type"] == "application/problem+json"
        assert words in got.json["detail"]
        assert got.json["hint"]
        assert (await endpoint.get("/v1/canary")).json["index"] == 1


async def test_a_sidecar_that_may_not_write_says_why():
    async with serving(MIXED) as endpoint:
        endpoint.sidecar.refusal = "this sidecar has not learned yet what the pool holds"
        status, problem = await put(endpoint, "/v1/canary", release="v2", share=0.5)
        assert (status, problem["detail"]) == (409, endpoint.sidecar.refusal)


async def test_with_several_services_the_caller_says_which():
    async with serving(pool(member("w1"), member("w2", service="rank"))) as endpoint:
        status, problem = await put(endpoint, "/v1/canary", release="v2", share=0.5)
        assert status == 400
        assert "embed, rank" in problem["hint"]
        assert (await put(endpoint, "/v1/canary", release="v2", share=0.5, service="rank"))[0] == 200


async def test_clearing_takes_one_candidate_or_all_away():
    async with serving(MIXED) as endpoint:
        for release in ("v2", "v3", "v4"):
            await put(endpoint, "/v1/canary", release=release, share=0.1)
        got = await endpoint.ask("DELETE", "/v1/canary?release=v3")
        assert [one["release"] for one in got.json["canary"]] == ["v2", "v4"]
        assert (await endpoint.ask("DELETE", "/v1/canary?release=v3")).status == 404
        assert (await endpoint.ask("DELETE", "/v1/canary")).json["canary"] == []


async def test_a_share_set_by_hand_ends_the_rollout_of_that_release_only():
    async with serving(MIXED) as endpoint:
        rollout = {"release": "v2", "steps": [0.05, 1.0], "hold": 60.0}
        _, answer = await put(endpoint, "/v1/canary", release="v2", share=0.05, rollout=rollout)
        assert answer["rollout"]["state"] == "running"
        _, answer = await put(endpoint, "/v1/canary", release="v3", share=0.01)
        assert answer["rollout"]["state"] == "running"
        _, answer = await put(endpoint, "/v1/canary", release="v2", share=0.1)
        assert (answer["rollout"]["state"], answer["rollout"]["why"]) == ("aborted", "its share was set by hand")


async def test_a_rollout_ends_even_where_the_reason_has_no_room():
    """A policy must fit one datagram. If it is too long, the reason is left out, and never a share of 0."""
    async with serving(MIXED) as endpoint:
        gates = ["exec: " + "x" * 390, "exec: " + "y" * 390, "exec: " + "z" * 60]
        rollout = {"release": "v2", "steps": [0.05, 1.0], "hold": 60.0, "gates": gates}
        assert (await put(endpoint, "/v1/canary", release="v2", share=0.05, rollout=rollout))[0] == 200
        failed = {**rollout, "state": "failed", "why": "\U0001f525" * 200}
        status, answer = await put(endpoint, "/v1/canary", release="v2", share=0.0, rollout=failed)
        assert status == 200
        assert answer["canary"][0]["share"] == 0.0
        assert (answer["rollout"]["state"], answer["rollout"]["why"]) == ("failed", "")


async def test_maintenance_and_zone():
    async with serving(MIXED) as endpoint:
        status, answer = await put(endpoint, "/v1/maintenance", workers=["w3", "w9"])
        assert status == 200
        assert answer["workers"] == ["w3", "w9"]
        assert "'w9'" in answer["warnings"][0]
        assert (await endpoint.get("/v1/maintenance")).json["workers"] == ["w3", "w9"]
        assert (await put(endpoint, "/v1/zone", zone="a"))[1] == {"service": "embed", "zone": "a", "warnings": []}
        assert "zone 'b'" in (await put(endpoint, "/v1/zone", zone="b"))[1]["warnings"][0]
        assert (await endpoint.get("/v1/zone")).json["zone"] == "b"
        changes = (await endpoint.get("/v1/policy/history?service=embed")).json["changes"]
        assert [change["kind"] for change in changes] == ["maintenance", "zone"]
        assert (await endpoint.get("/v1/policy/history?service=rank")).json["changes"] == []


def canary(counter: int, *shares: Share, rollout: Rollout | None = None) -> PolicyRecord:
    return PolicyRecord("embed", counter, "w1", 0, encode_body(CanaryPolicy(list(shares), rollout)))


def test_a_policy_moves_index_and_digest_of_its_own_service_and_of_no_other():
    view = RoutingView(process="p", wall_offset=0.0)
    members = (*THREE.members, member("r1", service="rank"))
    view.update(pool(*members))
    before = {name: (view.index(name), view.service(name).routing_digest) for name in ("embed", "rank")}
    view.update(
        pool(
            *members,
            policies=(canary(1, Share("v2", 500)), PolicyRecord("embed", 2, "w1", 0, encode_body(ZonePreference("a")))),
        )
    )
    assert view.index("embed") == before["embed"][0] + 1
    assert view.service("embed").routing_digest != before["embed"][1]
    assert (view.index("rank"), view.service("rank").routing_digest) == before["rank"]
    policy = view.service("embed").policy
    assert (policy.index, policy.zone, policy.canary[0].share) == (2, "a", 0.05)


def test_equal_policies_in_any_history_give_equal_owners():
    """Equal digests mean equal owners, whatever a view has seen before."""
    digests = set()
    for order in itertools.permutations([Share("v2", 500), Share("v1", 100), Share("v3", 0)], 2):
        view = RoutingView(process="p", wall_offset=0.0)
        for count in (0, 1, 2):
            view.update(pool(*MIXED.members, policies=(canary(count, *order[:count]),)))
        fresh = RoutingView(process="q", wall_offset=0.0)
        fresh.update(view.pool or MIXED)
        one, other = view.service("embed"), fresh.service("embed")
        assert one.routing_digest == other.routing_digest
        keys = [f"k{number}" for number in range(200)]
        assert one.build_routing().owners_many(keys) == other.build_routing().owners_many(keys)
        digests.add(one.routing_digest)
    assert len(digests) == 6


async def test_an_explanation_names_the_gate_and_every_worker():
    policies = (canary(1, Share("v2", 10_000)),)
    async with serving(pool(*MIXED.members, policies=policies)) as endpoint:
        answer = (await endpoint.get("/v1/explain?key=user-42")).json
        assert answer["chosen"] == answer["candidates"][0]["name"] == "w3"
        assert "v2" in answer["gate"]
        assert sorted(one["name"] for one in answer["candidates"]) == ["w1", "w2", "w3"]
        owners = (await endpoint.get("/v1/lookup?key=user-42")).json["owners"]
        assert [one["name"] for one in owners] == [one["name"] for one in answer["candidates"]]


@pytest.mark.parametrize(
    "view",
    [
        MIXED,
        pool(),
        pool(member("w1")),
        pool(member('<script>"&', release="]]>", zone="\u202e")),
        pool(*MIXED.members, policies=(canary(1, Share("v2", 500), Share("v9", 500)),)),
        pool(*(member(f"w{number}", weight=100) for number in range(100))),
    ],
    ids=["three", "nobody", "one", "markup", "canary", "hundred"],
)
@pytest.mark.parametrize("query", ["format=svg", "format=svg&key=user-42", "key=%3Cb%3E%00"])
async def test_the_picture_is_well_formed_whatever_members_are_called(view: Any, query: str):
    async with serving(view) as endpoint:
        got = await endpoint.get(f"/v1/ring?{query}")
        assert got.status == 200
        assert got.headers["content-type"] == "image/svg+xml"
        root = ElementTree.fromstring(got.body)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not root.findall(".//{http://www.w3.org/2000/svg}script")
        text = "".join(root.itertext())
        assert all(one.name in text for one in view.members[:3])


async def test_another_format_is_refused():
    async with serving(MIXED) as endpoint:
        assert (await endpoint.get("/v1/ring?format=png")).status == 400
