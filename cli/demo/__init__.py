"""The pool shown at work, and the machinery that runs a whole pool of processes on one machine.

What may enter: the worker program (a real HTTP server that embeds text), processes of workers and sidecars started,
killed, frozen and swept up again, a caller with a keyed stream, an observer of every sidecar's answers, and the story
told with them. ``rumormill demo``, the benches and the end-to-end tests share these parts. The protocol, the endpoint
and the client library are used here as anyone would use them, over their public faces.

Modules are imported one by one, and this file re-exports nothing: the worker program starts in this package too, and
should not wait for a screen library it never draws with.
"""

__all__: tuple[str, ...] = ()
