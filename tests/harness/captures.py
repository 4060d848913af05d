"""Captures of a simulated pool's gossip, as tcpdump would write them."""

from __future__ import annotations

from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap, wrpcapng

from rumormill.gossip import KeyRing
from rumormill.simulations import World
from rumormill.simulations.factories import RumormillFactory


def captured(path: Path, keyring: KeyRing | None) -> Path:
    """What three simulated members send while they find one another, as tcpdump would write it."""
    world = World(seed=1, factory=RumormillFactory(keyring=keyring))
    packets = []

    def sent(host: object, to: tuple[str, int], data: bytes) -> None:
        (source,) = (each.address for each in world.hosts.values() if each is host)
        packet = Ether() / IP(src=source[0], dst=to[0]) / UDP(sport=source[1], dport=to[1]) / Raw(data)
        packet.time = 1_800_000_000 + world.now
        packets.append(packet)

    world.network.on_send = sent
    world.start(3)
    world.run(2.0)
    packets.append(Ether() / IP() / UDP(sport=53, dport=53) / Raw(b"something else"))
    (wrpcapng if path.suffix == ".pcapng" else wrpcap)(str(path), packets)
    return path
