"""A network testbed with real packet loss: one network namespace per host, one switch, and nft rules.

Nothing here touches the machine's own network. :class:`Bed` makes hosts, drops packets (a share of all, one direction
between two hosts, everything between two halves, refusals of closed ports), and counts sent packets and bytes at the
IP level. :mod:`sniffer` reports when a host sends. :mod:`delay_switch` is a switch that delays packets.
:func:`unavailable_reason` says whether this kernel and user allow a testbed.
"""

from bench.netns_testbed.hosts import Bed, NetnsHost, unavailable_reason

__all__ = ["Bed", "NetnsHost", "unavailable_reason"]
