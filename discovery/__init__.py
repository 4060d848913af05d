"""What callers ask: who is in the pool, who serves this key, what happened.

`view` is the pure part: a PoolView in, encoded answers and their indexes out. The rest is the HTTP shell around it, on
trio streams, sharing the loop with gossip and never delaying it. This room may import `membership` (what is known) and
`ring` (who owns a key). Whatever it changes, it changes through the Commands that the sidecar hands it.

    schema     the JSON of answers and commands, and policy bodies    pure; the client library imports it too
    http       connections, requests, responses, access, limits       knows no route
    view       what callers see of a pool                             pure
    formats    the same for programs that people already run          pure
    api        the routes and what they answer
    server     one endpoint, wired together
    listeners  HAProxy's agent check and DNS, beside the endpoint

Nothing is imported here, so that a client of the schema loads no server.
"""
