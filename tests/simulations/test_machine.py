"""Stories of crashes, cuts and comebacks, judged by every law: a minute of them; ``make soak`` draws fresh ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from machine import PoolMachine

EXAMPLES = int(os.environ.get("RUMORMILL_SOAK", "1000"))
"""Stories to try; the soak sets it."""

TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=EXAMPLES,
    derandomize="RUMORMILL_SOAK" not in os.environ,  # a fixed budget of stories for everyone; the soak draws fresh ones
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
