"""The transports that an HTTP client takes, and what a caller gets when no worker can serve."""
