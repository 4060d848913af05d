"""Warnings to our own operator about nodes that cannot join, or do not let us join, at a limited rate.

Anybody can cause such a warning. So there is at most one of each kind about each address in ten seconds, and at most
four of a kind. A node with a wrong key cannot hide that another one has no identity.
"""

from __future__ import annotations

import math

from rumormill.membership.record import Address

WARN_EVERY = 10.0
"""Seconds between two warnings of one kind about one address. Larger: a lasting problem looks as if it had ended."""
ADDRESSES_OF_A_KIND = 4
PROBLEM_SECONDS = 30.0


class OperatorWarnings:
    """Decides which warnings are due, and remembers the last reason why *we* cannot join. Times in seconds."""

    def __init__(self) -> None:
        self._last_warned: dict[str, dict[Address, float]] = {}
        """By kind, of which there are a handful: when we last warned about each address."""
        self._problem, self._problem_at = "", -math.inf

    def due(self, kind: str, source: Address, now: float) -> bool:
        """Whether a warning of this kind about this address may be given now. If so, it counts as given."""
        warned = self._last_warned.get(kind, {})
        self._last_warned[kind] = warned = {address: at for address, at in warned.items() if now - at < WARN_EVERY}
        if source in warned or len(warned) >= ADDRESSES_OF_A_KIND:
            return False
        warned[source] = now
        return True

    def note_problem(self, text: str, now: float) -> None:
        """Remember why a node does not let us join, as far as we know. ``status`` shows it for a while."""
        self._problem, self._problem_at = text, now

    def last_problem(self, now: float) -> str:
        """The last problem, if it is recent; otherwise empty."""
        return self._problem if now - self._problem_at < PROBLEM_SECONDS else ""


def address_text(address: Address) -> str:
    """An address as people write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
