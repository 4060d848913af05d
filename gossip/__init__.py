"""How it spreads: the protocol core (:class:`Node`, which does no I/O) and, in ``transport``, the shell around it.

Nothing but ``transport`` may read a clock, open a socket or wait. What others need is the node, what it is told
(:class:`Profile`, :class:`ProtocolSettings`, :class:`KeyRing`), and membership's words for what it concludes.
"""

from rumormill.gossip.node import Node
from rumormill.gossip.security.keyring import InvalidKey, KeyRing
from rumormill.gossip.settings import ProtocolSettings
from rumormill.gossip.state import Profile

__all__ = ["InvalidKey", "KeyRing", "Node", "Profile", "ProtocolSettings"]
