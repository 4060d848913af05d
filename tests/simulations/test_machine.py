"""Stories of crashes, cuts and comebacks, judged by every invariant.

`make test` draws 25, `make test-seeds` a thousand, the same for everyone. `make soak` draws fresh ones.
"""

from __future__ import annotations

import os

from machine import PoolMachine, stories
from seeds import MORE_SEEDS

SOAK = int(os.environ.get("RUMORMILL_SOAK", "0"))
"""How many fresh stories to try instead; the soak sets it."""


class TestPool(PoolMachine.TestCase):  # type: ignore[name-defined,misc]  # a class that hypothesis makes
    settings = stories(SOAK or 25, steps=20, fresh=SOAK > 0)


@MORE_SEEDS
class TestPoolWithMoreStories(PoolMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = stories(1000, steps=20)
