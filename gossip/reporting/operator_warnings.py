"""What our own operator is told of others that cannot come in, or do not let us in: in words, and not too often.

Anybody may cause such a line. So there is one of each kind about each address in ten seconds, and at most four of a
kind: whoever knocks with the wrong key does not hide that somebody else has no identity.
"""

from __future__ import annotations

import math

from rumormill.membership.record import Address

TELL_EVERY = 10.0
"""Seconds between two lines of one kind about one address. Larger: trouble that goes on looks as if it had ended."""
ADDRESSES_OF_A_KIND = 4
TROUBLE_LASTS = 30.0


class OperatorWarnings:
    """Decides which lines are due, and remembers the last that says why *we* are not let in. Times in seconds."""

    def __init__(self) -> None:
        self._told: dict[str, dict[Address, float]] = {}
        """By kind, of which there are a handful: when each address was last spoken of."""
        self._trouble, self._trouble_at = "", -math.inf

    def due(self, kind: str, source: Address, now: float) -> bool:
        """Whether a line of this kind about this source may be told now; if so, it counts as told."""
        told = self._told.get(kind, {})
        self._told[kind] = told = {spoken: at for spoken, at in told.items() if now - at < TELL_EVERY}
        if source in told or len(told) >= ADDRESSES_OF_A_KIND:
            return False
        told[source] = now
        return True

    def note_problem(self, text: str, now: float) -> None:
        """Why somebody we tried to reach does not let us in, as far as we know: shown by ``status`` for a while."""
        self._trouble, self._trouble_at = text, now

    def last_problem(self, now: float) -> str:
        """What was noted lately; empty when nothing."""
        return self._trouble if now - self._trouble_at < TROUBLE_LASTS else ""


def address_text(address: Address) -> str:
    """An address as people write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
