"""How long a test waits for something that must happen. A limit only tells a hang from a slow machine.

Each is at least ten times what the wait takes on an idle machine. Speed is not for tests to judge: bench measures it.
"""

LIVENESS_LIMIT = 120.0
"""Seconds, for one step of a real process or socket."""
WALKTHROUGH_LIMIT = 600.0
"""Seconds, for a whole demo, all commands of a document, or several simulations."""
