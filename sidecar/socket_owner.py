"""Finds the process that listens at an address of this machine, from /proc.

``/proc/net/tcp`` lists listening sockets with their inodes (proc_net_tcp(5)), and ``/proc/PID/fd`` links each process
to the inodes of its sockets. Several processes may hold one socket, because children inherit descriptors. The process
to watch is then the one that the others descend from: a master with workers, or a server with a forked engine.
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rumormill.sidecar.settings_values import HostPort

_LISTENING: Final = "0A"
MAX_LISTENING_SOCKETS: Final = 10_000
"""Lines read of one table. The kernel lists listening sockets first, so connections are not read."""
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """One listening TCP socket."""

    address: _Address
    port: int
    uid: int
    """The user that made it."""
    inode: int


@dataclass(frozen=True, slots=True)
class SocketOwner:
    """A process that listens at the address."""

    pid: int
    pidfd: int
    """The caller closes it."""
    inodes: frozenset[int]
    """Inodes of all sockets that listen at the address."""


class OwnerNotFound(Exception):
    """No process can be watched; the text says why, and what to do."""

    def __init__(self, text: str, inodes: frozenset[int] = frozenset()) -> None:
        super().__init__(text)
        self.inodes = inodes
        """Inodes of the sockets whose process cannot be seen."""


@dataclass(frozen=True, slots=True)
class ResolvedEndpoint:
    """An endpoint with the IP addresses of its host."""

    endpoint: HostPort
    addresses: tuple[_Address, ...]

    def __str__(self) -> str:
        return str(self.endpoint)


def resolve(endpoint: HostPort) -> ResolvedEndpoint:
    """Blocks if the host is a name. A name that does not resolve has no addresses."""
    if endpoint.ip is not None:
        return ResolvedEndpoint(endpoint, (endpoint.ip,))
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError:
        return ResolvedEndpoint(endpoint, ())
    texts = [str(entry[4][0]).partition("%")[0] for entry in found]
    return ResolvedEndpoint(endpoint, tuple(map(ipaddress.ip_address, texts)))


def listening_at(place: ResolvedEndpoint) -> list[ListeningSocket]:
    """The sockets to which the kernel gives connections to this endpoint."""
    at_port = [entry for entry in _listening_sockets() if entry.port == place.endpoint.port]
    exact = [entry for entry in at_port if entry.address in place.addresses]
    return exact or [entry for entry in at_port if _accepts_by_wildcard(entry.address, place.addresses)]


def still_listening(inodes: frozenset[int], place: ResolvedEndpoint) -> bool:
    """Whether one of these sockets is still open: another process holds it too."""
    return any(entry.inode in inodes for entry in listening_at(place))


def find_owner(place: ResolvedEndpoint, known: frozenset[int] = frozenset()) -> SocketOwner:
    """The process that listens at this endpoint. Blocks. Raises :class:`OwnerNotFound`.

    ``known`` are the inodes whose owner could not be seen before; if nothing has changed, /proc is not searched again.
    """
    sockets = listening_at(place)
    if not sockets:
        raise OwnerNotFound(f"no process of this machine listens on {place}; it is watched once one does")
    inodes = frozenset(entry.inode for entry in sockets)
    if inodes == known:
        raise _not_visible(place, sockets)
    pid = _first_of_family(_holders(inodes))
    while pid is not None:
        if (owner := _open(pid, inodes)) is not None:
            return owner
        pid = _first_of_family(_holders(inodes))  # it has ended meanwhile
    raise _not_visible(place, sockets)


def _not_visible(place: ResolvedEndpoint, sockets: list[ListeningSocket]) -> OwnerNotFound:
    uid = sockets[0].uid
    why = (
        "but it is not visible here: it may run in another container"
        if os.geteuid() in (0, uid)
        else "which this user may not look at: run the agent as that user or as root"
    )
    return OwnerNotFound(
        f"a process of user {uid} listens on {place}, {why}; or use --worker-pid-file",
        frozenset(entry.inode for entry in sockets),
    )


def _open(pid: int, inodes: frozenset[int]) -> SocketOwner | None:
    """The process, unless it has ended meanwhile.

    The descriptors are read again after the pidfd is open. If the pidfd's process still runs then, the id has not been
    given to another process, so the descriptors were its own.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if inodes & set(_socket_inodes(pid)) and not _has_exited(pidfd):
        return SocketOwner(pid, pidfd, inodes)
    os.close(pidfd)
    return None


def _has_exited(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _holders(inodes: frozenset[int]) -> list[int]:
    """The processes that hold one of the sockets, except this one."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208  names are enough
    return [pid for pid in pids if pid != os.getpid() and not inodes.isdisjoint(_socket_inodes(pid))]


def _socket_inodes(pid: int) -> Iterator[int]:
    """The inodes of a process's sockets; none if it has ended or may not be looked at."""
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)  # noqa: PTH208  a Path for each would cost ten times as much
    except OSError:
        return
    for descriptor in descriptors:
        try:
            target = os.readlink(f"{folder}/{descriptor}")  # noqa: PTH115
        except OSError:
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _first_of_family(pids: Iterable[int]) -> int | None:
    """The process whose parent is none of them; of several, the one that started first. Process 1 comes last: systemd
    holds the sockets that it has activated, and never ends."""
    started = {pid: found for pid in pids if (found := _parent_and_start(pid)) is not None}
    roots = [pid for pid, (parent, _) in started.items() if parent not in started or parent == 1]
    return min(roots, key=lambda pid: (pid == 1, started[pid][1], pid), default=None)


def _parent_and_start(pid: int) -> tuple[int, int] | None:
    """The parent's id, and the start in clock ticks since boot (proc_pid_stat(5)); None if the process has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()
    return int(after_name[1]), int(after_name[19])


def started_at(pid: int) -> float | None:
    """When the process started, in seconds of the wall clock as it is set now; None if it has ended."""
    found = _parent_and_start(pid)
    return None if found is None else _boot_time() + found[1] / os.sysconf("SC_CLK_TCK")


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _listening_sockets() -> Iterator[ListeningSocket]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:  # noqa: PTH123
                next(lines)
                for _, line in zip(range(MAX_LISTENING_SOCKETS), lines, strict=False):
                    fields = line.split()
                    if fields[3] != _LISTENING:
                        break
                    address, _, port = fields[1].partition(":")
                    yield ListeningSocket(_address(address), int(port, 16), int(fields[7]), int(fields[9]))
        except OSError:  # no IPv6
            continue


def _address(text: str) -> _Address:
    """The kernel prints each 32-bit word of an address as a number in the machine's byte order."""
    words = [int(text[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return (address.ipv4_mapped or address) if address.version == 6 else address


def _accepts_by_wildcard(address: _Address, wanted: Iterable[_Address]) -> bool:
    """Whether a socket at a wildcard address takes connections to one of these. IPv6 sockets take IPv4 too, as a
    rule."""
    return address.is_unspecified and any(address.version == 6 or one.version == 4 for one in wanted)
