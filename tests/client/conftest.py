"""The stage in a thread of its own, for tests of synchronous pools."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stage import StageInThread, stage_in_thread


@pytest.fixture
def scene() -> Iterator[StageInThread]:
    with stage_in_thread() as scene:
        yield scene
