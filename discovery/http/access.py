"""The rights to read and to change. They are two, because every caller has the right to read.

If nothing is asked for (loopback, a unix socket), anyone who can connect may do both. What must be kept out is a
web page in a browser on the same machine. Such a page can send requests anywhere, but it cannot hide that it is one:
a browser adds ``Origin`` or ``Sec-Fetch-Site``, and a page whose name was pointed at 127.0.0.1 (DNS rebinding) cannot
help sending that name in ``Host``. A caller that shows a token is no such page, and is asked no more.

Beyond loopback every right has to be proved. The token for reading is in the hands of every caller of the pool, so it
changes nothing: that takes a token of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from rumormill.discovery.http.request import Request
from rumormill.discovery.http.response import refuse

MAX_CACHED_HOSTS: Final = 64
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]*)?")
CHALLENGE: Final = (("WWW-Authenticate", 'Bearer realm="rumormill"'),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How an endpoint is protected. The tokens are visible ASCII."""

    read_token: str | None = None
    """The token that lets a caller read; None where anyone who connects may."""
    change_token: str | None = None
    """The token that lets a caller change things, and read; None where there is none."""
    local: bool = True
    """Whether only this machine can connect: loopback, or a unix socket."""
    mutual_tls: bool = False
    """Whether every caller has shown a certificate (mutual TLS)."""
    encrypted: bool = False
    """Whether the endpoint speaks TLS."""
    by_host_name: bool = True
    """Whether callers reach it by host and port at all, so that their Host header means something."""


class AccessControl:
    """Holds requests against an :class:`Access`. Tokens are compared by hash, in constant time."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._read_digest = _digest(access.read_token)
        self._change_digest = _digest(access.change_token)
        self._open_to_changes = access.local and not access.mutual_tls and access.read_token is None
        self._checks_host = access.local and access.by_host_name
        self._cached_hosts: set[bytes] = set()

    def check(self, request: Request, *, command: bool) -> None:
        """Raises :class:`RequestRejected`: 401 without a valid token, 403 without the right, 421 for a foreign Host."""
        shown = _bearer(request)
        if command:
            self._check_command(request, shown)
        elif self._read_digest is None:
            self._check_browser(request)
        elif not _digest_matches(shown, self._read_digest) and not _digest_matches(shown, self._change_digest):
            raise refuse(
                401,
                "the token is missing or wrong",
                "send 'Authorization: Bearer TOKEN' with the token this sidecar was started with",
                headers=CHALLENGE,
            )

    def _check_command(self, request: Request, shown: bytes | None) -> None:
        if self._change_digest is not None:
            if _digest_matches(shown, self._change_digest):
                return
            if _digest_matches(shown, self._read_digest):
                raise refuse(
                    403,
                    "this token allows reading only",
                    "use the token in this sidecar's --http-change-token-file",
                )
            raise refuse(
                401,
                "the token for changes is missing or wrong",
                "send 'Authorization: Bearer TOKEN' with the token in this sidecar's --http-change-token-file",
                headers=CHALLENGE,
            )
        if not self._open_to_changes:
            raise refuse(
                403,
                "this sidecar takes no changes over HTTP",
                "start it with --http-change-token-file, or on a unix socket or loopback without a token",
            )
        self._check_browser(request, command=True)

    def _check_browser(self, request: Request, *, command: bool = False) -> None:
        headers = request.headers
        host = headers.get(b"host")
        if self._checks_host and host is not None and host not in self._cached_hosts:
            self._check_host(host)
        site = headers.get(b"sec-fetch-site", b"none")
        if b"origin" not in headers and site == b"none":
            return
        if command:
            raise refuse(
                403,
                "a web page may not change this sidecar",
                "use the command line, or start it with --http-change-token-file",
            )
        if site == b"same-origin" or headers.get(b"sec-fetch-mode") == b"navigate":
            return  # its own page, or a link that a person follows: the linking page cannot read the answer
        raise refuse(
            403, "a web page from another site may not read here", "use a program, or start the sidecar with a token"
        )

    def _check_host(self, host: bytes) -> None:
        if not _is_local_host(host):
            raise refuse(
                421,
                f"this sidecar is not reached by the name {host[:64].decode('latin-1')!r}",
                "use 127.0.0.1, [::1] or localhost; with a token any name works",
            )
        if len(self._cached_hosts) < MAX_CACHED_HOSTS:
            self._cached_hosts.add(host)


def _is_local_host(host: bytes) -> bool:
    """Whether a Host header is an IP literal or localhost: no foreign DNS server can have given such a name."""
    found = _HOST.fullmatch(host.decode("latin-1").lower())
    if found is None:
        return False
    name = found[1].strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _bearer(request: Request) -> bytes | None:
    scheme, _, given = request.headers.get(b"authorization", b"").partition(b" ")
    if b"x-consul-token" in request.headers:  # how Consul's clients send theirs
        scheme, given = b"bearer", request.headers[b"x-consul-token"]
    return hashlib.sha256(given.strip()).digest() if scheme.lower() == b"bearer" else None


def _digest(token: str | None) -> bytes | None:
    return None if token is None else hashlib.sha256(token.encode()).digest()


def _digest_matches(shown: bytes | None, known: bytes | None) -> bool:
    return shown is not None and known is not None and hmac.compare_digest(shown, known)
