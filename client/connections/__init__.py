"""The connections to each worker, the requests in flight on them, and the check of a worker that was evicted."""
