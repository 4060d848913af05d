"""Stories of crashes, cuts and comebacks, judged by every invariant.

`make test` draws a hundred, `make test-seeds` a thousand, the same for everyone. `make soak` draws fresh ones.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from machine import PoolMachine
from seeds import MORE_SEEDS

SOAK = int(os.environ.get("RUMORMILL_SOAK", "0"))
"""How many fresh stories to try instead; the soak sets it."""


def stories(examples: int) -> settings:
    return settings(
        max_examples=SOAK or examples,
        derandomize=not SOAK,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


class TestPool(PoolMachine.TestCase):  # type: ignore[name-defined,misc]  # a class that hypothesis makes
    settings = stories(100)


@MORE_SEEDS
class TestPoolWithMoreStories(PoolMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = stories(1000)
