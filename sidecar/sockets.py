"""Opens what an agent listens on, and turns the machine's refusals into one line and a hint."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from pathlib import Path

import trio

from rumormill.gossip.udp.transport import bind_udp
from rumormill.sidecar.errors import BindError
from rumormill.sidecar.settings_values import HostPort, HttpAddress
from rumormill.sidecar.tls import CertificateKeeper, TlsListener

BACKLOG = 1024
"""Callers that may wait to be accepted: after a stall of the loop they all come at once."""

Listener = trio.SocketListener | TlsListener


def raise_file_limit() -> None:
    """Allow this process as many descriptors as it may have: the usual soft limit (1024) is made for select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_gossip_socket(endpoint: HostPort, *, refusals: bool) -> socket.socket:
    """The one UDP socket; ``refusals`` as for :func:`bind_udp`. Raises :class:`BindError`."""
    try:
        return bind_udp((endpoint.host, endpoint.port), refusals=refusals)
    except OSError as error:
        raise _refused("--gossip", endpoint, error, "ss -ulpn") from None


async def open_http_listeners(endpoint: HttpAddress, certificate: CertificateKeeper | None) -> list[Listener]:
    """Listeners of the discovery endpoint, with TLS where there is a certificate. Raises :class:`BindError`."""
    if endpoint.path is not None:
        return [open_unix_listener(endpoint.path)]
    try:
        listeners = await trio.open_tcp_listeners(endpoint.port, host=endpoint.host, backlog=BACKLOG)
    except OSError as error:
        raise _refused("--http", endpoint, error, "ss -tlpn") from None
    if certificate is None:
        return list(listeners)
    return [TlsListener(listener, certificate) for listener in listeners]


def open_unix_listener(path: Path) -> trio.SocketListener:
    """A socket in the file system, for its owner alone (mode 0600). Raises :class:`BindError`.

    What a sidecar that was killed has left behind is replaced; what somebody still listens on is not.
    """
    _clear_away(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)  # bound with its final permissions: there is no moment at which others may connect
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _unix_refused(path, error) from None
    finally:
        os.umask(mask)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _clear_away(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BindError(f"--http unix:{path} is there already, and is no socket", "choose another path")
    except OSError:
        return  # not there, or not to be looked at: binding will say which
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return
        else:
            raise BindError(f"--http unix:{path}: somebody listens there", "stop that one, or choose another path")


def _unix_refused(path: Path, error: OSError) -> BindError:
    hints = {
        errno.EADDRINUSE: "somebody else's socket is there: choose another path",
        errno.ENOENT: f"make its folder first: mkdir -p {path.parent}",
        errno.EACCES: "choose a folder you may write to",
    }
    reason = os.strerror(error.errno or 0).lower()
    return BindError(f"cannot listen on --http unix:{path}: {reason}", hints.get(error.errno or 0, ""))


def bound_endpoint(listener: Listener) -> HostPort:
    """Where a listener of :func:`open_http_listeners` really listens."""
    plain = listener.transport_listener if isinstance(listener, TlsListener) else listener
    assert isinstance(plain, trio.SocketListener)  # noqa: S101  for the type checker: we opened it
    name = plain.socket.getsockname()
    return HttpAddress.parse(f"unix:{name}") if isinstance(name, str) else HostPort(*name[:2])


def _refused(flag: str, endpoint: HostPort, error: OSError, who: str) -> BindError:
    hints = {
        errno.EADDRINUSE: f"{who} shows who has it; stop that one, or choose another {flag}",
        errno.EADDRNOTAVAIL: f"it is not an address of this machine: ip addr shows those; choose another {flag}",
        errno.EACCES: "ports below 1024 need privileges: choose a higher one",
    }
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return BindError(f"cannot listen on {flag} {endpoint}: {reason}", hints.get(error.errno or 0, ""))
