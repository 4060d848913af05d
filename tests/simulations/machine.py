"""A hypothesis state machine over everything that can be done to a world, checked at every datagram.

Each step is an operation (rumormill.simulations.operations) and is written down, so that what hypothesis shrinks a
failure to is a story: it is printed, and saved as a file that ``rumormill simulate replay`` plays again. At the end of
each example the world is put right and left alone, and must come to one view.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rumormill.simulations import Burst, LinkFault, World
from rumormill.simulations.invariant_checker import InvariantChecker
from rumormill.simulations.invariants import InvariantViolation
from rumormill.simulations.operations import (
    AnyOperation,
    Crash,
    Cut,
    CutOneWay,
    Degrade,
    DriftClock,
    Freeze,
    Heal,
    JumpClock,
    LeavePool,
    Measure,
    Refuse,
    Restart,
    Resume,
    Rival,
    Run,
    Slow,
    Start,
    Story,
)

SAVED = Path(os.environ.get("RUMORMILL_STORIES", ".hypothesis/stories"))
MAX_MEMBERS = 9

picks = st.integers(0, MAX_MEMBERS - 1)
some_picks = st.lists(picks, min_size=1, max_size=4)
moments = st.sampled_from([0.02, 0.1, 0.3, 0.7, 1.5, 3.0, 8.0])
faults = st.sampled_from(
    [
        LinkFault(loss=0.1),
        LinkFault(loss=0.3),
        LinkFault(duplicate=0.3, jitter=0.05),
        LinkFault(delay=0.15, jitter=0.05),
        LinkFault(burst=Burst(5.0, 0.5)),
        LinkFault(forged=True),
    ]
)


def stories(examples: int, *, steps: int, fresh: bool = False) -> settings:
    """So many examples of so many steps, the same for everyone unless they are to be fresh."""
    return settings(
        max_examples=examples,
        derandomize=not fresh,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


class PoolMachine(RuleBasedStateMachine):
    """Start, crash, freeze, restart, leave, join, cut, heal, degrade, advance; in any order."""

    @initialize(seed=st.integers(0, 2**32), count=st.integers(2, 6), over=st.sampled_from([0.0, 1.0]))
    def begin(self, seed: int, count: int, over: float) -> None:
        self.world = World(seed=seed)
        self.checker = InvariantChecker(self.world)
        self.operations: list[AnyOperation] = []
        self.do(Start(count, over), Run(1.0))

    def do(self, *operations: AnyOperation) -> None:
        for operation in operations:
            self.operations.append(operation)
            try:
                operation.apply(self.world)
            except InvariantViolation as violation:
                self.fail(violation)

    def fail(self, violation: InvariantViolation) -> None:
        """Tell and save the story; hypothesis comes by here last with the smallest one."""
        story = Story(self.world.seed, tuple(self.operations), title=violation.invariant)
        SAVED.mkdir(parents=True, exist_ok=True)
        path = SAVED / f"{violation.invariant}.json"
        path.write_bytes(story.to_json())
        note(f"{story}\nreplay with: rumormill simulate replay {path}")
        raise violation

    def running(self) -> list[str]:
        return list(self.world.running())

    def choose(self, picked: list[int]) -> tuple[str, ...]:
        """Hosts by number; hypothesis shrinks towards the first ones."""
        keys = list(self.world.hosts)
        return tuple(dict.fromkeys(keys[number % len(keys)] for number in picked))

    @rule(seconds=moments)
    def advance(self, seconds: float) -> None:
        self.do(Run(seconds))

    @rule(picked=some_picks)
    def crash(self, picked: list[int]) -> None:
        self.do(Crash(self.choose(picked)))

    @rule(picked=some_picks, new_address=st.booleans())
    def restart(self, picked: list[int], new_address: bool) -> None:
        self.do(Restart(self.choose(picked), new_address))

    @rule(picked=picks)
    def leave(self, picked: int) -> None:
        self.do(LeavePool(self.choose([picked])))

    @rule(picked=picks, utilization=st.none() | st.floats(0, 2), queue=st.integers(0, 300))
    def measure(self, picked: int, utilization: float | None, queue: int) -> None:
        self.do(Measure(self.choose([picked])[0], utilization, queue))

    @rule(picked=some_picks)
    def freeze(self, picked: list[int]) -> None:
        self.do(Freeze(self.choose(picked)))

    @rule(picked=some_picks)
    def thaw(self, picked: list[int]) -> None:
        self.do(Resume(self.choose(picked)))

    @precondition(lambda self: len(self.world.hosts) < MAX_MEMBERS)
    @rule(count=st.integers(1, 2))
    def join(self, count: int) -> None:
        self.do(Start(count))

    @precondition(lambda self: len(self.world.hosts) < MAX_MEMBERS and "rival" not in self.world.hosts)
    @rule(picked=st.integers(1, MAX_MEMBERS - 1))
    def rival(self, picked: int) -> None:
        """A second process under a name in use; never the seed's, which everyone needs."""
        (key,) = self.choose([picked])
        if key != "n0":
            self.do(Rival("rival", self.world.name_of(key)))

    @rule(picked=some_picks)
    def cut(self, picked: list[int]) -> None:
        self.do(Cut(self.choose(picked)))

    @rule(here=some_picks, there=some_picks)
    def cut_one_way(self, here: list[int], there: list[int]) -> None:
        self.do(CutOneWay(self.choose(here), self.choose(there)))

    @rule(fault=faults, here=st.lists(picks, max_size=3), there=st.lists(picks, max_size=3))
    def degrade(self, fault: LinkFault, here: list[int], there: list[int]) -> None:
        self.do(Degrade(fault, self.choose(here), self.choose(there)))

    @rule()
    def heal(self) -> None:
        self.do(Heal())

    @rule(refuses=st.booleans())
    def refuse(self, refuses: bool) -> None:
        """Kernels without a process answer from now on, or are silent again."""
        self.do(Refuse(refuses))

    @rule(picked=some_picks, lag=st.sampled_from([0.0, 0.02, 0.1, 0.4]))
    def slow(self, picked: list[int], lag: float) -> None:
        self.do(Slow(self.choose(picked), lag))

    @rule(picked=picks, seconds=st.sampled_from([0.05, 0.15, 1.0, 3600.0, -0.1, -30.0]))
    def jump_clock(self, picked: int, seconds: float) -> None:
        self.do(JumpClock(self.choose([picked]), seconds))

    @rule(picked=picks, rate=st.sampled_from([0.0002, -0.0002, 0.002]))
    def drift_clock(self, picked: int, rate: float) -> None:
        self.do(DriftClock(self.choose([picked]), rate))

    def teardown(self) -> None:
        """Put everything right but the dead, leave it alone, and expect one view."""
        if not hasattr(self, "world"):
            return
        everyone = tuple(self.world.hosts)
        self.do(Heal(), Resume(everyone), Slow(everyone, 0.0), Run(1.0))
        if self.world.hosts["n0"].node is None:  # the seed: whoever never knew anybody else needs it
            self.do(Restart(("n0",)))
        try:
            self.checker.check_convergence()
        except InvariantViolation as violation:
            self.fail(violation)
