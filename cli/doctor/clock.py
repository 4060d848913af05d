"""Do the wall clocks agree? No decision of the pool rests on them, but certificates, events and dashboards do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, unknown, warning
from rumormill.cli.exit_codes import CliError

MOST_SKEW: Final = 3.0
"""Seconds. A Date header has whole seconds, and ours is up to half a second old."""


def check(facts: Facts) -> Iterator[Finding]:
    clients = [*([facts.client] if facts.status else []), *facts.peers]
    for client in clients:
        try:
            skew = client.wall_clock() - time.time()
        except CliError as error:
            yield unknown(error.message, error.hint)
            continue
        if abs(skew) > MOST_SKEW:
            way = "ahead of" if skew > 0 else "behind"
            yield warning(
                f"the clock of {client.url} is {abs(skew):.0f} s {way} this machine's",
                "synchronize both with NTP (chronyc tracking, timedatectl)",
            )
        else:
            yield ok(f"the clock of {client.url} agrees with this machine's")
    if not facts.peers:
        yield unknown("other machines' clocks were not compared", "give --peer URL of other sidecars")
