"""What the checks look at: the settings, and what sidecars that run say."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rumormill.cli.exit_codes import CliError
from rumormill.cli.http_client import SidecarClient
from rumormill.discovery.commands import SettingValue, Status
from rumormill.discovery.schema.answers import MemberRow, MembersAnswer
from rumormill.sidecar import load
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import HostPort


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is known before the checks begin."""

    settings: Settings
    client: SidecarClient
    """Asks the sidecar of these settings."""
    status: Status | None = None
    """None if that sidecar does not answer."""
    silence: str = ""
    """Why it does not."""
    members: Sequence[MemberRow] = ()
    """As it holds them; where it does not answer, as the first peer that does."""
    peers: Sequence[SidecarClient] = field(default=())
    """Other sidecars, to compare with."""

    @property
    def gossip(self) -> str:
        """Where the others reach this member, HOST:PORT."""
        return self.status.gossip if self.status is not None else str(self.settings.advertised_address)

    @property
    def present(self) -> list[MemberRow]:
        """The members held alive or suspect."""
        return [row for row in self.members if row.liveness in ("alive", "suspect")]


def gather(client: SidecarClient, peers: Sequence[SidecarClient], config: Path | None, *, at_default: bool) -> Facts:
    """Ask the sidecars. The settings are those of the file, or those in force at the sidecar that `client` asks.

    `at_default`: nobody has said where that sidecar is, so that a file of settings tells.

    Raises AgentError for settings that no agent takes, and :class:`CliError` if there is neither a sidecar that answers
    nor a file.
    """
    settings = load({}, os.environ, config) if config is not None else None
    if settings is not None and at_default:
        client = client.at(_endpoint(settings))
    status, silence = None, ""
    try:
        status = client.get("/v1/status", {}, Status)[0]
    except CliError as error:
        if settings is None:
            raise
        silence = error.message
    if settings is None:
        assert status is not None  # noqa: S101  for the type checker
        settings = load(_given(status.settings), {})
    return Facts(settings, client, status, silence, _members([client, *peers]), peers)


def _endpoint(settings: Settings) -> str:
    """The URL of the endpoint of these settings, from this machine."""
    http = settings.http
    if http.path:
        return f"unix:{http.path}"
    loopback = "::1" if http.family == socket.AF_INET6 else "127.0.0.1"
    scheme = "https" if settings.http_cert else "http"
    return f"{scheme}://{HostPort(loopback if http.wildcard else http.host, http.port)}"


def _given(shown: Mapping[str, SettingValue]) -> dict[str, Any]:
    """The settings that a sidecar shows, as flags."""
    return {key: value for key, value in shown.items() if value not in (None, "", [], False)}


def _members(clients: Sequence[SidecarClient]) -> Sequence[MemberRow]:
    for client in clients:
        try:
            return client.get("/v1/members", {}, MembersAnswer)[0].members
        except CliError:
            continue
    return ()
