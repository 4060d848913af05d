"""The kinds of value a setting can have beyond numbers and text: addresses, durations, a worker's URL.

Each knows how to read itself from what a person wrote (:meth:`parse`) and says what is wrong with it, with a hint.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from rumormill.membership.record import MAX_URL_BYTES

MAX_SOCKET_PATH_BYTES = 107
"""What the kernel takes (unix(7))."""


class BadValue(ValueError):
    """What a person wrote cannot be read; ``hint`` says how it is written."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class HostPort(str):
    """``HOST:PORT``, IPv6 in brackets: a name or an IP literal, and a port (0 asks the kernel for a free one).

    It is the text a person would write; msgspec hands such subclasses, unlike dataclasses, to :meth:`parse`.
    """

    __slots__ = ()

    def __new__(cls, host: str, port: int) -> Self:
        return super().__new__(cls, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    @property
    def host(self) -> str:
        """Without brackets."""
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.rpartition(":")[2])

    @classmethod
    def parse(cls, text: object) -> Self:
        """``HOST:PORT``, IPv6 in brackets. A leading ``http://`` is passed over: the readers' variable has one."""
        if not isinstance(text, str):
            raise BadValue("expected an address in quotes", 'write it as "HOST:PORT"')
        bare = re.sub(r"^https?://|/$", "", text.strip())
        host, colon, port = bare.rpartition(":")
        if bare.startswith("["):
            host, bracket, rest = bare[1:].partition("]")
            colon, port = rest[:1], rest[1:]
            if not bracket or not _is_ipv6(host):
                raise BadValue(f"{text!r} is not an IPv6 address in brackets", "write it as [::1]:7946")
        elif ":" in host:
            raise BadValue(f"{text!r} is ambiguous", f"write IPv6 addresses in brackets: [{_likely_ipv6(bare)}]:PORT")
        if not colon or not port:
            raise BadValue(f"{text!r} has no port", f"write it as {bare or 'HOST'}:PORT")
        if not host:
            raise BadValue(
                f"{text!r} has no host", f"write it as 127.0.0.1:{port}, or 0.0.0.0:{port} for every address"
            )
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise BadValue(f"{text!r}: {port!r} is not a port", "a port is a number up to 65535")
        return cls(host, int(port))

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The address where the host is a literal, None where it is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def wildcard(self) -> bool:
        return self.ip is not None and self.ip.is_unspecified

    @property
    def loopback(self) -> bool:
        return self.host == "localhost" if self.ip is None else self.ip.is_loopback

    @property
    def of_this_machine(self) -> bool:
        """Whether a literal host is an address of this machine: the kernel binds those only."""
        try:
            with socket.socket(self.family, socket.SOCK_DGRAM) as probe:
                probe.bind((self.host, 0))
        except OSError:
            return False
        return True

    @property
    def family(self) -> socket.AddressFamily:
        """Meant for endpoints whose host is a literal."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def resolved(self) -> Self:
        """The same endpoint with an IP literal in its usual spelling for a host. Blocks; raises :class:`BadValue`."""
        if self.ip is not None:
            return type(self)(str(self.ip), self.port)
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise BadValue(
                f"the name {self.host!r} does not resolve ({error.strerror or error})",
                "give an IP address, or fix the name",
            ) from None
        return type(self)(str(found[0][4][0]), self.port)


class HttpAddress(HostPort):
    """Where the discovery endpoint answers: ``HOST:PORT``, or ``unix:PATH`` for a socket in the file system."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises :class:`BadValue`."""
        if not isinstance(text, str) or not text.strip().startswith("unix:"):
            return super().parse(text)
        path = text.strip().removeprefix("unix:")
        path = "/" + path.lstrip("/") if path.startswith("/") else path
        if not path.startswith("/") or not path.isprintable() or path.endswith("/"):
            raise BadValue(f"{text!r} has no absolute path", "write it as unix:/run/rumormill/w1.sock")
        if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            raise BadValue(
                f"{text!r} is longer than the {MAX_SOCKET_PATH_BYTES} bytes of a socket's path", "shorten it"
            )
        return str.__new__(cls, f"unix:{path}")

    @property
    def path(self) -> Path | None:
        """The socket's path, None for an address of a host."""
        return Path(self.removeprefix("unix:")) if self.startswith("unix:") else None

    @property
    def local(self) -> bool:
        """Whether only this machine can connect."""
        return self.path is not None or self.loopback

    def resolved(self) -> Self:
        return self if self.path is not None else super().resolved()


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host


def _likely_ipv6(text: str) -> str:
    head = text.rpartition(":")[0]
    return head if _is_ipv6(head) else text


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|h)")


class Seconds(float):
    """A duration, written with its unit: ``200ms``, ``1s``, ``1.5m``."""

    @classmethod
    def parse(cls, text: object) -> Self:
        if isinstance(text, str) and (found := _DURATION.fullmatch(text.strip())):
            return cls(float(found[1]) * _UNITS[found[2]])
        raise BadValue(f"{text!r} is not a duration", "say the unit: 200ms, 1s, 2m")

    def __str__(self) -> str:
        return f"{self * 1000:g}ms" if self < 1 else f"{self:g}s"


class WorkerUrl(str):
    """Where a worker is reached: http or https, a host, and nothing that should not be told to a whole pool."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises :class:`BadValue`. A trailing slash is dropped, so that paths can be appended."""
        if not isinstance(text, str):
            raise BadValue("expected a URL in quotes", 'write it as "http://127.0.0.1:9001"')
        try:
            parts = urlsplit(text.strip())
            parts.port  # noqa: B018  reading it is what checks it
        except ValueError as error:
            raise BadValue(f"{text!r} is not a URL ({error})", "write it as http://127.0.0.1:9001") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadValue(f"{text!r} is not an http(s) URL", "write it as http://127.0.0.1:9001")
        if parts.username is not None or parts.password is not None:
            raise BadValue("the URL holds a password, and the whole pool would be told", "leave user:password@ out")
        if parts.query or parts.fragment:
            raise BadValue(f"{text!r} has a query or a fragment", "give scheme, host, port and at most a path")
        if not text.isprintable() or " " in text.strip() or len(text.encode()) > MAX_URL_BYTES:
            raise BadValue(f"the URL has spaces or more than {MAX_URL_BYTES} bytes", "give a shorter, plain one")
        return cls(text.strip().rstrip("/"))

    @property
    def secure(self) -> bool:
        return self.startswith("https:")

    @property
    def path(self) -> str:
        return urlsplit(self).path

    @property
    def endpoint(self) -> HostPort:
        """Host and port, the scheme's own port where none is written."""
        parts = urlsplit(self)
        return HostPort(parts.hostname or "", parts.port or (443 if self.secure else 80))
