"""Makes the agent's Node: recorded, unless ``--record 0`` turns the flight recorder off."""

from __future__ import annotations

import os
import random
import time

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip import Node, NodeConfig, ProtocolSettings
from rumormill.gossip.dissemination.policy_replication import PolicyKey
from rumormill.gossip.udp.transport import boot_clock
from rumormill.membership.record import Readiness
from rumormill.recording.recorder import RecordedNode
from rumormill.sidecar.identity import PoolCredentials
from rumormill.sidecar.key_file import KeyFile
from rumormill.sidecar.profile import profile_of
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.snapshot import RestoredState


def new_node(
    settings: Settings,
    keys: KeyFile | None,
    credentials: PoolCredentials,
    policy_key: PolicyKey | None,
    restored: RestoredState,
    rng: random.Random,
) -> Node:
    """A Node with these settings, which continues from what was kept of its last start."""
    config = NodeConfig(
        policy_schema=POLICY_SCHEMA,
        name=settings.name,
        address=(settings.advertised_address.host, settings.advertised_address.port),
        cluster=settings.cluster,
        profile=profile_of(settings, Readiness.STARTING),
        keyring=keys.ring if keys else None,
        key_version=keys.version if keys else 0,
        authority=credentials[0],
        credential=credentials[1],
        settings=ProtocolSettings(
            period=settings.period,
            icmp_evidence=not settings.no_icmp_evidence,
            probation=settings.probation,
            isolation_hold=settings.isolation_hold,
        ),
        policy_key=policy_key,
        policies=restored.policies,
        generation=restored.generation + 1,
    )
    now = boot_clock()
    if not settings.record:
        return Node(config, rng=rng, token_bytes=os.urandom, now=now)
    return RecordedNode(
        config,
        rng=rng,
        token_bytes=os.urandom,
        now=now,
        limit=settings.record << 20,
        wall_offset=time.time() - now,
    )
