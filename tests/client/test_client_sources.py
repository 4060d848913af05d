"""Which sidecar a pool believes, and what it does when sidecars fall silent. The endpoints are real, on loopback."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import msgspec
import pytest
import trio
from limits import LIVENESS_LIMIT
from members import member
from stage import DRAINING, SUSPECT, Stage, stage, until_true

from rumormill.client import NoWorkersError, Pool, Topology
from rumormill.client.discovery.snapshot import SavedTopology, save_snapshot
from rumormill.discovery.http.limits import SlotLimits
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.membership.view import Connectivity, PoolView
from rumormill.ring import Routing, RoutingPolicy, Worker


async def until(pool: Pool, condition: Callable[[Topology], bool]) -> None:
    """Return when the pool's topology satisfies the condition."""
    while not condition(pool.topology):
        await pool.changed(pool.topology)


def known(topology: Topology) -> list[str]:
    return [worker.name for worker in topology.workers]


async def test_what_the_pool_believes_is_what_the_sidecar_says_in_every_readiness():
    async with stage() as scene, Pool(scene.urls[0], "embed") as pool:
        assert known(pool.topology) == ["w0", "w1", "w2"]
        assert pool.topology.origin == "sidecar"
        scene.change("w1", readiness=DRAINING, liveness=SUSPECT)
        await until(pool, lambda topology: topology.workers[1].readiness == "draining")
        assert [w.name for w in pool.owners("k")] == [w.name for w in Routing("embed", pool.workers).owners("k")]
        async with httpx2.AsyncClient(timeout=LIVENESS_LIMIT) as http:
            answer = (await http.get(f"{scene.urls[0]}/v1/workers", params={"service": "embed"})).json()
            lookup = (await http.get(f"{scene.urls[0]}/v1/lookup", params={"service": "embed", "key": "k"})).json()
        assert answer["routing_digest"] == pool.topology.routing.digest == lookup["routing_digest"]
        assert [w["name"] for w in lookup["owners"]] == [w.name for w in pool.owners("k")]


async def test_the_majority_of_sidecars_is_believed_and_views_are_never_merged():
    async with stage(workers=4, sidecars=3) as scene:
        rows = list(scene.members.values())
        scene.publish(scene.sidecars[0], members=rows[:1])
        scene.publish(scene.sidecars[1], scene.sidecars[2], members=rows[1:3])
        async with Pool(scene.urls, "embed") as pool:
            await until(pool, lambda topology: known(topology) == ["w1", "w2"])


@asynccontextmanager
async def two_clusters(*clusters: str) -> AsyncIterator[Stage]:
    """One sidecar of each of these clusters. w0 is a worker of prod, and w1 of staging."""
    async with stage(workers=2, sidecars=len(clusters)) as scene:
        for sidecar, cluster in zip(scene.sidecars, clusters, strict=True):
            row = scene.members["w0" if cluster == "prod" else "w1"]
            sidecar.publish(PoolView(cluster, "s0", Connectivity.CONNECTED, (row,)))
        yield scene


@pytest.mark.parametrize(
    ("clusters", "required", "chosen"),
    [
        (["staging", "prod", "prod"], None, "w0"),
        (["prod", "staging", "staging"], None, "w1"),
        (["prod", "staging"], None, "w0"),
        (["staging", "prod"], None, "w1"),
        (["staging", "prod", "prod"], "staging", "w1"),
        (["prod", "staging"], "staging", "w1"),
    ],
)
async def test_the_workers_of_one_cluster_are_called_and_the_other_is_named(clusters, required, chosen, caplog):
    async with two_clusters(*clusters) as scene:
        with caplog.at_level(logging.WARNING):
            async with (
                Pool(scene.urls, "embed", cluster=required) as pool,
                httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http,
            ):
                await until_true(lambda: bool(pool.topology.troubles))
                assert {(await http.get("/")).text for _ in range(10)} == {chosen}
                own, other = ("prod", "staging") if chosen == "w0" else ("staging", "prod")
                assert pool.topology.cluster == own
                verb = "requires" if required else "has chosen"
                why = f"it is of cluster {other!r}, and this pool {verb} {own!r}"
                strangers = [url for url, cluster in zip(scene.urls, clusters, strict=True) if cluster == other]
                assert pool.topology.troubles == tuple(f"{url}: {why}" for url in strangers)
                # The choice stays when the sources of that cluster are gone.
                for sidecar, cluster in zip(scene.sidecars, clusters, strict=True):
                    if cluster == own:
                        sidecar.kill()
                await until_true(lambda: len(pool.topology.troubles) == len(clusters))
                assert {(await http.get("/")).text for _ in range(10)} == {chosen}
        assert caplog.text.count(why) == len(strangers)
        assert scene.workers["w1" if chosen == "w0" else "w0"].seen == []


