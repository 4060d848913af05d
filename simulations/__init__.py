"""The lab: the very Node that runs in production, under a virtual clock and a virtual network.

Here is what it takes to put thousands of members through crashes, freezes, splits and loss within seconds, and to
judge what they did: the world, its faults, the invariants, scenarios as data, a baseline protocol to compare with, and
reports. Nothing here reads a clock, opens a socket or sleeps; one seed gives one trace, to the byte. It may import
membership, gossip, ring and ``discovery.view``. It knows no command line (``cli/simulate.py`` does).
"""

from rumormill.simulations.factories import RumormillFactory
from rumormill.simulations.history import Concluded, History
from rumormill.simulations.network import LAN, WAN, ActiveFault, Burst, Latency, LinkFault
from rumormill.simulations.protocol import NodeFactory, NodeStart, SimulatedNode
from rumormill.simulations.world import World

__all__ = [
    "LAN",
    "WAN",
    "ActiveFault",
    "Burst",
    "Concluded",
    "History",
    "Latency",
    "LinkFault",
    "NodeFactory",
    "NodeStart",
    "RumormillFactory",
    "SimulatedNode",
    "World",
]
