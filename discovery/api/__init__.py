"""What callers may ask: the routes, their handlers, and what the handlers share."""
