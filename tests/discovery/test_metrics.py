"""What Prometheus reads at /metrics, from a real endpoint over a real socket."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import trio
from members import member
from prometheus_client.parser import text_string_to_metric_families
from serving import Serving, pool, serving, until

from rumormill.discovery.api.counter_families import COUNTER_FAMILIES, is_exported
from rumormill.membership.measurements import DATAGRAM_KINDS
from rumormill.membership.record import Liveness, Readiness

ROOT = Path(__file__).parents[2]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(endpoint: Serving) -> Samples:
    answer = await endpoint.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def value(samples: Samples, metric: str, /, **labels: str) -> float:
    return samples[f"rumormill_{metric}", frozenset(labels.items())]


async def test_it_says_who_this_is_and_that_gossip_is_in_plaintext() -> None:
    async with serving() as endpoint:
        samples = await scrape(endpoint)
        assert value(samples, "info", name="w1", cluster="prod", service="embed", seal="plaintext") == 1
        assert value(samples, "sealed") == 0
        assert [labels for name, labels in samples if name == "rumormill_build_info"]


async def test_members_are_counted_by_liveness_and_readiness() -> None:
    view = pool(
        member("w1"),
        member("w2", liveness=Liveness.SUSPECT),
        member("w3", readiness=Readiness.CRITICAL),
        member("w4", liveness=Liveness.DEAD),
    )
    async with serving(view) as endpoint:
        samples = await scrape(endpoint)
        assert value(samples, "members", liveness="alive", readiness="passing") == 1
        assert value(samples, "members", liveness="suspect", readiness="passing") == 1
        assert value(samples, "members", liveness="alive", readiness="critical") == 1
        assert value(samples, "members", liveness="dead", readiness="passing") == 1
        assert value(samples, "members", liveness="left", readiness="passing") == 0


async def test_requests_are_counted_by_route_and_code() -> None:
    async with serving() as endpoint:
        etag = (await endpoint.get("/v1/workers?service=embed")).headers["etag"]
        await endpoint.get("/v1/workers?service=embed", If_None_Match=etag)
        await endpoint.get("/v1/workers?servise=embed")
        for path in ("/v1/nothing", "/v1/secret"):
            await endpoint.get(path)
        samples = await scrape(endpoint)
        assert value(samples, "http_requests_total", route="/v1/workers", code="200") == 1
        assert value(samples, "http_requests_total", route="/v1/workers", code="304") == 1
        assert value(samples, "http_requests_total", route="none", code="404") == 2
        assert value(samples, "http_request_duration_seconds_count", route="/v1/workers") == 2
        assert value(samples, "http_request_duration_seconds_bucket", route="/v1/workers", le="+Inf") == 2
        routes = {dict(labels)["route"] for name, labels in samples if name == "rumormill_http_requests_total"}
        assert routes == {"/v1/workers", "none"}, "what a caller asks for must not become a label"


async def test_a_query_that_waits_is_a_watcher_and_not_a_slow_request() -> None:
    async with serving() as endpoint, trio.open_nursery() as nursery:
        nursery.start_soon(endpoint.get, "/v1/workers?service=embed&index=1&wait=5m")
        await until(lambda: endpoint.server.waiting == 1)
        before = await scrape(endpoint)
        assert value(before, "http_watchers") == 1
        endpoint.publish(pool(member("w1"), member("w2"), member("w3"), member("w4")))
        await until(lambda: endpoint.server.waiting == 0)
        await endpoint.get("/v1/workers")
        samples = await scrape_again(endpoint, before)
        assert value(samples, "http_watchers") == 0
        assert value(samples, "http_request_duration_seconds_count", route="/v1/workers") == 1
        assert value(samples, "routing_changes_total") == 1


async def scrape_again(endpoint: Serving, before: Samples) -> Samples:
    """The next answer that was made later: an answer is kept for a moment."""
    while True:
        samples = await scrape(endpoint)
        if samples != before:
            return samples


async def test_gossip_is_shown_by_kind_and_as_histograms() -> None:
    async with serving() as endpoint:
        gossip = endpoint.sidecar.measured.gossip
        gossip.sent.count(DATAGRAM_KINDS.index("heartbeat"), 74)
        gossip.heartbeat_gap.observe(0.201)
        gossip.round_trip.observe(0.002)
        endpoint.sidecar.measured.loop_lag.observe(0.04)
        samples = await scrape(endpoint)
        assert value(samples, "gossip_datagrams_total", direction="sent", kind="heartbeat") == 1
        assert value(samples, "gossip_bytes_total", direction="sent", kind="heartbeat") == 74
        assert value(samples, "heartbeat_gap_seconds_bucket", le="0.21") == 1
        assert value(samples, "heartbeat_gap_seconds_bucket", le="0.19") == 0
        assert value(samples, "ping_rtt_seconds_sum") == 0.002
        assert value(samples, "loop_lag_seconds_bucket", le="0.05") == 1


def test_every_counter_in_the_code_is_exported() -> None:
    names: set[str] = set()
    for room in ("gossip", "discovery", "sidecar"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("counters"):
                    key = node.slice
                    found = [part.value for part in ast.walk(key) if isinstance(part, ast.Constant)]
                    prefix = "http_" if room == "discovery" and path.parent.name != "listeners" else ""
                    names |= {prefix + str(text) for text in found if re.fullmatch(r"\w+", str(text))}
    assert {"dropped_noise", "http_requests", "evictions_mass_loss", "event_"} <= names, (
        "the test has lost sight of the code"
    )
    assert [name for name in sorted(names) if not is_exported(name)] == []


def test_each_family_says_in_a_sentence_what_it_means() -> None:
    assert len({family.name for family in COUNTER_FAMILIES}) == len(COUNTER_FAMILIES)
    assert [family.name for family in COUNTER_FAMILIES if not family.help.endswith((".", "`."))] == []
