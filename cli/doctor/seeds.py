"""Can each seed be resolved, and does a member of our pool answer there?"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem, unknown, warning
from rumormill.cli.doctor.knock import knock
from rumormill.gossip.reporting.operator_warnings import address_text
from rumormill.membership.record import Address
from rumormill.sidecar import AgentError
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import HostPort

MOST_ADDRESSES: Final = 4
"""Addresses of one seed that are tried. A name may resolve to a whole pool."""


def check(facts: Facts) -> Iterator[Finding]:
    if not facts.settings.join:
        yield ok("there are none: this member waits to be joined")
    present = {row.address for row in facts.present}
    for seed in facts.settings.join:
        yield _look_at(facts, seed, present)


def _look_at(facts: Facts, seed: HostPort, present: set[str]) -> Finding:
    settings = facts.settings
    try:
        addresses = resolved(seed, settings)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return problem(f"{seed} does not resolve: {reason}", "correct the name in --join, or this machine's resolver")
    others = [address for address in addresses if address_text(address) != facts.gossip][:MOST_ADDRESSES]
    if not others:
        return warning(f"{seed} is this member itself", "give the address of another member with --join")
    if any(address_text(address) in present for address in others):
        return ok(f"{seed} is a member of the pool")
    try:
        troubles = [(address, knock(settings, address)) for address in others]
    except AgentError as error:
        return unknown(f"{seed} cannot be asked: {error.message}", error.hint)
    if not all(trouble for _, trouble in troubles):
        return ok(f"{seed} answers")
    said = "; ".join(f"{address_text(address)}: {trouble}" for address, trouble in troubles)
    return problem(
        f"{seed} is unreachable: {said.removeprefix(f'{seed}: ')}",
        "start the member there, open its UDP port both ways, and compare --cluster and the key file",
    )


def resolved(seed: HostPort, settings: Settings) -> list[Address]:
    """The addresses of a seed. Raises OSError or UnicodeError."""
    found = socket.getaddrinfo(seed.host, seed.port, settings.gossip.family, socket.SOCK_DGRAM)
    return list(dict.fromkeys((str(one[4][0]), int(one[4][1])) for one in found))
