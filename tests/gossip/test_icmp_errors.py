"""The error queue: one kind of entry is evidence, and no bytes make reading it raise."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumormill.gossip.udp.icmp_errors import IP_RECVERR, IPV6_RECVERR, refused_by_its_host

V4, V6 = (0, IP_RECVERR), (41, IPV6_RECVERR)


def entry(kind: tuple[int, int], origin: int, icmp_type: int, code: int, offender: str) -> tuple[int, int, bytes]:
    """A control message as the kernel writes it."""
    packed = ipaddress.ip_address(offender).packed
    behind = struct.pack("=HH", 2, 0) + packed + bytes(8)
    if len(packed) == 16:
        behind = struct.pack("=HHI", 10, 0, 0) + packed + bytes(4)
    return (*kind, struct.pack("=IBBBBII", 111, origin, icmp_type, code, 0, 0, 0) + behind)


@pytest.mark.parametrize(
    ("message", "destination", "evidence"),
    [
        (entry(V4, 2, 3, 3, "10.0.0.5"), "10.0.0.5", True),
        (entry(V4, 2, 3, 3, "10.0.0.1"), "10.0.0.5", False),  # a router's word for a host
        (entry(V4, 2, 3, 1, "10.0.0.5"), "10.0.0.5", False),  # host unreachable
        (entry(V4, 2, 3, 4, "10.0.0.5"), "10.0.0.5", False),  # too long
        (entry(V4, 1, 0, 0, "0.0.0.0"), "10.0.0.5", False),  # our own kernel
        (entry(V6, 3, 1, 4, "fd00::5"), "fd00::5", True),
        (entry(V6, 3, 1, 4, "fd00::5"), "fd00:0::0:5", True),
        (entry(V6, 3, 1, 3, "fd00::5"), "fd00::5", False),
        (entry(V6, 2, 3, 3, "fd00::5"), "fd00::5", False),
        (entry(V4, 2, 3, 3, "10.0.0.5"), "name", False),
    ],
)
def test_only_port_unreachable_from_the_host_itself_is_evidence(
    message: tuple[int, int, bytes], destination: str, evidence: bool
) -> None:
    assert refused_by_its_host([message], (destination, 7946)) is evidence
    assert refused_by_its_host([(1, 2, b"other"), message], (destination, 7946)) is evidence


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 41]), st.sampled_from([IP_RECVERR, IPV6_RECVERR, 2]), st.binary())),
    st.text(max_size=20),
)
def test_no_bytes_make_it_raise(ancillary: list[tuple[int, int, bytes]], host: str) -> None:
    assert refused_by_its_host(ancillary, (host, 1)) in (True, False)
