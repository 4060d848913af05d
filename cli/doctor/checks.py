"""All checks, in the order in which they are shown: what hides other faults comes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from rumormill.cli.doctor import (
    bind_address,
    certificate,
    clock,
    connection,
    endpoint,
    key_file,
    member_name,
    open_files,
    path_mtu,
    period,
    plaintext,
    receive_buffer,
    seeds,
    worker,
)
from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding

Check = Callable[[Facts], Iterable[Finding]]

CHECKS: Final[Mapping[str, Check]] = {
    "sidecar": endpoint.check,
    "name": member_name.check,
    "connection": connection.check,
    "seeds": seeds.check,
    "gossip address": bind_address.check,
    "mtu": path_mtu.check,
    "period": period.check,
    "seal": plaintext.check,
    "keys": key_file.check,
    "certificate": certificate.check,
    "worker": worker.check,
    "clock": clock.check,
    "open files": open_files.check,
    "receive buffer": receive_buffer.check,
}
