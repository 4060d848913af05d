"""Does the sidecar run, and are the settings it was last given in force?"""

from __future__ import annotations

from collections.abc import Iterator

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem


def check(facts: Facts) -> Iterator[Finding]:
    status = facts.status
    if status is None:
        yield problem(
            facts.silence,
            "start it: rumormill agent --config FILE; its last log lines say why it has ended "
            "(journalctl -u rumormill@NAME)",
        )
        return
    if status.settings_trouble:
        yield problem(
            f"settings are not in force: {status.settings_trouble}", "correct the file, then: rumormill reload"
        )
    if status.unready and not status.draining:
        yield problem(f"it takes no new work: {status.unready}", "see the finding on the worker below")
    if not (status.settings_trouble or status.unready):
        yield ok(f"{status.name} answers at {facts.client.url} and takes work")
    elif status.draining:
        yield ok(f"{status.name} is draining, as it was told")
