"""Can the key file be used, and how old are the keys?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem, warning
from rumormill.sidecar import AgentError
from rumormill.sidecar.key_file import read_key_file

DAY: Final = 86400
OLD: Final = 180
"""Days after which a key should be replaced."""


def check(facts: Facts) -> Iterator[Finding]:
    path = facts.settings.key_file
    if path is None:
        return
    try:
        keys = read_key_file(path)
        age = (time.time() - path.stat().st_mtime) / DAY
    except AgentError as error:
        yield problem(error.message, error.hint)
        return
    except OSError as error:
        yield problem(f"key file {path}: {error.strerror}", "run doctor as the user of the agent")
        return
    count = len(keys.ring.keys)
    if age > OLD:
        yield warning(
            f"the keys in {path} have not changed for {age:.0f} days",
            "replace them: rumormill keys generate, install, use, remove (docs/run/keys.md)",
        )
    else:
        yield ok(f"{path} holds {count} key{'s' * (count != 1)}, {age:.0f} days old")
