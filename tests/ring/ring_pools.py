"""Workers for the ring's tests."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from rumormill.ring import CanaryShare, RoutingPolicy, Worker


def worker(
    name: str,
    *,
    generation: int = 1,
    zone: str = "a",
    release: str = "v1",
    weight: float = 1.0,
    liveness: str = "alive",
    readiness: str = "passing",
) -> Worker:
    return Worker(
        name=name,
        generation=generation,
        instance=f"{generation:032x}",
        service="embed",
        url=f"http://10.0.0.1:9001/{name}",
        zone=zone,
        release=release,
        weight=weight,
        liveness=liveness,  # type: ignore[arg-type]
        readiness=readiness,  # type: ignore[arg-type]
        utilization=None,
        tags={},
        since="2026-01-01T00:00:00.000Z",
    )


def names_of(workers: Iterable[Worker]) -> list[str]:
    return [worker.name for worker in workers]


def canary(**shares: float) -> RoutingPolicy:
    return RoutingPolicy(canary=[CanaryShare(release, share) for release, share in shares.items()])


RELEASES = ["v1", "v2", "v3", "v4"]
ZONES = ["a", "b", "c"]

any_worker = st.builds(
    worker,
    st.sampled_from([f"w{i}" for i in range(8)]),
    generation=st.integers(1, 2),
    zone=st.sampled_from(ZONES),
    release=st.sampled_from(RELEASES),
    weight=st.sampled_from([0.0, 0.0004, 0.5, 1.0, 1.001, 2.0]),
    liveness=st.sampled_from(["alive", "suspect", "dead", "left"]),
    readiness=st.sampled_from(["starting", "passing", "warning", "critical", "draining"]),
)
ready_worker = st.builds(
    worker,
    st.sampled_from([f"w{i}" for i in range(8)]),
    zone=st.sampled_from(ZONES),
    release=st.sampled_from(RELEASES),
    weight=st.sampled_from([0.5, 1.0, 1.001, 2.0]),
)
any_pool = st.one_of(
    st.lists(ready_worker, max_size=8, unique_by=lambda w: w.name),
    st.lists(any_worker, max_size=8, unique_by=lambda w: w.name),
)
any_policy = st.builds(
    RoutingPolicy,
    index=st.integers(0, 3),
    canary=st.lists(
        st.builds(CanaryShare, st.sampled_from(RELEASES), st.sampled_from([0.0, 0.00005, 0.05, 0.1, 0.5, 1.0])),
        max_size=3,
    ),
    zone=st.sampled_from(["", "a", "elsewhere"]),
)
