"""How the real Node is born into a world: sealed, with a worker that passes, and settings of one's choice."""

from __future__ import annotations

from dataclasses import dataclass, field

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip import KeyRing, Node, NodeConfig, Profile, ProtocolSettings
from rumormill.gossip.dissemination.policy_replication import PolicyKey
from rumormill.gossip.security.credentials import Authority, Credential
from rumormill.membership import Readiness
from rumormill.simulations.protocol import NodeStart

CLUSTER = "lab"
KEYS = KeyRing((b"the lab's own key, of 32 bytes..",))


SERVICE = "embed"


def worker_profile(name: str) -> Profile:
    """A passing worker of service ``embed`` under the member's name."""
    return Profile(SERVICE, f"http://{name}.lab.invalid:9001", zone="a", release="v1", readiness=Readiness.PASSING)


@dataclass(frozen=True, slots=True)
class RumormillFactory:
    """Makes the Node that runs in production. ``keyring`` None sends plaintext."""

    settings: ProtocolSettings = field(default_factory=ProtocolSettings)
    cluster: str = CLUSTER
    keyring: KeyRing | None = KEYS
    authority: Authority | None = None
    credential: Credential | None = None
    policy_key: PolicyKey | None = None
    policies: tuple[tuple[bytes, bytes], ...] = ()
    """What each remembers of an earlier life."""

    def __call__(self, birth: NodeStart) -> Node:
        return Node(
            NodeConfig(
                policy_schema=POLICY_SCHEMA,
                name=birth.name,
                address=birth.address,
                cluster=self.cluster,
                profile=worker_profile(birth.name),
                keyring=self.keyring,
                authority=self.authority,
                credential=self.credential,
                settings=self.settings,
                generation=birth.generation,
                policy_key=self.policy_key,
                policies=self.policies,
            ),
            rng=birth.rng,
            token_bytes=birth.token_bytes,
            now=birth.now,
        )