async def test_requiring_a_cluster_that_no_source_belongs_to_names_the_clusters_found(tmp_path):
    path = tmp_path / "embed.json"
    save_snapshot(path, an_answer(), time.time())
    async with (
        two_clusters("staging") as scene,
        Pool(scene.urls, "embed", cluster="production", snapshot=path) as pool,
    ):
        why = "it is of cluster 'staging', and this pool requires 'production'"
        with pytest.raises(NoWorkersError, match=why), pool.acquire():
            pass
    with pytest.raises(ValueError, match="leave it out"):
        Pool("http://127.0.0.1:7380", "embed", cluster="")


async def test_a_source_that_is_slow_to_answer_at_all_does_not_hold_up_the_choice_for_long(autojump_clock):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        async with two_clusters("prod") as scene:
            began = trio.current_time()
            async with Pool([f"http://127.0.0.1:{deaf.getsockname()[1]}", *scene.urls], "embed", patience=60) as pool:
                assert known(pool.topology) == ["w0"]
                assert trio.current_time() - began < 0.5


async def test_an_isolated_sidecar_is_believed_only_when_nobody_else_answers():
    async with stage(workers=3, sidecars=2) as scene:
        rows = list(scene.members.values())
        scene.publish(scene.sidecars[0], members=rows[:1], isolated=True)
        scene.publish(scene.sidecars[1], members=rows)
        async with Pool(scene.urls, "embed") as pool:
            await until(pool, lambda topology: not topology.isolated)
            assert known(pool.topology) == ["w0", "w1", "w2"]
            scene.sidecars[1].kill()
            await until(pool, lambda topology: topology.isolated)
            assert known(pool.topology) == ["w0"]


async def test_the_death_of_one_source_leaves_the_others_and_of_all_leaves_what_was_known():
    async with stage(sidecars=2) as scene, Pool(scene.urls, "embed") as pool:
        scene.sidecars[0].kill()
        scene.evict("w1")
        await until(pool, lambda topology: known(topology) == ["w0", "w2"])
        scene.sidecars[1].kill()
        async with httpx2.AsyncClient(
            transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT
        ) as http:
            assert (await http.get("/")).text in ("w0", "w2")
            for worker in scene.workers.values():
                worker.kill()
            with pytest.raises(NoWorkersError, match=r"heard .* s ago from"):
                await http.get("/")


async def test_a_sidecar_that_comes_back_is_heard_again():
    async with stage() as scene, Pool(scene.urls, "embed") as pool:
        port = scene.sidecars[0].port
        scene.sidecars[0].kill()
        del scene.sidecars[0]
        scene.members["w9"] = member("w9", url="http://127.0.0.1:1")
        await scene.add_sidecar(port)
        await until(pool, lambda topology: "w9" in known(topology))


async def test_a_sidecar_that_has_just_restarted_is_not_taken_at_its_word(autojump_clock):
    async with stage(workers=4) as scene, Pool(scene.urls, "embed") as pool:
        port = scene.sidecars[0].port
        scene.sidecars[0].kill()
        del scene.sidecars[0]
        everybody, scene.members = scene.members, {"w0": scene.members["w0"]}
        began = trio.current_time()
        newborn = await scene.add_sidecar(port)
        with trio.move_on_after(3):
            await until(pool, lambda topology: len(topology.workers) != 4)
        assert len(pool.workers) == 4
        # After a while it is believed, if that is still all it knows.
        await until(pool, lambda topology: known(topology) == ["w0"])
        assert trio.current_time() - began > 5
        scene.publish(newborn, members=list(everybody.values()))
        await until(pool, lambda topology: len(topology.workers) == 4)


async def test_a_frozen_source_loses_its_vote(autojump_clock):
    """Two sources stopped answering and still have their old answers. A third goes on."""
    async with stage(sidecars=1) as scene, trio.open_nursery() as nursery:
        async with httpx2.AsyncClient(timeout=LIVENESS_LIMIT) as http:
            present = await http.get(f"{scene.urls[0]}/v1/workers?service=embed")
        frozen = await _frozen_twins(nursery, present.content)
        async with Pool([*frozen, *scene.urls], "embed") as pool:
            await until(pool, lambda topology: known(topology) == ["w0", "w1", "w2"])
            scene.evict("w1")
            with trio.fail_after(4):
                await until(pool, lambda topology: known(topology) == ["w0", "w2"])
            nursery.cancel_scope.cancel()


