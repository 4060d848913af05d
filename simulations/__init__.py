"""The lab: the production Node, under a virtual clock and a virtual network.

It takes thousands of members through crashes, freezes, splits and loss within seconds, and checks what they did. It
holds the world, its faults, the invariants, scenarios as data, a baseline protocol to compare with, and reports.
Nothing here reads a clock, opens a socket or sleeps. One seed gives one trace, to the byte. It may import membership,
gossip, ring and ``discovery.view``. The command line is in ``cli/simulate.py``.
"""

from rumormill.simulations.factories import RumormillFactory
from rumormill.simulations.history import History, ObservedEvent
from rumormill.simulations.network import LAN, WAN, ActiveFault, Burst, Latency, LinkFault
from rumormill.simulations.protocol import NodeFactory, NodeStart, SimulatedNode
from rumormill.simulations.world import World

__all__ = [
    "LAN",
    "WAN",
    "ActiveFault",
    "Burst",
    "History",
    "Latency",
    "LinkFault",
    "NodeFactory",
    "NodeStart",
    "ObservedEvent",
    "RumormillFactory",
    "SimulatedNode",
    "World",
]
