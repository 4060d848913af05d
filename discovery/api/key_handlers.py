"""The key ring over HTTP: which keys exist, which members hold them, and the three steps of a rotation.

A caller that changes keys must hold one of them. The right to make other changes is not enough: a local program could
install a key of its own and become a member. The header ``Rumormill-Key-Proof`` proves possession. It covers this run
of the sidecar and the whole request (:func:`proof_text`).

A step waits until every present member is known to hold the current ring. It then takes effect, and waits until all
hold the new ring. So each answer says whether the next step is safe. Keys are accepted for installation and are never
returned.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from rumormill.discovery.api.context import ApiContext, RequestContext
from rumormill.discovery.commands import CommandRejected, KeysAnswer
from rumormill.discovery.http.response import Response, prepare_json, refuse
from rumormill.discovery.schema.key_proof import proof_text
from rumormill.discovery.schema.query_params import ForceQuery, KeyQuery, NoQuery

SETTLE_TIMEOUT = 3.0
"""Seconds for all members to report which ring they hold: many round trips."""
POLL_INTERVAL = 0.02


class KeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/keys``."""

    key: str
    """Base64 of 32 bytes, as in a key file."""

    def __repr__(self) -> str:
        """Without the key."""
        return "KeyBody()"


async def keys(api: ApiContext, call: RequestContext[NoQuery]) -> Response:
    del call
    return prepare_json(await _wait_until_settled(api))


def _check_proof(api: ApiContext, call: RequestContext[Any]) -> None:
    request = call.request
    target = request.target.decode("latin-1")
    text = proof_text(api.process, request.method.decode("ascii"), target, request.body)
    try:
        proof = binascii.unhexlify(request.headers.get(b"rumormill-key-proof", b""))
    except binascii.Error:
        proof = b""
    if not api.commands.proves_key(proof, text):
        raise refuse(
            403,
            "only a caller that holds a key of this pool may change keys",
            "rumormill keys … --key-file FILE, as its user: FILE is the sidecar's own key file",
        )


async def install(api: ApiContext, call: RequestContext[ForceQuery]) -> Response:
    _check_proof(api, call)
    if not api.confidential:
        raise refuse(
            403, "a key would cross the network unencrypted", "ask over TLS, on loopback or over a unix socket"
        )
    try:
        body = msgspec.json.decode(call.request.body, type=KeyBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The decoder's message may quote the key.
        raise refuse(400, "the body is not valid", 'send {"key": "BASE64 OF 32 BYTES"}') from None
    return await _step(api, lambda: api.commands.install_key(body.key), force=call.query.force)


async def use(api: ApiContext, call: RequestContext[KeyQuery]) -> Response:
    _check_proof(api, call)
    return await _step(api, lambda: api.commands.use_key(call.query.id), force=call.query.force)


async def remove(api: ApiContext, call: RequestContext[KeyQuery]) -> Response:
    _check_proof(api, call)
    return await _step(api, lambda: api.commands.remove_key(call.query.id), force=call.query.force)


async def _step(api: ApiContext, act: Callable[[], None], *, force: bool) -> Response:
    if not force:
        _check_settled(await _wait_until_settled(api))
    try:
        act()
    except CommandRejected as error:
        raise refuse(409, error.detail, error.hint) from None
    api.status.invalidate()
    return prepare_json(await _wait_until_settled(api))


async def _wait_until_settled(api: ApiContext) -> KeysAnswer:
    """Which member holds which keys, after all have reported or the time is over."""
    answer = api.commands.keys()
    with trio.move_on_after(SETTLE_TIMEOUT):
        while not answer.settled:
            await trio.sleep(POLL_INTERVAL)
            answer = api.commands.keys()
    return answer


def _check_settled(answer: KeysAnswer) -> None:
    lagging = [*answer.unanswered, *answer.behind]
    if not lagging:
        return
    shown = ", ".join(lagging[:8]) + (", …" if len(lagging) > 8 else "")
    what = "has not said which keys it holds" if answer.unanswered else "holds other keys"
    raise refuse(
        409,
        f"{len(lagging)} of {answer.members} members could be cut off: {shown} {what}",
        "try again in a moment; force=true does it anyway",
    )
