"""The sockets of HAProxy's agent check and of DNS: opened at the start, served beside the endpoint."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from dataclasses import dataclass, field

import trio

from rumormill.discovery.http.limits import Limits
from rumormill.discovery.server import DiscoveryServer
from rumormill.sidecar.errors import BindError, SettingsError
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import HostPort
from rumormill.sidecar.sockets import BACKLOG, bind_error

PORT_TRIES = 16
"""Ports that the kernel may choose for TCP before one is free for UDP too."""


@dataclass
class FormatListeners:
    """The open sockets. Each list is empty where its setting is not given."""

    domain: str
    agent: list[trio.SocketListener] = field(default_factory=list)
    dns_udp: socket.socket | None = None
    dns_tcp: list[trio.SocketListener] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    """What has been asked since the start."""

    @classmethod
    async def open(cls, settings: Settings) -> FormatListeners:
        """Raises :class:`BindError`, and :class:`SettingsError` where DNS is asked for without its library."""
        opened = cls(settings.dns_domain)
        if settings.haproxy_agent is not None:
            opened.agent = await _open_tcp("--haproxy-agent", settings.haproxy_agent)
        if settings.dns is not None:
            _require_dnspython()
            opened.dns_udp, opened.dns_tcp = await _open_both("--dns", settings.dns)
        return opened

    @property
    def addresses(self) -> dict[str, str]:
        """Where they listen, for the log."""
        opened = {"haproxy_agent": self.agent, "dns": self.dns_tcp}
        return {name: str(HostPort(*one[0].socket.getsockname()[:2])) for name, one in opened.items() if one}

    async def serve(self, server: DiscoveryServer) -> None:
        """Answer from what this endpoint's callers see, until cancelled. Returns at once where nothing is open."""
        batch = Limits().batch
        async with trio.open_nursery() as nursery:
            if self.agent:
                from rumormill.discovery.listeners.agent_check import AgentCheckServer

                check = AgentCheckServer(server.settled_view, self.counters, batch)
                nursery.start_soon(check.serve, self.agent)
            if self.dns_udp is not None:
                from rumormill.discovery.formats.dns_zone import DnsZone
                from rumormill.discovery.listeners.dns_server import DnsServer

                zone = DnsZone(self.domain, server.settled_view)
                with self.dns_udp:
                    await DnsServer(zone, self.counters, batch).serve(self.dns_udp, self.dns_tcp)


def _require_dnspython() -> None:
    try:
        import dns.message  # noqa: F401
    except ImportError:
        raise SettingsError("--dns needs dnspython", "pip install 'rumormill[dns]'") from None


async def _open_tcp(flag: str, endpoint: HostPort) -> list[trio.SocketListener]:
    try:
        return list(await trio.open_tcp_listeners(endpoint.port, host=endpoint.host, backlog=BACKLOG))
    except OSError as error:
        raise bind_error(flag, endpoint, error, "ss -tlpn") from None


async def _open_both(flag: str, endpoint: HostPort) -> tuple[socket.socket, list[trio.SocketListener]]:
    """UDP and TCP at one port, which the kernel chooses if it is 0."""
    for left in reversed(range(PORT_TRIES)):
        listeners = await _open_tcp(flag, endpoint)
        sock = socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.bind((endpoint.host, listeners[0].socket.getsockname()[1]))
        except OSError as error:
            sock.close()
            for listener in listeners:
                await listener.aclose()
            if endpoint.port or error.errno != errno.EADDRINUSE or not left:
                raise bind_error(flag, endpoint, error, "ss -ulpn") from None
        else:
            return sock, listeners
    raise BindError(f"cannot listen on {flag} {endpoint}: no port is free", "give one")
