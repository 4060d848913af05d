"""A pool goes from the former wire version to this one and back, sidecar by sidecar, under load; bench/rolling.py does
it with sixteen."""

from __future__ import annotations

import pytest

from bench.rolling import former_missing, measure
from rumormill.membership.record import WIRE_VERSION


@pytest.mark.skipif(former_missing() is not None, reason=str(former_missing()))
async def test_a_pool_goes_up_a_version_and_back_down_without_an_eviction_or_a_failed_request() -> None:
    found = await measure(4, (False, True, False), rate=20.0, seed=1)
    assert found.versions == [[1], [1], [WIRE_VERSION], [1]]
    assert found.restarts == 12
    assert found.wrong == {}
    assert found.whole.requests > 0
    assert (found.whole.failed, found.whole.wrong) == (0, 0), found.whole.troubles
