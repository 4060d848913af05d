"""``[MEMBER]``: the sidecar that a verb is for, by its member's name instead of its address."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from rumormill.cli.exit_codes import BadRequest, Refused
from rumormill.cli.http_client import SidecarClient
from rumormill.discovery.schema.answers import MemberRow, MembersAnswer

Command = TypeVar("Command", bound=Callable[..., Any])


def member_argument(command: Command) -> Command:
    """An optional name. The command gets the named member's sidecar in place of the one that is asked. It stands below
    ``sidecar_options``."""

    def with_member(sidecar: SidecarClient, member: str | None, **others: Any) -> Any:
        return command(sidecar if member is None else sidecar_of(sidecar, member), **others)

    with_member.__doc__ = command.__doc__
    with_member.__name__ = command.__name__
    with_member.__dict__.update(command.__dict__)
    return click.argument("member", required=False)(with_member)  # type: ignore[return-value]


def sidecar_of(sidecar: SidecarClient, name: str) -> SidecarClient:
    """The sidecar of a member of the pool, asked with the same credentials. Raises :class:`CliError`."""
    answer, _ = sidecar.get("/v1/members", {}, MembersAnswer)
    if name == answer.observer:
        return sidecar
    row = _present(answer, name)
    if not row.endpoint:
        raise Refused(
            f"the endpoint of {name} cannot be reached from other machines",
            f"run this on the machine of {name}, or give the address of its sidecar with --http",
        )
    scheme = "https" if sidecar.url.startswith("https:") else "http"
    return sidecar.at(f"{scheme}://{row.endpoint}")


def _present(answer: MembersAnswer, name: str) -> MemberRow:
    present = {row.name: row for row in answer.members if row.liveness in ("alive", "suspect") and not row.pending}
    if name in present:
        return present[name]
    close = difflib.get_close_matches(name, present, n=1)
    raise BadRequest(
        f"there is no member {name!r} in the pool",
        f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(present)[:20])}",
    )
