"""Has the kernel dropped datagrams because the sidecar did not take them in time?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, unknown, warning
from rumormill.gossip.udp.transport import RECEIVE_BUFFER
from rumormill.sidecar.settings_values import HostPort

TABLES: Final = ("/proc/net/udp", "/proc/net/udp6")
ALLOWED: Final = Path("/proc/sys/net/core/rmem_max")


def check(facts: Facts) -> Iterator[Finding]:
    if facts.status is None:
        yield unknown("the sidecar does not answer")
        return
    port = HostPort.parse(facts.gossip).port
    dropped = drops(port)
    allowed = int(ALLOWED.read_text()) if ALLOWED.exists() else RECEIVE_BUFFER
    room = f"{min(allowed, RECEIVE_BUFFER)} of {RECEIVE_BUFFER} wanted bytes"
    if dropped:
        yield warning(
            f"the kernel has dropped {dropped} datagrams to port {port}: the receive buffer was full ({room})",
            f"give the sidecar more CPU; and allow the buffer: sysctl -w net.core.rmem_max={RECEIVE_BUFFER}",
        )
    elif dropped is None:
        yield unknown(f"no socket of this machine is on UDP port {port}")
    else:
        yield ok(f"no datagram was dropped; the receive buffer has {room}")


def drops(port: int) -> int | None:
    """Datagrams to this UDP port that were dropped since the socket was made; None if there is no such socket."""
    found = None
    for table in TABLES:
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if int(fields[1].rpartition(":")[2], 16) == port:
                found = (found or 0) + int(fields[-1])
    return found
