"""``rumormill run``: one command that starts a worker and its sidecar, and supervises both.

Two processes, so that neither takes the other with it: a sidecar that crashes is started again while the worker keeps
its loaded model. The supervisor itself only waits for signals. It holds no connection and reads no network.
"""
