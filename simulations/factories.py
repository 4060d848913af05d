"""Makes the production Node for a world: sealed, with a passing worker, and with settings of the caller's choice."""

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
    """A passing worker of service ``embed``, named after the member."""
    return Profile(SERVICE, f"http://{name}.lab.invalid:9001", zone="a", release="v1", readiness=Readiness.PASSING)


@dataclass(frozen=True, slots=True)
class RumormillFactory:
    """Makes the production Node. Without a ``keyring`` it sends plaintext."""

    settings: ProtocolSettings = field(default_factory=ProtocolSettings)
    cluster: str = CLUSTER
    keyring: KeyRing | None = KEYS
    authority: Authority | None = None
    credential: Credential | None = None
    policy_key: PolicyKey | None = None
    policies: tuple[tuple[bytes, bytes], ...] = ()
    """Signed policies that each Node remembers from an earlier process."""

    def __call__(self, start: NodeStart) -> Node:
        return Node(self.config(start), rng=start.rng, token_bytes=start.token_bytes, now=start.now)

    def config(self, start: NodeStart) -> NodeConfig:
        """What a Node of this factory is started with."""
        return NodeConfig(
            policy_schema=POLICY_SCHEMA,
            name=start.name,
            address=start.address,
            cluster=self.cluster,
            profile=worker_profile(start.name),
            keyring=self.keyring,
            authority=self.authority,
            credential=self.credential,
            settings=self.settings,
            generation=start.generation,
            policy_key=self.policy_key,
            policies=self.policies,
        )