async def _frozen_twins(nursery: trio.Nursery, body: bytes) -> list[str]:
    """Two endpoints that give this answer once, and then accept every connection in silence."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    urls = []
    for _ in range(2):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        urls.append(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
        answers = [answer]

        async def serve(stream: trio.SocketStream, answers: list[bytes] = answers) -> None:
            async with stream:
                await stream.receive_some(65536)
                if answers:
                    await stream.send_all(answers.pop())
                await trio.sleep_forever()

        nursery.start_soon(trio.serve_listeners, serve, [listener])
    return urls


async def test_a_sidecar_with_too_many_callers_is_asked_no_more_often_than_it_says(autojump_clock):
    """It refuses every blocking query with a Retry-After of one second, and answers the others."""
    async with stage() as scene:
        scene.sidecars[0].server._slots.limits = SlotLimits(connections=8, waiting=0, rejections=1)
        async with Pool(scene.urls, "embed") as pool:
            assert known(pool.topology) == ["w0", "w1", "w2"]
            before = scene.sidecars[0].server.counters["requests"]
            await trio.sleep(20)
            asked = scene.sidecars[0].server.counters["requests"] - before
            assert 10 <= asked <= 2 * 20
            scene.evict("w1")
            await until(pool, lambda topology: known(topology) == ["w0", "w2"])


async def test_a_token_is_sent_to_the_sidecars():
    async with stage(token="s3cret") as scene:
        async with Pool(scene.urls, "embed", token="s3cret") as pool:
            assert len(pool.workers) == 3
        async with Pool(scene.urls, "embed", patience=0.2) as pool:
            assert pool.workers == ()
            with pytest.raises(NoWorkersError, match=r"answers 401.*the token is missing or wrong"), pool.acquire():
                pass


async def test_what_is_no_sidecar_is_named_as_such():
    async with stage() as scene:
        async with Pool(scene.workers["w0"].url, "embed", patience=0.2) as pool:
            with pytest.raises(NoWorkersError, match="no rumormill sidecar"), pool.acquire():
                pass
        async with Pool(scene.urls, "another", patience=0.2) as pool:
            assert pool.workers == ()
            assert pool.topology.origin == "sidecar"


@pytest.mark.parametrize(
    ("sources", "service", "settings", "hint"),
    [
        ([], "embed", {}, "a pool needs a sidecar to ask"),
        (["127.0.0.1:7380"], "embed", {}, "no sidecar's URL.*'http://127.0.0.1:7380'"),
        (["http://127.0.0.1:7380"], "", {}, "name the one to call"),
        (["http://127.0.0.1:7380"], "embed", {"replay": "sometimes"}, "'idempotent', 'always', 'never'"),
    ],
)
def test_bad_settings_are_refused_with_a_hint(sources, service, settings, hint):
    with pytest.raises(ValueError, match=hint):
        Pool(sources, service, **settings)


async def test_the_last_good_list_is_kept_on_disk_and_used_when_no_sidecar_answers(tmp_path, caplog):
    path = tmp_path / "embed.json"
    async with stage() as scene:
        async with Pool(scene.urls, "embed", snapshot=path) as pool:
            await until_true(path.exists)
        assert sorted(w["name"] for w in json.loads(path.read_text())["answer"]["workers"]) == ["w0", "w1", "w2"]
        assert list(tmp_path.iterdir()) == [path]
        scene.sidecars[0].kill()
        with caplog.at_level(logging.WARNING):
            async with Pool(scene.urls, "embed", snapshot=path, patience=0.2) as pool:
                assert pool.topology.origin == "snapshot"
                assert str(path) in pool.topology.describe(trio.current_time())
                async with httpx2.AsyncClient(
                    transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT
                ) as http:
                    assert (await http.get("/")).text in scene.workers
                port = scene.sidecars[0].port
                del scene.sidecars[0]
                scene.evict("w0")
                await scene.add_sidecar(port)
                await until(pool, lambda topology: topology.origin == "sidecar")
                assert known(pool.topology) == ["w1", "w2"]
        assert "no sidecar answers; using the list of" in caplog.text


def an_answer(service: str = "embed") -> WorkersAnswer:
    worker = Worker("w0", 1, "0" * 32, service, "http://127.0.0.1:1", "", "", 1.0, "alive", "passing", None, {}, "")
    return WorkersAnswer("prod", service, 1, "p", Routing(service, [worker]).digest, False, RoutingPolicy(), [worker])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
        (None, "does not exist yet"),
        (SavedTopology(0.0, an_answer()), "hours old"),
        (SavedTopology(4e9, an_answer("chat")), "of service 'chat'"),
    ],
)
async def test_a_snapshot_that_is_of_no_use_is_a_warning_and_no_error(tmp_path, caplog, content, why):
    path = tmp_path / "list.json"
    if isinstance(content, SavedTopology):
        save_snapshot(path, content.answer, content.saved)
    elif content is not None:
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        async with Pool("http://127.0.0.1:1", "embed", snapshot=path, patience=0.2) as pool:
            assert pool.workers == ()
    assert why in caplog.text


async def test_a_snapshot_that_cannot_be_written_is_a_warning_and_no_error(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        async with stage() as scene, Pool(scene.urls, "embed", snapshot=tmp_path / "missing" / "list.json") as pool:
            await until_true(lambda: "cannot be written" in caplog.text)
            assert len(pool.workers) == 3


async def test_a_sidecar_with_another_routing_digest_is_logged_once(caplog):
    async with trio.open_nursery() as nursery:
        body = msgspec.json.encode(msgspec.structs.replace(an_answer(), routing_digest="0" * 16))
        urls = await _frozen_twins(nursery, body)
        async with Pool(urls, "embed") as pool:
            await until(pool, lambda topology: bool(topology.workers))
        assert caplog.text.count("different versions") == 1
        nursery.cancel_scope.cancel()
