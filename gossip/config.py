"""What a node is started with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rumormill.gossip.dissemination.policy_replication import PolicyKey
from rumormill.gossip.identity import Identity, Profile
from rumormill.gossip.security.credentials import Authority, Credential, MemberKeys
from rumormill.gossip.security.keyring import KeyRing
from rumormill.gossip.security.seal import MakeSeal, Seal
from rumormill.gossip.settings import ProtocolSettings
from rumormill.membership.policy import PolicySchema
from rumormill.membership.record import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Who a node is, what it trusts, and what it knew before."""

    name: str
    address: Address
    cluster: str
    profile: Profile
    policy_schema: PolicySchema
    keyring: KeyRing | None
    """The group keys; None sends plaintext."""
    authority: Authority | None = None
    """If given, only members with names that it issued may join."""
    credential: Credential | None = None
    """What the authority issued to this member."""
    settings: ProtocolSettings = field(default_factory=ProtocolSettings)
    generation: int = 1
    """At least one more than the last start of this name, if that is known."""
    key_version: int = 0
    """How often the key ring was changed before; 0 as it is in the key files."""
    policy_key: PolicyKey | None = None
    """If given, only policies signed by it are valid."""
    policies: Iterable[tuple[bytes, bytes]] = ()
    """Encoded policies with their signatures, as kept from an earlier start."""
    make_seal: MakeSeal = Seal
    """What seals and opens datagrams. A flight recorder puts one here that notes what passes."""

    def identity(self, keys: MemberKeys) -> Identity:
        return Identity(self.name, self.address, self.profile, self.generation, 1, False, keys, self.credential)
