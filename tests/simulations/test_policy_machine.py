"""Stories of cuts, losses and freezes in which operators write policies everywhere, judged by every invariant."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule
from machine import PoolMachine, picks, stories
from seeds import MORE_SEEDS

from rumormill.simulations.operations import Canary


class PolicyMachine(PoolMachine):
    """Write, start, cut, degrade, freeze, heal, advance; who dies and comes back is the other machine's business."""

    crash = restart = leave = rival = refuse = slow = jump_clock = drift_clock = None  # type: ignore[assignment]

    @rule(picked=picks, release=st.sampled_from(["v1", "v2"]), share=st.sampled_from([0, 500, 10_000]))
    def write_policy(self, picked: int, release: str, share: int) -> None:
        (key,) = self.choose([picked])
        self.do(Canary(key, release, share))


class TestPolicies(PolicyMachine.TestCase):  # type: ignore[name-defined,misc]  # a class that hypothesis makes
    settings = stories(10, steps=15)


@MORE_SEEDS
class TestPoliciesWithMoreStories(PolicyMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = stories(150, steps=15)
