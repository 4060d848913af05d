"""How many callers do the limits of open files allow?"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, unknown, warning
from rumormill.discovery.http.limits import Limits, SlotLimits
from rumormill.sidecar.settings_values import HostPort
from rumormill.sidecar.socket_owner import OwnerNotFound, find_owner, resolve

FEW: Final = 1000
"""Callers. A page, a Prometheus and a client for each process of a large service take less."""
OWN_FILES: Final = 64
"""About what a sidecar has open without callers."""


def check(facts: Facts) -> Iterator[Finding]:
    if facts.status is None:
        files, whose = resource.getrlimit(resource.RLIMIT_NOFILE)[1], "a process started like this one"
    else:
        try:
            pid = _process(facts.client.url)
        except OwnerNotFound as error:
            yield unknown(f"the sidecar's process was not found: {error}", "run doctor on its machine, as its user")
            return
        files, whose = _hard_limit(pid), f"process {pid}"
    callers = SlotLimits.within(files, OWN_FILES, Limits()).connections
    if callers < FEW:
        yield warning(
            f"{whose} may have {files} open files, so that {callers} callers can be connected at once",
            "raise the hard limit: LimitNOFILE=20000 in the unit, ulimit -Hn in a shell",
        )
    else:
        yield ok(f"{whose} may have {files} open files: room for {callers} callers")


def _process(url: str) -> int:
    """The process that listens there. Raises :class:`OwnerNotFound`."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise OwnerNotFound(f"{url} has no port")
    owner = find_owner(resolve(HostPort(parts.hostname, parts.port)))
    os.close(owner.pidfd)
    return owner.pid


def _hard_limit(pid: int) -> int:
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max open files"):
            hard = line.split()[4]
            return 1_000_000 if hard == "unlimited" else int(hard)
    raise AssertionError("the kernel lists no limit of open files")
