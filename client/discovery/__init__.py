"""What the pool knows of its workers: it watches the sidecars, chooses whom to believe, and tells them what it does."""
