"""The pool in the formats of other programs: who is offered, with which weight, and who comes last."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from members import member
from serving import PROCESS, pool, serving

from rumormill.discovery.formats import FORMAT_NAMES, consul, envoy
from rumormill.discovery.formats.traffic import integer_weights, offers, ready_offers, traffic_weights
from rumormill.discovery.http.access import Access
from rumormill.discovery.http.limits import Limits
from rumormill.discovery.schema.policy_bodies import CanaryPolicy, Share, encode_body
from rumormill.discovery.service_view import ServiceView
from rumormill.discovery.view import RoutingView
from rumormill.membership.policy import PolicyRecord
from rumormill.membership.record import Liveness, Readiness
from rumormill.membership.view import Connectivity, Member

SUSPECT = {"liveness": Liveness.SUSPECT}
DRAINING = {"readiness": Readiness.DRAINING}


def policy(**shares: int) -> tuple[PolicyRecord, ...]:
    """A canary policy for embed: basis points by release."""
    body = CanaryPolicy([Share(release, share) for release, share in shares.items()])
    return (PolicyRecord("embed", 1, "w1", 0, encode_body(body)),)


def view_of(*members: Member, service: str = "embed", **words: Any) -> ServiceView:
    view = RoutingView(process=PROCESS, wall_offset=0.0)
    view.update(pool(*members, **words))
    return view.service(service)


class TestTraffic:
    def test_without_a_policy_each_worker_weighs_what_it_says(self):
        view = view_of(member("w1"), member("w2", weight=2500), member("w3", weight=0), member("w4", **DRAINING))
        assert traffic_weights(view) == {"w1": 1.0, "w2": 2.5}

    def test_a_canary_gets_its_share_whatever_its_workers_weigh(self):
        stable = [member(f"w{number}") for number in range(9)]
        view = view_of(*stable, member("x", release="v2", weight=4000), policies=policy(v2=500))
        weights = traffic_weights(view)
        assert weights["x"] / sum(weights.values()) == pytest.approx(0.05)
        assert sum(weights.values()) == pytest.approx(13.0)

    def test_a_release_without_a_share_gets_nothing_unless_it_is_alone(self):
        view = view_of(member("w1"), member("w2", release="v2"), policies=policy(v2=0))
        assert [offer.worker.name for offer in ready_offers(view)] == ["w1"]
        alone = view_of(member("w2", release="v2"), policies=policy(v2=0))
        assert [offer.worker.name for offer in ready_offers(alone)] == ["w2"]

    def test_a_share_of_a_release_without_workers_falls_to_the_others(self):
        view = view_of(member("w1"), member("w2"), policies=policy(v9=5000))
        assert traffic_weights(view) == {"w1": 1.0, "w2": 1.0}

    def test_suspects_come_last_and_a_url_without_an_address_is_left_out(self):
        view = view_of(member("w1", **SUSPECT), member("w2", url=""), member("w3"), member("w4", url="https://[::1]/x"))
        assert [(offer.worker.name, offer.host_port) for offer in offers(view)] == [
            ("w3", "w3.example:9001"),
            ("w4", "[::1]:443"),
            ("w1", "w1.example:9001"),
        ]

    def test_whole_weights_keep_their_proportions_and_never_become_zero(self):
        assert integer_weights({"a": 1.0, "b": 0.0001, "c": 0.0}, normal=100, most=256) == {"a": 100, "b": 1, "c": 0}
        assert integer_weights({"a": 1.0, "b": 10.0}, normal=100, most=256) == {"a": 26, "b": 256}
        assert integer_weights({}, normal=100, most=256) == {}


class TestText:
    async def test_a_url_a_line_suspects_last(self):
        shown = pool(member("w1", **SUSPECT), member("w2"), member("w3", **DRAINING))
        async with serving(shown) as endpoint:
            every = await endpoint.get("/v1/workers?format=text")
            assert every.headers["content-type"] == "text/plain; charset=utf-8"
            assert every.body == b"http://w2.example:9001\nhttp://w3.example:9001\nhttp://w1.example:9001\n"
            ready = await endpoint.get("/v1/workers?service=embed&ready=true&format=text")
            assert ready.body == b"http://w2.example:9001\nhttp://w1.example:9001\n"
            assert (await endpoint.get("/v1/workers?service=none&format=text")).body == b""

    async def test_it_has_a_tag_of_its_own(self):
        async with serving() as endpoint:
            text = await endpoint.get("/v1/workers?service=embed&format=text")
            again = await endpoint.get("/v1/workers?service=embed&format=text", If_None_Match=text.headers["etag"])
            assert again.status == 304
            json = await endpoint.get("/v1/workers?service=embed", If_None_Match=text.headers["etag"])
            assert json.status == 200


class TestPrometheus:
    async def test_every_present_worker_is_a_target_with_what_the_pool_knows_of_it(self):
        shown = pool(
            member("w1", tags={"gpu-kind": "a100"}),
            member("w2", url="https://10.0.0.2/base", **DRAINING),
            member("w3", **SUSPECT),
            member("w4", liveness=Liveness.DEAD),
        )
        async with serving(shown) as endpoint:
            groups = (await endpoint.get("/v1/prometheus/targets?service=embed")).json
            assert [group["targets"] for group in groups] == [
                ["w1.example:9001"],
                ["10.0.0.2:443"],
                ["w3.example:9001"],
            ]
            labels = [group["labels"] for group in groups]
            assert labels[0]["__meta_rumormill_tag_gpu_kind"] == "a100"
            assert labels[1]["__scheme__"] == "https"
            assert labels[1]["__meta_rumormill_readiness"] == "draining"
            assert labels[2]["__meta_rumormill_liveness"] == "suspect"
            assert (await endpoint.get("/v1/prometheus/targets?service=none")).json == []


class TestConsul:
    async def test_the_health_of_a_service_and_its_catalog_are_in_the_same_order(self):
        shown = pool(member("w1", tags={"gpu": "a100"}), member("w2", **DRAINING), member("w3", **SUSPECT))
        async with serving(shown) as endpoint:
            got = await endpoint.get("/v1/health/service/embed")
            assert got.headers["x-consul-knownleader"] == "true"
            assert got.headers["x-consul-lastcontact"] == "0"
            assert 1 <= int(got.headers["x-consul-index"]) < 2**53
            rows = [(row["Node"]["Node"], row["Checks"][0]["Status"]) for row in got.json]
            assert rows == [("w1", "passing"), ("w2", "critical"), ("w3", "warning")]
            service = got.json[0]["Service"]
            assert (service["Address"], service["Port"], service["Service"]) == ("w1.example", 9001, "embed")
            assert service["Tags"] == ["gpu=a100", "release=v1", "zone=a"]
            catalog = (await endpoint.get("/v1/catalog/service/embed")).json
            assert [row["ServiceID"] for row in catalog] == ["w1", "w2", "w3"]

    async def test_passing_leaves_out_the_others_and_a_last_resort_passes_where_it_is_alone(self):
        shown = pool(member("w1"), member("w2", **DRAINING), member("w3", **SUSPECT))
        async with serving(shown) as endpoint:
            for asked, names in (("?passing", ["w1"]), ("?passing=1", ["w1"]), ("?passing=false", ["w1", "w2", "w3"])):
                rows = (await endpoint.get(f"/v1/health/service/embed{asked}")).json
                assert [row["Node"]["Node"] for row in rows] == names
            endpoint.publish(pool(member("w1", **DRAINING), member("w3", **SUSPECT)))
            rows = (await endpoint.get("/v1/health/service/embed?passing")).json
            assert [row["Node"]["Node"] for row in rows] == ["w3"]

    async def test_a_cut_off_sidecar_knows_no_leader(self):
        shown = pool(member("w1"), member("w2", **SUSPECT), connectivity=Connectivity.ISOLATED)
        async with serving(shown) as endpoint:
            got = await endpoint.get("/v1/health/service/embed")
            assert got.headers["x-consul-knownleader"] == "false"

    async def test_tags_select_and_a_filter_is_refused(self):
        shown = pool(member("w1", zone="b"), member("w2"))
        async with serving(shown) as endpoint:
            rows = (await endpoint.get("/v1/health/service/embed?tag=zone=b&tag=release=v1")).json
            assert [row["Node"]["Node"] for row in rows] == ["w1"]
            assert (await endpoint.get("/v1/health/service/embed?filter=a")).status == 400
            assert (await endpoint.get("/v1/health/service/embed?dc=elsewhere")).status == 404
            assert (await endpoint.get("/v1/health/service/embed?dc=prod&stale&near=_agent")).status == 200

    async def test_a_query_blocks_until_the_service_changes(self):
        async with serving() as endpoint:
            caller = await endpoint.caller()
            index = (await caller.get("/v1/health/service/embed")).headers["x-consul-index"]
            endpoint.publish(pool(member("w1"), member("w2")))
            changed = await caller.get(f"/v1/health/service/embed?index={index}&wait=60s")
            assert int(changed.headers["x-consul-index"]) == int(index) + 1
            assert len(changed.json) == 2

    async def test_an_index_of_another_sidecar_is_answered_soon(self):
        async with serving() as endpoint:
            foreign = consul.first_index("another") + 1
            got = await endpoint.get(f"/v1/health/service/embed?index={foreign}&wait=10m")
            assert got.headers["x-consul-index"] == str(consul.first_index(PROCESS) + 1)

    async def test_the_agent_is_this_sidecar(self):
        async with serving() as endpoint:
            assert (await endpoint.get("/v1/agent/self")).json["Config"]["NodeName"] == "w1"
            assert list((await endpoint.get("/v1/agent/services")).json) == ["w1"]
            assert (await endpoint.get("/v1/status/leader")).json == "127.0.0.1:7946"
            assert (await endpoint.get("/v1/catalog/services")).json == {"embed": ["release=v1", "zone=a"]}
            states = (await endpoint.get("/v1/health/state/any")).json
            assert [check["Node"] for check in states] == ["w1", "w2", "w3"]
            assert (await endpoint.get("/v1/health/state/critical")).json == []


async def ask_envoy(endpoint: Any, kind: str, **request: Any) -> Any:
    return await endpoint.ask("POST", f"/v3/discovery:{kind}", msgspec.json.encode(request))


class TestEnvoy:
    async def test_endpoints_are_those_that_take_new_work_by_zone(self):
        shown = pool(
            member("w1", url="http://10.0.0.1:9001"),
            member("w2", url="http://10.0.0.2:9001", zone="b", weight=2000),
            member("w3", url="http://10.0.0.3:9001", **SUSPECT),
            member("w4", url="http://10.0.0.4:9001", **DRAINING),
            member("w5"),
        )
        async with serving(shown) as endpoint:
            got = (await ask_envoy(endpoint, "endpoints", resource_names=["embed"])).json
            (assignment,) = got["resources"]
            assert assignment["cluster_name"] == "embed"
            rows = [
                (
                    group["locality"]["zone"],
                    row["endpoint"]["address"]["socket_address"]["address"],
                    row["health_status"],
                    row["load_balancing_weight"],
                )
                for group in assignment["endpoints"]
                for row in group["lb_endpoints"]
            ]
            assert rows == [
                ("a", "10.0.0.1", "HEALTHY", 1000),
                ("a", "10.0.0.3", "DEGRADED", 1000),
                ("b", "10.0.0.2", "HEALTHY", 2000),
            ]

    async def test_who_has_the_present_version_is_told_so_at_every_sidecar(self):
        async with serving() as one, serving() as other:
            for kind in ("endpoints", "clusters", "listeners"):
                got = await ask_envoy(one, kind)
                again = await ask_envoy(other, kind, version_info=got.json["version_info"])
                assert (again.status, again.body) == (304, b"")
            version = (await ask_envoy(one, "endpoints", resource_names=["embed"])).json["version_info"]
            one.publish(pool(member("w1", url="http://10.0.0.1:9001")))
            assert (await ask_envoy(one, "endpoints", resource_names=["embed"], version_info=version)).status == 200

    async def test_a_service_that_never_was_has_no_endpoints(self):
        async with serving() as endpoint:
            got = (await ask_envoy(endpoint, "endpoints", resource_names=["none"])).json
            assert got["resources"][0]["endpoints"] == []

    async def test_a_cluster_stays_when_its_last_worker_has_gone(self):
        async with serving() as endpoint:
            await ask_envoy(endpoint, "clusters")
            endpoint.publish(pool(member("x", service="rank")))
            names = [row["name"] for row in (await ask_envoy(endpoint, "clusters")).json["resources"]]
            assert names == ["embed", "rank"]

    async def test_the_listener_is_what_the_node_asks_for(self):
        async with serving() as endpoint:
            node = {"metadata": {"rumormill_listen": "[::1]:81", "rumormill_replay": "always"}}
            (listener,) = (await ask_envoy(endpoint, "listeners", node=node)).json["resources"]
            assert listener["address"]["socket_address"] == {"address": "::1", "port_value": 81}
            assert b"reset-before-request,reset" in msgspec.json.encode(listener)
            for metadata in ({"rumormill_listen": "here"}, {"rumormill_replay": 1}):
                assert (await ask_envoy(endpoint, "listeners", node={"metadata": metadata})).status == 400

    async def test_of_several_services_only_host_names_are_virtual_hosts(self):
        shown = pool(member("w1"), member("w2", service="A B"))
        async with serving(shown) as endpoint:
            (listener,) = (await ask_envoy(endpoint, "listeners")).json["resources"]
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            hosts = [host["domains"] for host in manager["route_config"]["virtual_hosts"]]
            assert hosts == [["embed", "embed:*"]]

    async def test_what_is_no_request_of_envoy_is_refused(self):
        async with serving() as endpoint:
            assert (await endpoint.ask("POST", "/v3/discovery:endpoints", b"[]")).status == 400
            many = [str(number) for number in range(1025)]
            assert (await ask_envoy(endpoint, "endpoints", resource_names=many)).status == 400
            assert (await endpoint.get("/v3/discovery:endpoints")).status == 405

    def test_ten_thousand_of_the_heaviest_stay_below_the_limit_of_envoy(self):
        view = view_of(*(member(f"w{n}", url=f"http://10.0.{n >> 8}.{n & 255}:1", weight=10**6) for n in range(100)))
        rows = msgspec.json.decode(envoy.endpoints(view).body)["endpoints"][0]["lb_endpoints"]
        assert max(row["load_balancing_weight"] for row in rows) * 100 * 100 < 2**32


class TestTraefik:
    async def test_each_service_has_a_router_and_the_weights_of_its_workers(self):
        shown = pool(
            member("w1"), member("w2", weight=500), member("w3", **SUSPECT), member("x", service="rank", **DRAINING)
        )
        async with serving(shown) as endpoint:
            http = (await endpoint.get("/v1/traefik")).json["http"]
            assert http["routers"]["embed"]["rule"] == "Host(`embed`)"
            assert http["services"] == {
                "embed": {
                    "loadBalancer": {
                        "servers": [
                            {"url": "http://w1.example:9001", "weight": 100},
                            {"url": "http://w2.example:9001", "weight": 50},
                        ]
                    }
                }
            }
            alone = (await endpoint.get("/v1/traefik?service=embed")).json["http"]
            assert alone["routers"]["embed"]["rule"] == "PathPrefix(`/`)"
            assert (await endpoint.get("/v1/traefik?service=none")).json == {"http": {}}


class TestSettings:
    async def test_a_format_that_is_turned_off_is_not_there(self):
        async with serving(disabled_formats=FORMAT_NAMES) as endpoint:
            for path in ("/v1/health/service/embed", "/v1/agent/self", "/v1/prometheus/targets", "/v1/traefik"):
                assert (await endpoint.get(path)).status == 404
            assert (await ask_envoy(endpoint, "endpoints")).status == 404
            assert (await endpoint.get("/v1/workers?format=text")).status == 404
            assert (await endpoint.get("/v1/workers")).status == 200
            assert "/v1/agent/self" not in (await endpoint.get("/openapi.json")).json["paths"]

    async def test_a_token_opens_the_formats_however_a_client_of_consul_sends_it(self):
        async with serving(access=Access(read_token="s3cret", local=False)) as endpoint:
            path = "/v1/health/service/embed"
            assert (await endpoint.get(path)).status == 401
            assert (await ask_envoy(endpoint, "endpoints")).status == 401
            assert (await endpoint.get(path, X_Consul_Token="wrong")).status == 401
            assert (await endpoint.get(path, X_Consul_Token="s3cret")).status == 200
            assert (await endpoint.get(path, Authorization="Bearer s3cret")).status == 200
            drain = await endpoint.ask("PUT", "/v1/drain", X_Consul_Token="s3cret")
            assert drain.status == 403

    async def test_until_a_sidecar_knows_its_pool_the_formats_say_so(self):
        async with serving(limits=Limits(settle=3600.0, settle_alone=3600.0)) as endpoint:
            for path in (
                "/v1/health/service/embed",
                "/v1/prometheus/targets",
                "/v1/workers?format=text",
                "/v1/traefik",
            ):
                answer = await endpoint.get(path)
                assert (answer.status, answer.headers["retry-after"]) == (503, "1"), path
            assert endpoint.server.settled_view() is None
            assert (await endpoint.get("/v1/workers")).status == 200

    async def test_a_path_with_an_empty_or_a_longer_parameter_leads_nowhere(self):
        async with serving() as endpoint:
            for path in ("/v1/health/service/", "/v1/health/service", "/v1/health/service/a/b", "/v1/health/state/x"):
                assert (await endpoint.get(path)).status in (400, 404), path
            assert (await endpoint.get("/v1/health/service/a%20b")).json == []


async def test_an_answer_is_encoded_once_per_change():
    view = view_of(member("w1"))
    assert view.derived(consul.health_service, passing=True) is view.derived(consul.health_service, passing=True)
    assert view.derived(consul.health_service, passing=True) is not view.derived(consul.health_service, passing=False)
