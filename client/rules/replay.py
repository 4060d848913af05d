"""Which requests may be sent a second time. Pure.

Until a request has been sent, moving on to another worker is always safe, and these rules do not apply. Once it may
have been sent, a worker may have acted on it. Only the caller can say whether acting on it twice is harmless.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Literal, get_args

Replay = Literal["idempotent", "always", "never"]
"""``idempotent``: idempotent methods (RFC 9110, 9.2.2), and any request with an `Idempotency-Key`. ``always``: the
service has no side effects, as for embeddings. ``never``: no request that may have been sent is sent again."""

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


def checked_replay(mode: str) -> Replay:
    """The mode. Raises a ValueError that names the choices."""
    for choice in get_args(Replay):
        if mode == choice:
            return choice  # type: ignore[no-any-return]
    raise ValueError(f"replay={mode!r} is unknown; choose one of {', '.join(map(repr, get_args(Replay)))}")


def why_not_replayable(mode: Replay, method: str, headers: Container[str], *, one_shot: bool) -> str | None:
    """Why the request must not be sent twice, for people. None if it may. `headers` holds names in
    lower case. A `one_shot` body can be read only once."""
    if mode == "never":
        return 'replay="never" forbids it'
    if one_shot:
        return "its body is a stream that is too long to keep and can be sent only once"
    if mode == "always" or method.upper() in IDEMPOTENT_METHODS or "idempotency-key" in headers:
        return None
    return f'{method} is not idempotent, and the request has no Idempotency-Key; replay="always" would allow it'
