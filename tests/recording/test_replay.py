"""A record plays to the same datagrams and the same conclusions, whatever happened to the pool."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from recorded_pools import play, record_of, recorded, recorded_pool

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip import Node
from rumormill.recording.player import Player
from rumormill.recording.reader import UnreadableRecord, read_record_untrusted
from rumormill.simulations import LinkFault, World
from rumormill.simulations.factories import KEYS

OTHER_KEY = b"another key of the lab's, 32 bytes"[:32]


def assert_all_play(world: World) -> None:
    """Every member's record, from its oldest segment to its newest."""
    for key in world.running():
        assert recorded(world, key).recorder.trouble == ""
        outcomes = play(record_of(world, key))
        assert [outcome.difference for outcome in outcomes if outcome.difference] == [], (key, world.seed)
        assert sum(outcome.sent for outcome in outcomes) > 0


def test_loss_and_a_freeze_play_again_at_all_eight_members() -> None:
    world = recorded_pool(8, seed=1)
    world.degrade(LinkFault(loss=0.1))
    world.run(30.0)
    world.freeze("n3")
    world.run(5.0)
    world.resume("n3")
    world.run(20.0)
    world.heal()
    world.run(100.0)
    assert_all_play(world)
    assert len(recorded(world, "n1").recorder.segments) > 1


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_crash_and_a_restart_play_again(*, sealed: bool, refuses: bool) -> None:
    world = recorded_pool(6, seed=2, keyring=KEYS if sealed else None)
    world.refuse(refuses)
    world.crash("n4")
    world.run(5.0)
    world.restart("n4")
    world.run(5.0)
    world.leave("n5")
    world.run(5.0)
    assert_all_play(world)
    texts = [event.text for outcome in play(record_of(world, "n1")) for event in outcome.events]
    assert any(text.startswith("n4 evicted: 3 misses seen by") for text in texts)


def test_a_partition_and_its_end_play_again() -> None:
    world = recorded_pool(7, seed=3)
    cut = world.cut(["n0", "n1", "n2"])
    world.run(20.0)
    world.heal(cut)
    assert world.run_until(world.one_view, within=30.0) is not None
    assert_all_play(world)


def test_many_members_that_join_at_once_play_again() -> None:
    world = recorded_pool(3, seed=4)
    world.start(20)
    assert world.run_until(world.one_view, within=20.0) is not None
    assert_all_play(world)


def test_a_rotation_of_the_group_key_ends_a_segment_and_the_next_one_plays() -> None:
    world = recorded_pool(4, seed=5)
    world.run(3.0)
    world.command("n1", lambda node, now: isinstance(node, Node) and node.change_keys(KEYS.with_key(OTHER_KEY), now))
    world.run(10.0)
    assert_all_play(world)
    outcomes = play(record_of(world, "n2"))
    assert "a key ring came in" in [outcome.cut for outcome in outcomes]
    assert not outcomes[-1].cut


def test_no_key_is_in_any_record() -> None:
    world = recorded_pool(4, seed=6)
    world.run(2.0)
    world.command("n1", lambda node, now: isinstance(node, Node) and node.change_keys(KEYS.with_key(OTHER_KEY), now))
    world.run(5.0)
    for key in world.running():
        node = recorded(world, key)
        record, keys = node.recorder.dump(), node._state.identity.keys
        secrets = [*KEYS.keys, OTHER_KEY, keys.agreement.private_bytes_raw()]
        for peer in node._state.seal.peers.values():
            secrets += [peer.shared, peer.key_in, peer.key_out]
        found = [secret for secret in secrets if secret and secret in record]
        assert len(secrets) > 5
        assert found == [], key
        assert keys.public in record, "the search itself would find a key"


def test_a_planted_difference_is_found_where_it_happened() -> None:
    world = recorded_pool(4, seed=7)
    world.crash("n2")
    world.run(5.0)
    record = record_of(world, "n1")
    segment = record.segments[0]
    at = next(i for i, entry in enumerate(segment.entries) if entry[0] == "event" and entry[2] == "evicted")
    kind, moment, what, member, text, *states = segment.entries[at]
    segment.entries[at] = (kind, moment, what, member, text.replace("n2", "n3"), *states)
    outcome = Player(segment, POLICY_SCHEMA).run()
    assert outcome.entries == at
    assert "it concluded 'n3 evicted" in outcome.difference


def test_a_torn_tail_is_cut_off_and_the_rest_plays() -> None:
    world = recorded_pool(4, seed=8)
    world.run(130.0)
    data = recorded(world, "n1").recorder.dump()
    for length in (len(data) - 1, len(data) - 100, len(data) // 2):
        record = read_record_untrusted(io.BytesIO(data[:length]))
        assert record.torn.startswith("its last") or length == len(data) // 2
        assert [outcome.difference for outcome in play(record) if outcome.difference] == []


@pytest.mark.parametrize("data", [b"", b"\x00", b"hello", b"\x93\xb0rumormill record\x02\x80", b"\xdd\xff\xff\xff\xff"])
def test_what_is_no_record_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(UnreadableRecord, match="record"):
        read_record_untrusted(io.BytesIO(data))


def test_another_process_with_other_hashes_plays_it_to_the_same_trace(tmp_path: Path) -> None:
    world = recorded_pool(5, seed=9)
    world.crash("n3")
    world.run(10.0)
    file = tmp_path / "n1.rumor"
    file.write_bytes(recorded(world, "n1").recorder.dump())
    program = (
        "import sys\n"
        "from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA\n"
        "from rumormill.recording.reader import read_record_untrusted\n"
        "from rumormill.recording.player import Player\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    record = read_record_untrusted(file)\n"
        "print(*[Player(segment, POLICY_SCHEMA).run().trace for segment in record.segments])\n"
    )
    here = " ".join(outcome.trace for outcome in play(record_of(world, "n1")))
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(file)],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here


def test_the_oldest_segment_is_dropped_when_the_record_is_full_and_the_rest_plays() -> None:
    world = recorded_pool(4, seed=10)
    recorder = recorded(world, "n1").recorder
    began = recorder.segments[0].began
    recorder.limit = 300_000
    world.run(150.0)
    assert recorder.size < 1.5 * recorder.limit
    assert recorder.segments[0].began > began
    assert_all_play(world)
