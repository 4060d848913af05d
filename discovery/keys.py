"""The key ring over HTTP: which keys there are and who holds them, by id; and the three steps of a rotation.

A step waits until everyone present has been heard to hold the ring as it is, takes effect, and waits again until all
hold the new one. So each answer says whether the next step may be taken. A key itself comes in (to be installed) and
never goes out.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from rumormill.discovery.commands import Impossible, KeysAnswer
from rumormill.discovery.desk import Call, Desk, Response
from rumormill.discovery.query import ForceQuery, KeyQuery, NoQuery
from rumormill.discovery.response import prepare_json, refuse

SETTLING = 3.0
"""Seconds that everyone is given to say which ring it holds: many round trips."""
LOOK = 0.02


class KeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/keys``."""

    key: str
    """Base64 of 32 bytes, as in a key file."""


async def keys(desk: Desk, call: Call[NoQuery]) -> Response:
    del call
    return prepare_json(await _settled(desk))


async def install(desk: Desk, call: Call[ForceQuery]) -> Response:
    if not desk.confidential:
        raise refuse(
            403, "a key would cross the network in the clear", "ask over TLS, on loopback or over a unix socket"
        )
    try:
        body = msgspec.json.decode(call.request.body, type=KeyBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The error's own words may quote the body.
        raise refuse(400, "the body is not what this takes", 'send {"key": "BASE64 OF 32 BYTES"}') from None
    return await _step(desk, lambda: desk.commands.install_key(body.key), force=call.query.force)


async def use(desk: Desk, call: Call[KeyQuery]) -> Response:
    return await _step(desk, lambda: desk.commands.use_key(call.query.id), force=call.query.force)


async def remove(desk: Desk, call: Call[KeyQuery]) -> Response:
    return await _step(desk, lambda: desk.commands.remove_key(call.query.id), force=call.query.force)


async def _step(desk: Desk, act: Callable[[], None], *, force: bool) -> Response:
    if not force:
        _check_settled(await _settled(desk))
    try:
        act()
    except Impossible as error:
        raise refuse(409, error.detail, error.hint) from None
    desk.status.forget()
    return prepare_json(await _settled(desk))


async def _settled(desk: Desk) -> KeysAnswer:
    """Who holds what, once everyone has said so or the time is over."""
    answer = desk.commands.keys()
    with trio.move_on_after(SETTLING):
        while not answer.settled:
            await trio.sleep(LOOK)
            answer = desk.commands.keys()
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
        "try again in a moment; force=true does it all the same",
    )
