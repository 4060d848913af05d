"""Types of settings beyond numbers and text: addresses, durations, a worker's URL.

Each type parses what a person wrote (:meth:`parse`), and raises :class:`BadValue` with a hint if that is wrong.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from rumormill.membership.record import MAX_URL_BYTES

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["info", "warning", "error"]
"""From the lowest to the highest."""
MAX_SOCKET_PATH_BYTES = 107
"""The kernel's limit (unix(7))."""
MAX_PID = (1 << 22) + 1
"""No process id is as large (proc_sys_kernel(5), pid_max)."""
AUTO = "auto"
NO_CHECK = "none"
"""Instead of the path of the readiness check: the probe alone says whether the worker is there."""


class BadValue(ValueError):
    """A value that cannot be parsed. ``hint`` says how to write it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class HostPort(str):
    """``HOST:PORT``: a host name or an IP address (IPv6 in brackets), and a port (0: the kernel chooses a free one).

    It is a subclass of ``str`` because msgspec passes those, unlike dataclasses, to :meth:`parse`.
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
        """``HOST:PORT``, IPv6 in brackets. A leading ``http://`` is ignored: the verbs take
        RUMORMILL_HTTP with one or without."""
        if not isinstance(text, str):
            raise BadValue("an address must be a quoted text", 'write it as "HOST:PORT"')
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
                f"{text!r} has no host",
                f"write it as 127.0.0.1:{port}, or as 0.0.0.0:{port} to listen on every address",
            )
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise BadValue(f"{text!r}: {port!r} is not a port", "a port is a number up to 65535")
        return cls(host, int(port))

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The IP address; None if the host is a name."""
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
        """Whether an IP address belongs to this machine. The kernel can bind only those."""
        try:
            with socket.socket(self.family, socket.SOCK_DGRAM) as probe:
                probe.bind((self.host, 0))
        except OSError:
            return False
        return True

    @property
    def family(self) -> socket.AddressFamily:
        """The address family. Only for endpoints whose host is an IP address."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def resolved(self) -> Self:
        """The same endpoint with its host resolved to an IP address. Blocks. Raises :class:`BadValue`."""
        if self.ip is not None:
            return type(self)(str(self.ip), self.port)
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise BadValue(
                f"the name {self.host!r} does not resolve ({error.strerror or error})",
                "give an IP address, or correct the name",
            ) from None
        return type(self)(str(found[0][4][0]), self.port)


class HttpAddress(HostPort):
    """The address of the discovery endpoint: ``HOST:PORT``, or ``unix:PATH`` for a Unix socket."""

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
                f"{text!r} is longer than {MAX_SOCKET_PATH_BYTES} bytes, the limit for a socket",
                "choose a shorter path",
            )
        return str.__new__(cls, f"unix:{path}")

    @property
    def path(self) -> Path | None:
        """The socket's path; None for ``HOST:PORT``."""
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
        raise BadValue(f"{text!r} is not a duration", "write it with a unit: 200ms, 1s, 2m")

    def __str__(self) -> str:
        return f"{self * 1000:g}ms" if self < 1 else f"{self:g}s"


class WorkerUrl(str):
    """The URL of a worker. It must not contain a password, because the whole pool sees it."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises :class:`BadValue`. A trailing slash is removed, so that paths can be appended."""
        if not isinstance(text, str):
            raise BadValue("a URL must be a quoted text", 'write it as "http://127.0.0.1:9001"')
        try:
            parts = urlsplit(text.strip())
            parts.port  # noqa: B018  reading it is what checks it
        except ValueError as error:
            raise BadValue(f"{text!r} is not a URL ({error})", "write it as http://127.0.0.1:9001") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadValue(f"{text!r} is not an http(s) URL", "write it as http://127.0.0.1:9001")
        if parts.username is not None or parts.password is not None:
            raise BadValue("the URL holds a password, which the whole pool would see", "remove user:password@")
        if parts.query or parts.fragment:
            raise BadValue(f"{text!r} has a query or a fragment", "give scheme, host, port and at most a path")
        if not text.isprintable() or " " in text.strip() or len(text.encode()) > MAX_URL_BYTES:
            raise BadValue(
                f"the URL has spaces or more than {MAX_URL_BYTES} bytes", "give a shorter URL without spaces"
            )
        return cls(text.strip().rstrip("/"))

    @property
    def secure(self) -> bool:
        return self.startswith("https:")

    @property
    def path(self) -> str:
        return urlsplit(self).path

    @property
    def endpoint(self) -> HostPort:
        """Host and port; the scheme's default port if the URL has none."""
        parts = urlsplit(self)
        return HostPort(parts.hostname or "", parts.port or (443 if self.secure else 80))


class WorkerPid(str):
    """A process id, or ``auto`` for the process that listens at the worker's URL."""

    __slots__ = ()

    @classmethod
    def parse(cls, given: object) -> Self:
        """Raises :class:`BadValue`."""
        text = str(given).strip()
        if text != AUTO and not (text.isascii() and text.isdigit() and 0 < int(text) < MAX_PID):
            raise BadValue(f"{given!r} is not a whole number above 0", "give --worker-pid a number like 4711, or auto")
        return cls(text if text == AUTO else int(text))

    @property
    def number(self) -> int | None:
        """The process id; None for ``auto``."""
        return None if self == AUTO else int(self)
