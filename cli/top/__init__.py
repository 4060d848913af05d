"""``rumormill top``: the pool in a terminal, live. The screen is textual's, an extra that only this verb imports."""
