"""What a part reports to the rest of the node."""

from __future__ import annotations

from typing import Protocol

from rumormill.membership.member_state import MemberState
from rumormill.membership.table import MemberChange


class Effects(Protocol):
    """The one way from a part back to parts that it does not hold. Each method runs at once, within the same step."""

    def table_changed(self, change: MemberChange) -> None:
        """A row was added, changed or removed."""

    def own_record_changed(self) -> None:
        """We have rewritten our own record."""

    def monitoring_outdated(self) -> None:
        """Our monitors and subjects must be computed again."""

    def instance_cloned(self) -> None:
        """Another process uses our keys: this machine was copied, or put back to an earlier state."""

    def name_contested(self, rival: MemberState, witness: MemberState | None) -> bool:
        """A member holds another instance of our name. True if we give way."""

    def connectivity_changed(self) -> None:
        """We became isolated, or isolated in another way, or connected."""

    def connectivity_restored(self) -> None:
        """We were isolated, and are connected again."""
