"""How news reaches everyone: broadcast and piggyback, anti-entropy sync, and pool policies."""
