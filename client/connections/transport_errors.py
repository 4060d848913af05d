"""The errors of httpcore2, which moves the bytes, as those of httpx2, which callers know."""

from __future__ import annotations

import httpcore2
import httpx2

from rumormill.client.runtime.descriptors import TooManyOpenFilesError, descriptor_shortage

_TRANSPORT_ERRORS = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
)


class httpx2_errors:  # noqa: N801 - used like a function
    """A context in which errors of httpcore2 become those of httpx2 with the same name. A class, because it is
    entered for every request, and a generator costs five times as much."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, _TRANSPORT_ERRORS):
            raise translated(error) from error


def translated(error: Exception) -> Exception:
    """The error of httpx2 with the same name. A failed connection without a free descriptor is an error of its own."""
    if isinstance(error, httpcore2.ConnectError) and (shortage := descriptor_shortage(error)) is not None:
        return TooManyOpenFilesError(shortage)
    counterpart: type[httpx2.TransportError] = getattr(httpx2, type(error).__name__)
    return counterpart(str(error))
