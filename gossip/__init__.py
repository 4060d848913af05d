"""The gossip protocol: a core without I/O (:class:`Node`), and the UDP transport around it (``udp``).

Only ``udp`` may read a clock, open a socket or wait. Other packages use the node, its inputs (:class:`Profile`,
:class:`ProtocolSettings`, :class:`KeyRing`), and the types of ``membership`` for its conclusions.
"""

from rumormill.gossip.config import NodeConfig
from rumormill.gossip.identity import Profile
from rumormill.gossip.node import Node
from rumormill.gossip.security.keyring import InvalidKey, KeyRing
from rumormill.gossip.settings import ProtocolSettings

__all__ = ["InvalidKey", "KeyRing", "Node", "NodeConfig", "Profile", "ProtocolSettings"]
