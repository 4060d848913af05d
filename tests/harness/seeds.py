"""The quick half of the tests: first seeds and short forms in `make test`, all others in `make test-seeds`."""

from typing import Any

import pytest

MORE_SEEDS = pytest.mark.seeds
"""Marks what `make test` leaves to `make test-seeds`."""


def seeds(count: int, quick: int = 1) -> list[Any]:
    """For parametrize: the seeds below ``count``, of which `make test` takes the first ``quick``."""
    return [seed if seed < quick else pytest.param(seed, marks=MORE_SEEDS) for seed in range(count)]
