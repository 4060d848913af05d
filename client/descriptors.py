"""Being out of file descriptors: a shortage of this process or its machine, told as that and held against no worker.

Underneath it comes as a connection that failed, with its reason deep in the chain of causes.
"""

from __future__ import annotations

import errno
import resource

import httpx


class TooManyOpenFilesError(httpx.ConnectError):
    """No connection could be made, because there is no file descriptor left for one. Nothing was sent."""


def descriptor_shortage(error: BaseException) -> str | None:
    """What is short, and what to do about it, where that is why something failed; else None."""
    match _shortage(error):
        case errno.EMFILE:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return (
                f"this process has too many open files: its limit is {limit}; raise it (ulimit -n), or ask less at once"
            )
        case errno.ENFILE:
            return "this machine has too many open files; raise its limit (sysctl fs.file-max)"
        case _:
            return None


def _shortage(error: BaseException | None) -> int | None:
    """The number of the error at the bottom."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return error.errno
    if isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := _shortage(one))), None)
    return _shortage(error.__cause__ or error.__context__) if error is not None else None
