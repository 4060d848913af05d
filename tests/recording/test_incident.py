"""Records of several members stand on one time line, are judged together, and show planted bugs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from recorded_pools import RecordedFactory, recorded, recorded_pool

from rumormill.cli.replay.command import replay
from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.membership import Liveness, table
from rumormill.recording.incident import Incident, play_segment
from rumormill.recording.reader import read_record_untrusted
from rumormill.recording.recorder import RecordedNode
from rumormill.simulations import LinkFault, World
from rumormill.simulations.protocol import NodeStart
from rumormill.simulations.record_judge import RecordJudge

NODES: list[RecordedNode] = []
"""Made by KeptFactory."""


def incident_of(*nodes: RecordedNode) -> Incident:
    records = [read_record_untrusted(io.BytesIO(node.recorder.dump())) for node in nodes]
    return Incident([play_segment(record, each, POLICY_SCHEMA) for record in records for each in record.segments])


def pool_incident(world: World) -> Incident:
    return incident_of(*(recorded(world, key) for key in world.running()))


def test_the_datagrams_align_clocks_that_began_days_apart() -> None:
    world = recorded_pool(4, seed=11)
    world.run(3.0)
    incident = pool_incident(world)
    clocks = {each.record.header.name: incident.offset_of(each) for each in incident.played}
    truth = {key: world.hosts[key].local_time() for key in world.running()}
    errors = [abs((clocks[key] + truth[key]) - (clocks["n0"] + truth["n0"])) for key in world.running()]
    assert max(errors) < 0.001, errors


def test_a_lost_datagram_is_told_from_one_that_arrived_and_from_one_that_nobody_recorded() -> None:
    world = recorded_pool(4, seed=12)
    world.run(1.0)
    world.cut(["n1"])
    world.run(0.4)
    incident = incident_of(recorded(world, "n0"), recorded(world, "n1"), recorded(world, "n2"))
    end = max(each.outcome.at + incident.offset_of(each) for each in incident.played)
    exchanges = incident.exchanges(end - 0.3, end)
    between = {name: [e for e in exchanges if (e.sender, e.receiver) == name] for name in (("n1", "n2"), ("n0", "n2"))}
    assert [each.received for each in between["n1", "n2"] if each.received is not None] == []
    assert any(each.sent is not None and each.received is not None for each in between["n0", "n2"])
    assert any(each.sender == "n3" and each.sent is None for each in exchanges)


@pytest.mark.parametrize("seed", [21, 22])
def test_the_judge_finds_nothing_in_a_pool_that_lost_datagrams_a_member_and_a_link(seed: int) -> None:
    world = recorded_pool(6, seed=seed)
    world.degrade(LinkFault(loss=0.2))
    world.crash("n5")
    world.run(5.0)
    world.restart("n5")
    cut = world.cut(["n0", "n1"])
    world.run(8.0)
    world.heal(cut)
    world.heal()
    world.leave("n3")
    world.run(5.0)
    assert RecordJudge(pool_incident(world), POLICY_SCHEMA).violations() == [], f"seed {seed}"


class KeptFactory(RecordedFactory):
    """Keeps every Node, so that the record of a process that ended is there too."""

    def __call__(self, start: NodeStart) -> RecordedNode:
        node = RecordedFactory.__call__(self, start)
        NODES.append(node)
        return node


def one_vote(self: Eviction, row: Any, votes: list[Any]) -> bool:
    """The second vote is not asked for."""
    return any(vote.voter == self._state.me.member_id for vote in votes)


def ignore_incarnation(held: Any, heard: Any) -> Any:
    """The incarnation does not order what is said of a member."""
    return heard if held is None or heard.liveness >= held.liveness else held


def prefer_life(held: Any, heard: Any, merge: Any = table.merge) -> Any:
    """A tombstone gives way to an older claim that the member is alive."""
    return heard if held is not None and heard == held.with_liveness(Liveness.ALIVE) else merge(held, heard)


@pytest.mark.parametrize(
    ("owner", "name", "bug", "invariants"),
    [
        (Eviction, "_has_enough_votes", one_vote, {"evidence"}),
        (table, "merge", ignore_incarnation, {"row-order"}),
        (table, "merge", prefer_life, {"no-resurrection", "liveness-order"}),
    ],
    ids=["dropped-vote-check", "wrong-incarnation-rule", "leaking-tombstone"],
)
def test_the_records_alone_show_a_planted_bug(
    owner: Any, name: str, bug: Any, invariants: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build that recorded plays its records the same, and the invariants judge them."""
    monkeypatch.setattr(owner, name, bug)
    NODES.clear()
    world = World(seed=3, factory=KeptFactory())
    world.start(8)
    world.run(3.0)
    world.freeze("n3", "n5")  # n5 sleeps while n3 is evicted and comes back, and then reads all that at once
    world.run(1.0)
    world.resume("n3")
    world.run(3.0)
    world.resume("n5")
    world.degrade(LinkFault(loss=0.35))
    world.crash("n4")
    world.cut(["n5"])
    world.run(6.0)
    world.heal()
    world.restart("n4")
    world.run(4.0)
    incident = incident_of(*NODES)
    assert [each.outcome.difference for each in incident.played if each.outcome.difference] == []
    found = {violation.invariant for violation in RecordJudge(incident, POLICY_SCHEMA).violations()}
    assert found & invariants, found


def test_a_page_shows_why_a_member_was_evicted_and_what_would_have_saved_it(tmp_path: Path) -> None:
    world = recorded_pool(4, seed=14)
    world.run(1.0)
    world.cut(["n3"])
    world.run(1.5)
    files = []
    for key in world.running():
        path = tmp_path / f"{key}.rumor"
        path.write_bytes(recorded(world, key).recorder.dump())
        files.append(str(path))
    page = tmp_path / "incident.html"
    shown = CliRunner().invoke(replay, [*files, "--explain", "n3", "--html", str(page)])
    assert shown.exit_code == 0, shown.output
    assert "had last heard n3" in shown.output
    assert "any of them would have saved n3" in shown.output
    html = page.read_text()
    assert "No invariant is violated." in html
    assert html.count("<svg") == 1
    assert "n3 to n0: Heartbeat (lost)" in html
    assert "http" not in html.replace("http-equiv", "")


def test_a_damaged_record_leaves_an_old_page_alone(tmp_path: Path) -> None:
    page, record = tmp_path / "incident.html", tmp_path / "n0.rumor"
    page.write_text("the old page")
    record.write_bytes(b"no record")
    shown = CliRunner().invoke(replay, [str(record), "--html", str(page)])
    assert shown.exit_code != 0
    assert page.read_text() == "the old page"
