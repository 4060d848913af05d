"""Asks an address whether a member of our pool is there, without joining: a real join, whose answer is not answered."""

from __future__ import annotations

import os
import random
import socket
import time
from typing import Final

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip import Node, NodeConfig
from rumormill.gossip.udp.transport import LONGEST_DATAGRAM, boot_clock
from rumormill.membership.record import Address, Readiness
from rumormill.sidecar.identity import read_credentials
from rumormill.sidecar.key_file import read_key_file
from rumormill.sidecar.profile import profile_of
from rumormill.sidecar.settings import Settings

PATIENCE: Final = 1.5
"""Seconds. A join is repeated several times within them."""


def knock(settings: Settings, address: Address) -> str:
    """Why no member of our pool answers there, in words; empty if one does. Raises SettingsError for unusable keys."""
    node = _newcomer(settings)
    node.set_seeds([address])
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.02)
        try:
            sock.connect(address)
            return _until_answered(node, sock, address)
        except ConnectionRefusedError:
            return "its machine runs, but nothing listens there (the datagram was refused)"
        except OSError as error:
            return f"it cannot be reached from here: {(error.strerror or str(error)).lower()}"


def _until_answered(node: Node, sock: socket.socket, address: Address) -> str:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        node.handle_timer(boot_clock())
        for _, data in node.datagrams_to_send():
            sock.send(data)
        try:
            data = sock.recv(LONGEST_DATAGRAM)
        except TimeoutError:
            continue
        node.receive_datagram(data, address, boot_clock())
        if node.datagrams_to_send():  # it has found the answer good, and would introduce itself now
            return ""
    return node.seal_trouble or "nothing answers: no machine, a firewall that drops UDP, or another --cluster or key"


def _newcomer(settings: Settings) -> Node:
    authority, credential = read_credentials(settings)
    return Node(
        NodeConfig(
            policy_schema=POLICY_SCHEMA,
            name=settings.name,
            address=(settings.advertised_address.host, settings.advertised_address.port),
            cluster=settings.cluster,
            profile=profile_of(settings, Readiness.STARTING),
            keyring=read_key_file(settings.key_file).ring if settings.key_file else None,
            authority=authority,
            credential=credential,
        ),
        rng=random.Random(),
        token_bytes=os.urandom,
        now=boot_clock(),
    )
