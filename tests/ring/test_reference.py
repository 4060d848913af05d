"""Another language finds the same owners, for the golden vectors and for what Hypothesis generates.

`vectors.json` is fixed: an answer that differs from it needs another first word in the canonical bytes.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_pools import any_policy, any_pool, names_of
from seeds import MORE_SEEDS

from rumormill.ring import Routing, RoutingPolicy, Worker

HERE = Path(__file__).parent
VECTORS = json.loads((HERE / "vectors.json").read_text())


def routing_of(answer: dict[str, Any]) -> Routing:
    workers = [msgspec.convert(worker, Worker) for worker in answer["workers"]]
    return Routing(answer["service"], workers, msgspec.convert(answer["policy"], RoutingPolicy))


def javascript(answers: list[dict[str, Any]], asked: list[dict[str, Any]]) -> dict[str, Any]:
    """The answers of the reference in JavaScript. Node runs it. CI installs Node where it is missing."""
    node = shutil.which("node") or pytest.fail("the reference needs node: apt-get install -y nodejs")
    work = json.dumps({"answers": answers, "asked": asked})
    ran = subprocess.run([node, HERE / "reference_runner.mjs"], input=work, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def test_python_gives_the_golden_vectors() -> None:
    routings = [routing_of(answer) for answer in VECTORS["answers"]]
    assert [routing.digest for routing in routings] == [answer["digest"] for answer in VECTORS["answers"]]
    for asked in VECTORS["asked"]:
        assert names_of(routings[asked["answer"]].owners(asked["key"], zone=asked["zone"])) == asked["owners"], asked


def test_javascript_gives_the_golden_vectors() -> None:
    got = javascript(VECTORS["answers"], VECTORS["asked"])
    assert got["digests"] == [answer["digest"] for answer in VECTORS["answers"]]
    assert got["owners"] == [asked["owners"] for asked in VECTORS["asked"]]


@settings(max_examples=8)
@given(st.data())
def test_both_languages_agree(data: st.DataObject) -> None:
    assert_both_languages_agree(data)


@MORE_SEEDS
@settings(max_examples=25)
@given(st.data())
def test_both_languages_agree_on_more_pools(data: st.DataObject) -> None:
    assert_both_languages_agree(data)


def assert_both_languages_agree(data: st.DataObject) -> None:
    """Checks many pools in one run of node, because starting node takes most of the time."""
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    pools = data.draw(st.lists(st.tuples(any_pool, any_policy), min_size=6, max_size=6))
    answers = [
        {"service": "embed", "workers": msgspec.to_builtins(workers), "policy": msgspec.to_builtins(policy)}
        for workers, policy in pools
    ]
    routings = [Routing("embed", workers, policy) for workers, policy in pools]
    asked = [
        {"answer": number, "key": f"{rng.random()}", "zone": rng.choice([None, "", "a", "b"])}
        for number in range(len(pools))
        for _ in range(10)
    ]
    got = javascript(answers, asked)
    assert got["digests"] == [routing.digest for routing in routings]
    assert got["owners"] == [names_of(routings[q["answer"]].owners(q["key"], zone=q["zone"])) for q in asked]
