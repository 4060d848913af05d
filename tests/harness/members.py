"""Members as a view of the pool shows them, for tests of what is made of such views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rumormill.membership.record import Liveness, Readiness
from rumormill.membership.view import Member


def member(name: str, **changes: Any) -> Member:
    """A member that passes its check; `changes` say what is different."""
    plain = Member(
        name=name,
        generation=1,
        instance=name.encode().ljust(16, b"-")[:16],
        incarnation=1,
        address=("127.0.0.1", 7946),
        service="embed",
        url=f"http://{name}.example:9001",
        zone="a",
        release="v1",
        weight=1000,
        readiness=Readiness.PASSING,
        tags={},
        liveness=Liveness.ALIVE,
        pending=False,
        since=100.0,
        why="joined",
    )
    return replace(plain, **changes)
