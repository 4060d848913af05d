"""``rumormill debug``: what somebody else needs to find a fault, in one file."""

from __future__ import annotations

import io
import os
import platform
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from rumormill.cli.doctor.command import examine
from rumormill.cli.exit_codes import EPILOG, BadRequest, CliError
from rumormill.cli.http_client import SidecarClient, sidecar_options
from rumormill.discovery.commands import Status
from rumormill.sidecar import AgentError
from rumormill.sidecar.settings_sources import load_with_origins

ANSWERS: Final[Mapping[str, str]] = {
    "status.json": "/v1/status",
    "pool.json": "/v1/pool",
    "workers.json": "/v1/workers",
    "members.json": "/v1/members",
    "events.json": "/v1/events",
    "policies.json": "/v1/policy/history",
    "load.json": "/v1/load",
    "metrics.txt": "/metrics",
}
"""What is asked of the sidecar, by the file that it goes to."""
SECRET_FILES: Final = (
    "key-file",
    "policy-key",
    "identity-file",
    "http-token-file",
    "http-change-token-file",
    "http-key",
)
COMMANDS: Final = ("on-passing", "on-warning", "on-critical", "on-draining", "on-change")
HIDDEN: Final = "[not shown]"
SHORTEST_SECRET: Final = 4


@click.group(epilog=EPILOG)
def debug() -> None:
    """Save what somebody else needs to find a fault."""


@debug.command(epilog=EPILOG)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: rumormill-NAME-TIME.tar.gz here."
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The agent's file, to add where settings come from.",
)
@click.option("--record", is_flag=True, help="Add the flight recorder's record of the last minutes (some megabytes).")
@sidecar_options
def bundle(client: SidecarClient, out: Path | None, config: Path | None, record: bool) -> None:
    """Save the state of a sidecar and of its machine to one file, without secrets.

    \b
      rumormill debug bundle
      rumormill debug bundle --record --config agent.toml --out fault.tar.gz

    It holds the sidecar's answers (status, pool, workers, members, events, policies, load, metrics), the settings, what
    `rumormill doctor` finds, and versions. It contains no keys and no tokens: text that equals one of them is removed.
    Names, addresses, URLs and tags are in it. Read it before you send it.
    """
    made = dict(_parts(client, config, record=record))
    hidden = _secrets(client, made.get("status.json", b""))
    made = {name: _without(content, hidden) for name, content in made.items()}
    path = out or Path(f"rumormill-{_name_in(made)}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz")
    try:
        path.write_bytes(_archive(path.name.removesuffix(".tar.gz"), made))
        path.chmod(0o600)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}", "give another file with --out") from None
    click.echo(f"{path}: {', '.join(made)}. Read it before you send it: names, addresses and URLs are in it.")


def _parts(client: SidecarClient, config: Path | None, *, record: bool) -> Iterator[tuple[str, bytes]]:
    """The files. What cannot be had is told in errors.txt, because faults are what a bundle is for."""
    errors = []
    wanted = {**ANSWERS, **({"record.rumor": "/v1/record"} if record else {})}
    for name, path in wanted.items():
        try:
            content = client.download(path)
            yield name, _hide_commands(content) if name == "status.json" else content
        except CliError as error:
            errors.append(f"{name}: {error.message}")
    try:
        yield "doctor.json", _json(list(examine(client, [], config)))
    except CliError as error:
        errors.append(f"doctor.json: {error.message}")
    if config is not None:
        try:
            yield "settings.json", _json(_settings(config))
        except AgentError as error:
            errors.append(f"settings.json: {error.message}; {error.hint}")
    yield "versions.json", _json(_versions())
    if errors:
        yield "errors.txt", "".join(f"{line}\n" for line in errors).encode()


def _settings(config: Path) -> list[dict[str, Any]]:
    """Every setting with where it comes from."""
    settings, origins = load_with_origins({}, os.environ, config)
    values: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    return [
        {"setting": key, "value": HIDDEN if key in COMMANDS and value else value, "origin": origins.get(key, "default")}
        for key, value in values.items()
    ]


def _hide_commands(status: bytes) -> bytes:
    """The status without the text of the operator's commands: only they know what stands in them."""
    shown = msgspec.json.decode(status)
    for key in COMMANDS:
        if shown["settings"].get(key):
            shown["settings"][key] = HIDDEN
    return _json(shown)


def _versions() -> dict[str, Any]:
    return {
        "taken_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "python": sys.version,
        "machine": platform.uname()._asdict(),
        "system": platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {},
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
        "seconds_since_boot": round(time.clock_gettime(time.CLOCK_BOOTTIME)),
        "packages": {one.name: one.version for one in distributions()},
    }


def _secrets(client: SidecarClient, status: bytes) -> list[bytes]:
    """What stands in the files of keys and tokens, as far as they can be read here."""
    try:
        settings = msgspec.json.decode(status, type=Status).settings
    except msgspec.DecodeError:
        settings = {}
    named = [str(settings[key]) for key in SECRET_FILES if settings.get(key)]
    found = [client.token] if client.token else []
    for path in named:
        try:
            found += [line.strip() for line in Path(path).read_text().splitlines() if not line.startswith(("#", "-"))]
        except (OSError, UnicodeDecodeError):
            continue
    return sorted({text.encode() for text in found if len(text) >= SHORTEST_SECRET}, key=len, reverse=True)


def _without(content: bytes, hidden: Iterable[bytes]) -> bytes:
    for secret in hidden:
        content = content.replace(secret, HIDDEN.encode())
    return content


def _name_in(made: Mapping[str, bytes]) -> str:
    """The member's name as a part of a file name."""
    try:
        name = msgspec.json.decode(made.get("status.json", b""), type=Status).name
    except msgspec.DecodeError:
        return "unknown"
    return "".join(sign if sign.isalnum() or sign in "-." else "_" for sign in name)


def _archive(folder: str, made: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in made.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1)
