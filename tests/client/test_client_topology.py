"""Which source is believed, and which departed workers are remembered. Without a network."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from rumormill.client.discovery.clusters import ClusterChoice
from rumormill.client.discovery.topology import (
    DEPARTED_KEPT,
    MAX_DEPARTED,
    RESTART_GRACE,
    SidecarSource,
    nothing_known,
    select_source,
    stale_voters,
    with_answer,
)
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring import Routing, RoutingPolicy, Worker

NOTHING = nothing_known("embed")


def worker(name: str, **changes: object) -> Worker:
    plain = Worker(
        name, 1, name.ljust(32, "0"), "embed", f"http://{name}", "", "", 1.0, "alive", "passing", None, {}, ""
    )
    return msgspec.structs.replace(plain, **changes)


def answer(
    *names: str, cluster: str = "prod", isolated: bool = False, process: str = "p", index: int = 1
) -> WorkersAnswer:
    workers = [worker(name) for name in names]
    digest = Routing("embed", workers).digest
    return WorkersAnswer(cluster, "embed", index, process, digest, isolated, RoutingPolicy(), workers)


def source(url: str, said: WorkersAnswer | None, changed: float = 0.0, answering: bool = True) -> SidecarSource:
    return SidecarSource(url, said, answering, changed=changed, confirmed=changed)


def believing(*names: str, now: float = 0.0, before=NOTHING):
    return with_answer(before, answer(*names), source="http://s", origin="sidecar", now=now)


def test_the_digest_most_share_is_believed_however_new_another_is():
    sources = [source("a", answer("w1"), 9), source("b", answer("w2"), 1), source("c", answer("w2"), 2)]
    assert select_source(sources, NOTHING, 10) is sources[2]


def test_in_a_tie_the_newest_change_is_believed():
    frozen, live = source("frozen", answer("w1", "w2"), 1), source("live", answer("w2"), 2)
    assert select_source([frozen, live], NOTHING, 10) is live
    assert select_source([live, frozen], NOTHING, 10) is live


def test_a_silent_source_has_no_vote_and_if_all_are_silent_nothing_changes():
    silent = [source("a", answer("w1"), answering=False), source("b", answer("w1"), answering=False)]
    alone = source("c", answer("w2"))
    assert select_source([*silent, alone], NOTHING, 10) is alone
    assert select_source(silent, NOTHING, 10) is None
    assert select_source([source("new", None)], NOTHING, 10) is None


sources_drawn = st.lists(
    st.builds(
        lambda names, isolated, changed, answering: source(
            f"s{changed}", answer(*sorted(names), isolated=isolated), changed, answering
        ),
        st.sets(st.sampled_from(["w1", "w2", "w3"])),
        st.booleans(),
        st.integers(0, 100),
        st.booleans(),
    ),
    max_size=5,
    unique_by=lambda drawn: drawn.changed,
)


@given(sources_drawn, st.randoms(use_true_random=False))
def test_one_source_is_believed_whatever_their_order_and_no_isolated_one_if_another_answers(drawn, rng):
    chosen = select_source(drawn, NOTHING, 0)
    shuffled = list(drawn)
    rng.shuffle(shuffled)
    assert select_source(shuffled, NOTHING, 0) is chosen
    answering = [one for one in drawn if one.answering]
    assert (chosen is None) == (not answering)
    if chosen is not None and chosen.answer.isolated:
        assert all(one.answer.isolated for one in answering)


def test_a_restarted_source_waits_while_it_is_new_and_knows_less_than_half():
    known = believing("w1", "w2", "w3")
    restarted = source("a", answer("w1", "w2", "w3", process="old"))
    assert restarted.record_answer(answer("w1", process="new"), 100.0)
    assert restarted.just_restarted(100.0 + RESTART_GRACE - 0.1)
    assert select_source([restarted], known, 101.0) is None
    assert select_source([restarted], known, 100.0 + RESTART_GRACE) is restarted
    restarted.record_answer(answer("w1", "w2", process="new", index=2), 101.0)
    assert select_source([restarted], known, 101.0) is restarted


def test_an_answer_with_the_same_index_of_the_same_process_is_no_change():
    one = SidecarSource("a")
    assert one.record_answer(answer("w1"), 1.0)
    assert not one.record_answer(answer("w1"), 2.0)
    assert (one.changed, one.confirmed) == (1.0, 2.0)
    one.record_failure("gone")
    assert one.record_answer(answer("w1"), 3.0)
    assert (one.changed, one.answering) == (1.0, True)


def test_sources_whose_older_answer_contradicts_the_newest_are_stale():
    frozen, live = source("frozen", answer("w1", "w2"), 1), source("live", answer("w2"), 2)
    assert stale_voters([frozen, live]) == [frozen]
    frozen.confirmed = 3.0
    assert stale_voters([frozen, live]) == []
    assert stale_voters([]) == []


def test_evicted_workers_are_remembered_for_a_while_and_those_that_left_while_draining_are_not():
    topology = believing("w1", "w2", "w3")
    draining = msgspec.structs.replace(topology.workers[2], readiness="draining")
    said = msgspec.structs.replace(answer("w1", "w2"), workers=[*topology.workers[:2], draining])
    topology = with_answer(topology, said, source="s", origin="sidecar", now=1.0)
    topology = believing("w1", now=2.0, before=topology)
    assert [w.name for _, w in topology.departed] == ["w2"]
    assert believing("w1", now=2.0 + DEPARTED_KEPT, before=topology).departed == ()
    assert believing("w1", "w2", now=3.0, before=topology).departed == ()
    many = believing(*(f"w{i:03}" for i in range(100)))
    assert len(believing(now=1.0, before=many).departed) == MAX_DEPARTED


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_cluster_of_most_sources_is_chosen_in_whatever_order_they_answer_and_stays(clusters, rng):
    """It is chosen as soon as no later answer could change it."""
    sources = [SidecarSource(f"http://{n}") for n in range(len(clusters))]
    pool = ClusterChoice(None)
    for n in rng.sample(range(len(clusters)), len(clusters)):
        assert pool.members(sources) == [] or pool.name is not None
        sources[n].record_answer(answer("w", cluster=clusters[n]), 0.0)
        pool.choose(sources, timed_out=False)
    most = max(map(clusters.count, clusters))
    assert pool.name == next(cluster for cluster in clusters if clusters.count(cluster) == most)
    assert [s.url for s in pool.members(sources)] == [f"http://{n}" for n, c in enumerate(clusters) if c == pool.name]
    assert [pool.rejection_reason(s) == "" for s in sources] == [cluster == pool.name for cluster in clusters]
    for one in sources:
        one.record_answer(answer("w", cluster="later", index=2), 1.0)
    pool.choose(sources, timed_out=True)
    assert pool.name != "later"
    assert pool.members(sources) == []


def test_a_cluster_is_chosen_without_those_that_fail_or_take_their_time():
    def choice(*states: str | None, timed_out: bool = False) -> str | None:
        sources = [SidecarSource(str(n)) for n, _ in enumerate(states)]
        for one, state in zip(sources, states, strict=True):
            if state == "fails":
                one.record_failure("refused")
            elif state is not None:
                one.record_answer(answer("w", cluster=state), 0.0)
        pool = ClusterChoice(None)
        pool.choose(sources, timed_out=timed_out)
        return pool.name

    assert choice("a") == choice("a", None) == choice("a", "b") == choice("fails", "a") == choice("b", "a", "a") == "a"
    assert choice(None, "a", "a") == choice(None, None, "a", "a", "a") == "a"
    assert choice(None, "a") is choice("a", None, None) is choice(None) is choice("fails") is None
    assert choice(None, "a", timed_out=True) == choice("a", None, None, timed_out=True) == "a"
    assert choice(None, "fails", timed_out=True) is None


def test_workers_of_another_cluster_are_no_last_resort():
    recalled = believing("w1", "w2")
    found = with_answer(recalled, answer("w3", cluster="staging"), source="s", origin="sidecar", now=1.0)
    assert ([w.name for w in found.workers], found.departed) == (["w3"], ())


def test_a_topology_describes_itself_in_a_line():
    assert "nothing is known about service 'embed'" in NOTHING.describe(0)
    text = believing(*(f"w{i}" for i in range(20)), now=5.0).describe(6.5)
    assert "known workers of service 'embed': 20 (w0 alive/passing http://w0" in text
    assert "and 12 more" in text
    assert "heard 1.5 s ago from http://s" in text
