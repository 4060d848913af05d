"""Do the paths to the others carry gossip's longest datagram? One that does not loses tables, and never heartbeats."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem, unknown
from rumormill.cli.doctor.seeds import resolved
from rumormill.gossip.lifecycle.join import LONGEST_PACKET
from rumormill.gossip.reporting.operator_warnings import address_text
from rumormill.membership.record import Address
from rumormill.sidecar.settings_values import HostPort

IP_MTU: Final = 14
IPV6_MTU: Final = 24
MOST_PATHS: Final = 64


def check(facts: Facts) -> Iterator[Finding]:
    known = {address: mtu for address in _others(facts) if (mtu := path_mtu(address)) is not None}
    narrow = {address: mtu for address, mtu in known.items() if mtu < LONGEST_PACKET}
    for address, mtu in narrow.items():
        yield problem(
            f"the path to {address_text(address)} carries packets of {mtu} bytes, and gossip sends up to "
            f"{LONGEST_PACKET}",
            "raise the MTU of the interface or tunnel on the way (ip link, ip route get)",
        )
    if not known:
        yield unknown("there is no other member or seed to measure a path to")
    elif not narrow:
        yield ok(f"the narrowest of {len(known)} paths carries {min(known.values())} bytes")


def _others(facts: Facts) -> list[Address]:
    found = [(one.host, one.port) for row in facts.present if (one := HostPort.parse(row.address))]
    for seed in facts.settings.join:
        try:
            found += resolved(seed, facts.settings)
        except (OSError, UnicodeError):
            continue
    return list(dict.fromkeys(found))[:MOST_PATHS]


def path_mtu(address: Address) -> int | None:
    """The bytes of the largest packet on the path, as far as the kernel knows; None where there is no path."""
    family, level, option = (
        (socket.AF_INET6, socket.IPPROTO_IPV6, IPV6_MTU)
        if ":" in address[0]
        else (socket.AF_INET, socket.IPPROTO_IP, IP_MTU)
    )
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(address)
            return sock.getsockopt(level, option)
        except OSError:
            return None
