"""Detects that this process or its machine is out of file descriptors, which is no worker's fault.

httpx2 reports it as a failed connection, with the reason deep in the chain of causes.
"""

from __future__ import annotations

import errno
import resource

import httpx2


class TooManyOpenFilesError(httpx2.ConnectError):
    """No file descriptor was left for a connection. Nothing was sent."""


def descriptor_shortage(error: BaseException) -> str | None:
    """The limit that was hit and what to do about it, if that caused the error. Otherwise None."""
    match _shortage(error):
        case errno.EMFILE:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            hint = "raise it (ulimit -n), or send fewer requests at once"
            return f"this process has too many open files: its limit is {limit}; {hint}"
        case errno.ENFILE:
            return "this machine has too many open files; raise its limit (sysctl fs.file-max)"
        case _:
            return None


def _shortage(error: BaseException | None) -> int | None:
    """EMFILE or ENFILE, if it is among the causes."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return error.errno
    if isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := _shortage(one))), None)
    return _shortage(error.__cause__ or error.__context__) if error is not None else None
