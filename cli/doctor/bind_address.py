"""Can the others reach the address that this member gossips on?"""

from __future__ import annotations

from collections.abc import Iterator

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem, warning
from rumormill.cli.doctor.seeds import resolved
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import HostPort


def check(facts: Facts) -> Iterator[Finding]:
    settings = facts.settings
    address = settings.advertised_address
    if not (settings.gossip.loopback or address.loopback):
        yield ok(f"gossip is on {address}")
        return
    elsewhere = list(_elsewhere(settings))
    for seed, host in elsewhere:
        yield problem(
            f"gossip is on {address}, which only this machine reaches, and the seed {seed} is at {host}",
            "give --gossip the address of this machine on that network",
        )
    if not elsewhere and not settings.join:
        yield warning(
            f"gossip is on {address}: only members on this machine can join",
            "for a pool of several machines give --gossip an address that they reach",
        )
    elif not elsewhere:
        yield ok(f"gossip is on {address}, and all seeds are on this machine")


def _elsewhere(settings: Settings) -> Iterator[tuple[HostPort, str]]:
    """The seeds on other machines."""
    for seed in settings.join:
        try:
            hosts = [HostPort(*address) for address in resolved(seed, settings)]
        except (OSError, UnicodeError):
            continue
        if hosts and not any(host.loopback or host.of_this_machine for host in hosts):
            yield seed, hosts[0].host
