"""Opens what an agent listens on, and turns the machine's refusals into one line and a hint."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import trio

from rumormill.gossip.transport import bind_udp
from rumormill.sidecar.errors import BindError, SettingsError
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.values import Endpoint

BACKLOG = 1024
"""Callers that may wait to be accepted: after a stall of the loop they all come at once."""

Listener = trio.SocketListener | trio.SSLListener[Any]


def open_gossip_socket(endpoint: Endpoint) -> socket.socket:
    """Raises :class:`BindError`."""
    try:
        return bind_udp((endpoint.host, endpoint.port))
    except OSError as error:
        raise _refused("--gossip", endpoint, error, "ss -ulpn") from None


async def open_http_listeners(settings: Settings) -> list[Listener]:
    """Listeners of the discovery endpoint, with TLS where a certificate is given. Raises :class:`BindError`."""
    endpoint = settings.http
    context = _tls_context(settings.http_tls_cert, settings.http_tls_key)
    try:
        listeners = await trio.open_tcp_listeners(endpoint.port, host=endpoint.host, backlog=BACKLOG)
    except OSError as error:
        raise _refused("--http", endpoint, error, "ss -tlpn") from None
    if context is None:
        return list(listeners)
    return [trio.SSLListener(listener, context, https_compatible=True) for listener in listeners]


def bound_endpoint(listener: Listener) -> Endpoint:
    """Where a listener of :func:`open_http_listeners` really listens."""
    plain = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    assert isinstance(plain, trio.SocketListener)  # noqa: S101  for the type checker: we opened it
    host, port = plain.socket.getsockname()[:2]
    return Endpoint(host, port)


def _refused(flag: str, endpoint: Endpoint, error: OSError, who: str) -> BindError:
    hints = {
        errno.EADDRINUSE: f"{who} shows who has it; stop that one, or choose another {flag}",
        errno.EADDRNOTAVAIL: f"it is not an address of this machine: ip addr shows those; choose another {flag}",
        errno.EACCES: "ports below 1024 need privileges: choose a higher one",
    }
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return BindError(f"cannot listen on {flag} {endpoint}: {reason}", hints.get(error.errno or 0, ""))


def _tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None or key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for flag, path in (("--http-tls-cert", cert), ("--http-tls-key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise SettingsError(
                f"{flag} {path} cannot be read: {error.strerror}", "give a PEM file you can read"
            ) from None
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise SettingsError(
            f"--http-tls-cert {cert} and --http-tls-key {key} are not a pair: {reason}",
            "both must be PEM, the key unencrypted and the certificate's own",
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")
