"""``rumormill keys``: the group keys that seal gossip."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

import click

from rumormill.cli.exit_codes import EPILOG, BadRequest


@click.group(epilog=EPILOG)
def keys() -> None:
    """Make the keys that seal gossip.

    A key file holds one base64 key a line. All of them open what others sealed, the first one seals. Every member of a
    pool needs the same; whoever has it is a member.
    """


@keys.command(epilog=EPILOG)
@click.option("--out", required=True, metavar="FILE", help="Where to write it, mode 0600; - for standard output.")
def generate(out: str) -> None:
    """Write a new key to FILE; a file that exists is never overwritten.

    \b
      rumormill keys generate --out rumormill.key
      scp -p rumormill.key other-machine:          # every member needs the same
    """
    line = base64.b64encode(secrets.token_bytes(32)).decode() + "\n"
    if out == "-":
        click.echo(line, nl=False)
        return
    _write_new(Path(out), line)
    click.echo(f"Wrote a new key to {out}. Copy it to every member, mode 0600, and start them with --key-file {out}.")


def _write_new(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise BadRequest(f"{path} exists, and may be in use", "choose another --out, or move it away first") from None
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}", "choose a folder you may write to") from None
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
