"""Search for a story that breaks a law. A budget of about a minute; ``make soak`` searches on with fresh seeds."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from machine import PoolMachine

EXAMPLES = int(os.environ.get("RUMORMILL_SOAK", "60"))
"""Stories to try; the soak sets it."""

TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
