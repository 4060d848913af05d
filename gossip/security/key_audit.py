"""The result of asking all present members which group keys they hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyAudit:
    """Which members hold which keys, as far as they have reported."""

    version: int
    primary: str
    holders: dict[str, int]
    """How many present members hold each key, ourselves included; every key that anybody holds."""
    members: int
    unanswered: tuple[str, ...]
    """Names of present members that have not reported yet."""
    behind: tuple[str, ...]
    """Names of members that hold another ring than ours."""

    @property
    def settled(self) -> bool:
        """Whether all present members hold our ring."""
        return not self.unanswered and not self.behind
