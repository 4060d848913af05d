"""The HTTP server itself: connections, requests, responses, access, and the bounds on what a caller may cost."""
