"""Opens the sockets an agent listens on. Turns errors of the operating system into a message and a hint."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from pathlib import Path

import msgspec
import trio

from rumormill.gossip.udp.transport import bind_udp
from rumormill.sidecar.errors import BindError
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import HostPort, HttpAddress
from rumormill.sidecar.tls import CertificateReloader, TlsListener

BACKLOG = 1024
"""Callers that may wait to be accepted. After a stall of the event loop they all arrive at once."""

Listener = trio.SocketListener | TlsListener


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit. The usual soft limit of 1024 exists for select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_gossip_socket(endpoint: HostPort, *, refusals: bool) -> socket.socket:
    """The UDP socket; ``refusals`` as for :func:`bind_udp`. Raises :class:`BindError`."""
    try:
        return bind_udp((endpoint.host, endpoint.port), refusals=refusals)
    except OSError as error:
        raise bind_error("--gossip", endpoint, error, "ss -ulpn") from None


async def open_http_listeners(endpoint: HttpAddress, certificate: CertificateReloader | None) -> list[Listener]:
    """The listeners of the discovery endpoint, with TLS if there is a certificate. Raises :class:`BindError`."""
    if endpoint.path is not None:
        return [open_unix_listener(endpoint.path)]
    try:
        listeners = await trio.open_tcp_listeners(endpoint.port, host=endpoint.host, backlog=BACKLOG)
    except OSError as error:
        raise bind_error("--http", endpoint, error, "ss -tlpn") from None
    if certificate is None:
        return list(listeners)
    return [TlsListener(listener, certificate) for listener in listeners]


def open_unix_listener(path: Path) -> trio.SocketListener:
    """A Unix socket that only its owner can use (mode 0600). Raises :class:`BindError`.

    The socket of a sidecar that was killed is replaced; a socket that somebody still listens on is not.
    """
    _remove_stale_socket(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)  # created with its final permissions: at no moment can others connect
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _unix_bind_error(path, error) from None
    finally:
        os.umask(mask)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _remove_stale_socket(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BindError(f"--http unix:{path} exists and is not a socket", "choose another path")
    except OSError:
        return  # it does not exist, or cannot be examined: binding will report which
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return
        else:
            raise BindError(f"--http unix:{path} is in use by another process", "stop it, or choose another path")


def _unix_bind_error(path: Path, error: OSError) -> BindError:
    hints = {
        errno.EADDRINUSE: "another user's socket is there: choose another path",
        errno.ENOENT: f"create its directory first: mkdir -p {path.parent}",
        errno.EACCES: "choose a directory that this user can write to",
    }
    reason = os.strerror(error.errno or 0).lower()
    return BindError(f"cannot listen on --http unix:{path}: {reason}", hints.get(error.errno or 0, ""))


def bound_endpoint(listener: Listener) -> HostPort:
    """The address at which a listener of :func:`open_http_listeners` listens."""
    plain = listener.transport_listener if isinstance(listener, TlsListener) else listener
    assert isinstance(plain, trio.SocketListener)  # noqa: S101  for the type checker: we opened it
    name = plain.socket.getsockname()
    return HttpAddress.parse(f"unix:{name}") if isinstance(name, str) else HostPort(*name[:2])


def bind_error(flag: str, endpoint: HostPort, error: OSError, who: str) -> BindError:
    """Why an address cannot be bound. `who` is the command that shows which process has it."""
    hints = {
        errno.EADDRINUSE: f"{who} shows which process has it; stop that process, or choose another {flag}",
        errno.EADDRNOTAVAIL: "this machine has no such address; ip addr shows those it has",
        errno.EACCES: "ports below 1024 need root privileges; choose a higher port",
    }
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return BindError(f"cannot listen on {flag} {endpoint}: {reason}", hints.get(error.errno or 0, ""))


def with_bound_port(settings: Settings, sock: socket.socket) -> Settings:
    """The settings with the advertised port filled in if the kernel chose it."""
    advertised = settings.advertised_address
    port = advertised.port or sock.getsockname()[1]
    return msgspec.structs.replace(settings, advertise=HostPort(advertised.host, port))
