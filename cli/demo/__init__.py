"""The demonstration of a pool, and the tools that run a whole pool of processes on one machine.

It holds the worker program (an HTTP server that embeds text), the processes of workers and sidecars, a caller that
sends keyed requests, an observer of every sidecar's answers, and the scenario that uses them. ``rumormill demo``, the
benches and the end-to-end tests share these parts. They use the protocol, the endpoint and the client library through
their public interfaces only.

This file re-exports nothing. The worker program is in this package too, and should not import a screen library.
"""

__all__: tuple[str, ...] = ()
