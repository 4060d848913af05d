"""Does this member hear the others, and they it?"""

from __future__ import annotations

from collections.abc import Iterator

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem, unknown, warning


def check(facts: Facts) -> Iterator[Finding]:
    status = facts.status
    if status is None:
        yield unknown("the sidecar does not answer")
        return
    if status.isolated:
        yield problem(
            f"{status.connectivity}: {status.connectivity_why}",
            "look for what drops UDP between the machines: a firewall, a security group, a one-way route",
        )
    if status.seal_trouble:
        yield problem(status.seal_trouble, "give every member the same key file: rumormill keys list")
    if not status.joined and facts.settings.join:
        yield problem("no other member has been found", "see the findings on the seeds")
    elif not status.joined:
        yield warning("it is alone, and has no seeds to join", "give --join HOST:PORT of any other member")
    if status.joined and not status.isolated and not status.seal_trouble:
        yield ok(f"{status.peers} other members are heard")
