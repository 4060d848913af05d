"""A process that cannot join is reported in words by the member that refuses it and by itself, but not too often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pools import node

from rumormill.gossip.reporting.operator_warnings import ADDRESSES_OF_A_KIND, WARN_EVERY, OperatorWarnings
from rumormill.gossip.security.credentials import Issuer
from rumormill.simulations import RumormillFactory, World
from rumormill.simulations.protocol import NodeStart, SimulatedNode

OURS, THEIRS = Issuer(bytes(32)), Issuer(b"another authority, as many bytes")


def issued(issuer: Issuer, believed: Issuer = OURS):  # type: ignore[no-untyped-def]
    def bear(start: NodeStart) -> SimulatedNode:
        credential = issuer.issue(start.name, start.token_bytes)
        return RumormillFactory(authority=believed.authority, credential=credential)(start)

    return bear


def told(world: World, key: str) -> list[str]:
    return [event.text for event in world.history.of("refused") if event.observer == key]


def pool_with_an_authority() -> World:
    world = World(seed=1, factory=issued(OURS))
    world.start(3)
    assert world.run_until(world.one_view, within=3.0) is not None
    return world


def test_a_member_without_an_identity_is_named_and_told() -> None:
    world = pool_with_an_authority()
    world.start_one("bare", factory=RumormillFactory())
    world.run(6.0)
    [line] = [text for text in told(world, "n0") if text.startswith("bare at ")]
    assert "shows no identity" in line
    assert "rumormill keys issue" in line
    [line] = told(world, "bare")
    assert "does not let this member join" in line
    assert "--identity-file" in line
    assert node(world, "bare").seal_trouble == line
    assert node(world, "n0").seal_trouble == ""


def test_a_member_of_another_authority_is_named_and_told_both_ways() -> None:
    """No member admits it, and it admits none."""
    world = pool_with_an_authority()
    world.start_one("odd", factory=issued(THEIRS, THEIRS))
    world.run(6.0)
    assert ["another authority" in text for text in told(world, "n0") if text.startswith("odd at ")] == [True]
    assert any("not the one that issued --identity-file" in text for text in told(world, "odd"))


def test_a_member_with_an_authority_says_that_its_pool_has_none() -> None:
    world = World(seed=1)
    world.start(3)
    world.start_one("early", factory=issued(OURS))
    world.run(6.0)
    assert all("shows no identity" in text for text in told(world, "early"))
    assert told(world, "early")
    assert "shows no identity" in node(world, "early").seal_trouble


def test_a_name_is_told_at_once_after_it_was_put_right() -> None:
    """A process that comes without an identity, then with one from the same address, is admitted at once."""
    world = pool_with_an_authority()
    world.start_one("late", factory=RumormillFactory())
    world.run(2.0)
    world._factories["late"] = issued(OURS)
    world.restart("late")
    assert world.run_until(world.one_view, within=1.0) is not None


def test_one_trouble_is_told_once_on_each_side() -> None:
    """A notice about a seal and its cause are reported once."""
    world = World(seed=1)
    world.start(2)
    world.start_one("open", factory=RumormillFactory(keyring=None))
    world.run(8.0)
    for key in ("n0", "open"):
        assert len(told(world, key)) == 1, told(world, key)


def test_nothing_is_said_while_all_is_well() -> None:
    world = pool_with_an_authority()
    world.restart("n1")
    world.run(5.0)
    assert world.history.of("refused") == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.floats(-1, 3)), max_size=120))
def test_lines_of_a_kind_are_few_and_no_kind_hides_another(tries: list[tuple[str, int, float]]) -> None:
    operator_warnings, now = OperatorWarnings(), 1000.0
    said: list[tuple[str, tuple[str, int], float]] = []
    for kind, port, pause in tries:
        now += max(0.0, pause)
        source = ("198.51.100.1", port)
        lately = [(k, a) for k, a, at in said if now - at < WARN_EVERY]
        due = operator_warnings.due(kind, source, now)
        room = sum(k == kind for k, _ in lately) < ADDRESSES_OF_A_KIND
        assert due is ((kind, source) not in lately and room)
        if due:
            said.append((kind, source, now))
