"""Every datagram fits the smallest packet that an IPv6 path must carry, whatever the members' records contain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import node

from rumormill.gossip import Node, Profile
from rumormill.gossip.dissemination.anti_entropy import _pack_entries
from rumormill.gossip.state import MAX_MESSAGE_BYTES
from rumormill.gossip.wire import MAX_DATAGRAM, SyncEntry, SyncOffer, encode_message
from rumormill.membership import InvalidRecord
from rumormill.membership.record import COUNTER_LIMIT, MAX_OWN_RECORD_BYTES
from rumormill.simulations import LinkFault, World
from rumormill.simulations.factories import RumormillFactory, worker_profile
from rumormill.simulations.protocol import NodeStart

SMALLEST_PATH = 1280
IPV6_UDP_BYTES = 48


@dataclass(frozen=True, slots=True)
class Wordy(RumormillFactory):
    """Members with this many bytes of tags in their records."""

    tags: int = 0

    def __call__(self, start: NodeStart) -> Node:
        made = RumormillFactory.__call__(self, start)
        made.update(replace(worker_profile(start.name), tags={"t": "x" * self.tags}), start.now)
        return made


def test_the_longest_datagram_fits_the_smallest_path() -> None:
    assert MAX_DATAGRAM + IPV6_UDP_BYTES <= SMALLEST_PATH


@pytest.mark.parametrize("tags", range(0, 510, 30))
def test_a_pool_forms_where_longer_datagrams_are_lost(tags: int) -> None:
    """Welcomes, broadcasts and syncs hold whole records, so each record length gives other datagram lengths."""
    world = World(seed=tags, factory=Wordy(tags=tags))
    world.degrade(LinkFault(mtu=SMALLEST_PATH - (IPV6_UDP_BYTES - 28)))
    longest = 0

    def measure(_host: object, _to: object, data: bytes) -> None:
        nonlocal longest
        longest = max(longest, len(data))

    world.network.on_send = measure
    world.start(12)
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
    world.cut({f"n{number}" for number in range(6)})
    world.run(3.0)
    world.heal()
    world.degrade(LinkFault(mtu=SMALLEST_PATH - (IPV6_UDP_BYTES - 28)))
    world.leave("n3")
    assert world.run_until(world.one_view, within=20.0) is not None, world.history.tail()
    assert 1000 < longest <= MAX_DATAGRAM


def test_a_record_too_long_for_a_datagram_is_refused_when_written() -> None:
    world = World(seed=1)
    world.start(1)
    world.run(0.1)
    long = Profile("s" * 128, "http://" + "u" * 240, zone="z" * 64, release="r" * 64, tags={"t": "x" * 500})
    with pytest.raises(InvalidRecord, match=str(MAX_OWN_RECORD_BYTES)):
        node(world, "n0").update(long, world.hosts["n0"].local_time())


@given(st.dictionaries(st.integers(0, 255), st.lists(st.integers(0, COUNTER_LIMIT - 1), max_size=200), max_size=64))
def test_sync_offers_fit_datagrams_and_list_every_row_of_any_buckets(held: dict[int, list[int]]) -> None:
    by_bucket = {
        bucket: [SyncEntry(bytes((bucket,)) + n.to_bytes(7, "big"), number) for n, number in enumerate(numbers)]
        for bucket, numbers in held.items()
    }
    groups = _pack_entries(by_bucket)
    for buckets, entries in groups:
        assert len(encode_message(SyncOffer(1023, 1024, bytes(buckets), entries))) <= MAX_MESSAGE_BYTES
    assert [entry for _, entries in groups for entry in entries] == [e for held in by_bucket.values() for e in held]
    complete = [bucket for buckets, _ in groups for bucket in buckets]
    assert sorted(set(complete)) == sorted(complete)
    assert set(complete) <= set(by_bucket)
