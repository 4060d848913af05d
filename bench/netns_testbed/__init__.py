"""A test bed in which packets really get lost: one network namespace a host, joined by a switch, ruled by nft.

Nothing here touches the machine's own network. :class:`Bed` makes hosts, drops what a test wants dropped (a share of
everything, one direction between two hosts, two halves from each other, the refusals of dead ports) and counts what
processes send, as IP counts it; :mod:`ear` hears when they do. :mod:`delay_switch` is the switch of a bed whose packets
take their time. Whether this kernel and user may do it says :func:`why_not`.
"""

from bench.netns_testbed.hosts import Bed, NetnsHost, why_not

__all__ = ["Bed", "NetnsHost", "why_not"]
