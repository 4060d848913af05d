"""Has another live member this member's name?"""

from __future__ import annotations

from collections.abc import Iterator

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem, unknown

DO = "give every member a name of its own: --name"


def check(facts: Facts) -> Iterator[Finding]:
    status, name = facts.status, facts.settings.name
    if status is not None and status.stopped:
        yield problem(status.stopped, DO)
        return
    holders = [row for row in facts.present if row.name == name and row.address != facts.gossip]
    if holders:
        yield problem(f"the name {name} is taken: it is that of the member at {holders[0].address}", DO)
    elif facts.members:
        yield ok(f"no other member is called {name}")
    else:
        yield unknown("nobody was there to ask", "give --peer URL of another sidecar")
