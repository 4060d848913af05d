"""Decoding the error queue of a Linux socket with IP_RECVERR: what ICMP says of a datagram that the socket sent.

The kernel keeps a queue of errors beside the socket's datagrams. Each entry has the payload that the ICMP message
quotes, the address it was sent to, and a control message: ``struct sock_extended_err`` (errno 4, origin 1, type 1,
code 1, padding 1, info 4, data 4 bytes), followed by the socket address of the sender of the ICMP message (ip(7),
ipv6(7)).

One kind of entry is evidence: *port unreachable* (RFC 792; RFC 4443, section 3.1) from the very host that the datagram
was sent to. It means that the kernel there runs, and no process has our port. Anything else is about the network in
between.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

from rumormill.membership.record import Address

IP_RECVERR = 11
IPV6_RECVERR = 25
MSG_ERRQUEUE = 0x2000
"""Linux constants. Python 3.11 has no names for these three."""
LONGEST_QUOTE = 2048
CONTROL_BYTES = 256
"""Room for the control messages of one entry, several times what they need."""

_SOL_IP, _SOL_IPV6 = 0, 41
_EXTENDED = struct.Struct("=IBBBBII")
_ICMP, _ICMP6 = 2, 3
_PORT_UNREACHABLE = {(_SOL_IP, IP_RECVERR): (_ICMP, 3, 3), (_SOL_IPV6, IPV6_RECVERR): (_ICMP6, 1, 4)}
_OFFENDER = {_SOL_IP: slice(20, 24), _SOL_IPV6: slice(24, 40)}
"""Where the address is, after the extended error: behind family and port, and for IPv6 the flow label."""


def refused_by_its_host(ancillary: Iterable[tuple[int, int, bytes]], destination: Address) -> bool:
    """Whether an entry, given its control messages and the datagram's destination, is a refusal by that very host."""
    for level, kind, data in ancillary:
        wanted = _PORT_UNREACHABLE.get((level, kind))
        if wanted is None or len(data) < _EXTENDED.size:
            continue
        _, origin, icmp_type, code, _, _, _ = _EXTENDED.unpack_from(data)
        if (origin, icmp_type, code) == wanted:
            return _packed(destination[0]) == data[_OFFENDER[level]]
    return False


def _packed(host: str) -> bytes:
    try:
        return ipaddress.ip_address(host).packed
    except ValueError:
        return b""
