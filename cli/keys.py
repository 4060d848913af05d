"""``rumormill keys``: the group keys that seal gossip, made here and changed while the pool runs."""

from __future__ import annotations

import base64
import os
import re
import secrets
from pathlib import Path
from urllib.parse import urlencode

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rumormill.cli.exit_codes import EPILOG, BadRequest
from rumormill.cli.http_client import Command, SidecarClient, output_option, sidecar_options
from rumormill.cli.queries import write_json
from rumormill.cli.tables import Column, show_line, show_table
from rumormill.discovery.api.key_handlers import proof_text
from rumormill.discovery.commands import KeyRow, KeysAnswer
from rumormill.gossip.security.credentials import Issuer
from rumormill.gossip.security.keyring import KeyRing, key_name_of, proof_of
from rumormill.membership.record import MAX_NAME_BYTES
from rumormill.sidecar import SettingsError
from rumormill.sidecar.identity import read_issuer
from rumormill.sidecar.key_file import read_key_file
from rumormill.sidecar.secrets import POLICY_PRIVATE, POLICY_PUBLIC

PRIVATE_MODE, PUBLIC_MODE = 0o600, 0o644


@click.group(epilog=EPILOG)
def keys() -> None:
    """Make the keys that seal gossip, and change them while the pool runs.

    A key file holds one base64 key a line. All of them open what others sealed, the first one seals. Every member of a
    pool needs the same; whoever has it is a member.

    \b
    To change keys without losing a datagram, at any one sidecar:
      export RUMORMILL_KEY_FILE=pool.key  # the sidecar's own: who changes keys must hold one
      rumormill keys generate --out new.key
      rumormill keys install new.key      # every member accepts it
      rumormill keys use new.key          # every member seals with it
      rumormill keys remove OLD-ID        # once nobody sleeps: nobody accepts the old one
    Each step reaches every member by gossip, and is refused while somebody
    present could be cut off by it. Every sidecar writes its own key file anew.
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


@keys.command(epilog=EPILOG)
@click.option("--out", required=True, metavar="FILE", help="Where to write the private key, mode 0600.")
def ca(out: str) -> None:
    """Make an authority: from then on only names it issues can be members.

    Writes its private key to FILE, which belongs on no member, and its public key to FILE.pub, which every member is
    given with --ca-file.

    \b
      rumormill keys ca --out pool.ca
      rumormill keys issue w1 --ca pool.ca --out w1.identity
      rumormill agent --name w1 ... --ca-file pool.ca.pub --identity-file w1.identity
    """
    issuer = Issuer(secrets.token_bytes(32))
    _write_new(Path(out), issuer.to_text())
    _write_new(Path(f"{out}.pub"), issuer.authority.to_text(), PUBLIC_MODE)
    click.echo(
        f"Wrote an authority's private key to {out}, and its public key to {out}.pub. Keep the first off the pool."
    )


@keys.command(epilog=EPILOG)
@click.argument("name")
@click.option(
    "--ca", "authority", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Its private key."
)
@click.option("--out", required=True, metavar="FILE", help="Where to write the identity, mode 0600.")
def issue(name: str, authority: Path, out: str) -> None:
    """Issue NAME: write the identity with which a member may go by it.

    An identity is good for as long as its authority is in use; to take one back, make a new authority.
    """
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES or not name.isprintable() or name != name.strip() or "#" in name:
        raise BadRequest(f"{name!r} cannot be a member's name", f"1 to {MAX_NAME_BYTES} printable bytes, without #")
    try:
        credential = read_issuer(authority).issue(name, secrets.token_bytes)
    except SettingsError as error:
        raise BadRequest(error.message, error.hint) from None
    _write_new(Path(out), credential.to_text())
    click.echo(f"Issued {name} in {out}. Start it with --identity-file {out} and the authority's --ca-file.")


def _changing(command: Command) -> Command:
    """Adds what the three steps of a rotation take beside their key."""
    for option in (
        click.option("--force", is_flag=True, help="Even where that cuts members off for a moment."),
        click.option(
            "--key-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            envvar="RUMORMILL_KEY_FILE",
            required=True,
            help="The pool's own key file: who changes keys must hold one.",
        ),
    ):
        command = option(command)
    return command


def _change(
    sidecar: SidecarClient, method: str, query: dict[str, str], key_file: Path, output: str, body: bytes = b""
) -> None:
    """One step, with the proof that whoever asks for it holds a key of the pool."""
    now, _ = sidecar.get("/v1/keys", {}, KeysAnswer)
    target = "/v1/keys" + ("?" + urlencode(query) if query else "")
    accepted = {key.id for key in now.keys if key.accepted}
    held = _read_ring(key_file).keys
    key = next((key for key in held if key_name_of(key) in accepted), held[0])
    proof = proof_of(key, proof_text(now.process, method, target, body))
    _show(*sidecar.command(method, target, KeysAnswer, body, {"Rumormill-Key-Proof": proof.hex()}), output)


@keys.command("policy", epilog=EPILOG)
@click.option("--out", required=True, metavar="FILE", help="Where to write the private half; FILE.pub has the public.")
def policy_key(out: str) -> None:
    """Make the key that policies (canary shares, maintenance, zone) are signed by.

    Members started with --policy-key believe only what it signed. Give the
    private half to those at which you steer, the public half to the others.

    \b
      rumormill keys policy --out policy.key
      rumormill agent … --policy-key policy.key        # may be steered at
      rumormill agent … --policy-key policy.key.pub    # checks only
    """
    private = Ed25519PrivateKey.generate()
    public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    _write_new(Path(out), f"{POLICY_PRIVATE} {base64.b64encode(private.private_bytes_raw()).decode()}\n")
    _write_new(Path(f"{out}.pub"), f"{POLICY_PUBLIC} {public}\n", PUBLIC_MODE)
    click.echo(f"Wrote the private half to {out}, mode 0600, and the public one to {out}.pub.")


@keys.command("list", epilog=EPILOG)
@sidecar_options
@output_option
def list_keys(sidecar: SidecarClient, output: str) -> None:
    """Show the keys by id, who seals with which, and how many members hold each."""
    _show(*sidecar.get("/v1/keys", {}, KeysAnswer), output)


@keys.command(epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@_changing
@sidecar_options
@output_option
def install(sidecar: SidecarClient, output: str, file: Path, key_file: Path, force: bool) -> None:
    """Make every member accept the (first) key of FILE as well."""
    body = msgspec.json.encode({"key": base64.b64encode(_read_key(file)).decode()})
    _change(sidecar, "POST", _forced(force), key_file, output, body)


@keys.command(epilog=EPILOG)
@click.argument("key")
@_changing
@sidecar_options
@output_option
def use(sidecar: SidecarClient, output: str, key: str, key_file: Path, force: bool) -> None:
    """Make every member seal with KEY: an id of `rumormill keys list`, or a file that holds it."""
    _change(sidecar, "PUT", {"id": _id_of(key), **_forced(force)}, key_file, output)


@keys.command(epilog=EPILOG)
@click.argument("key")
@_changing
@sidecar_options
@output_option
def remove(sidecar: SidecarClient, output: str, key: str, key_file: Path, force: bool) -> None:
    """Let no member accept KEY any longer: an id of `rumormill keys list`, or a file that holds it.

    A member that sleeps meanwhile, and holds no other key, is not let in again without a new key file.
    """
    _change(sidecar, "DELETE", {"id": _id_of(key), **_forced(force)}, key_file, output)


def _forced(force: bool) -> dict[str, str]:
    return {"force": "true"} if force else {}


def _id_of(given: str) -> str:
    if re.fullmatch("[0-9a-f]{8}", given):
        return given
    if Path(given).exists():
        return key_name_of(_read_key(Path(given)))
    raise BadRequest(f"{given!r} is neither a key's id nor a key file", "rumormill keys list shows the ids")


def _read_key(path: Path) -> bytes:
    return _read_ring(path).primary


def _read_ring(path: Path) -> KeyRing:
    try:
        return read_key_file(path).ring
    except SettingsError as error:
        raise BadRequest(error.message, error.hint) from None


def _show(answer: KeysAnswer, body: bytes, output: str) -> None:
    if output == "json":
        write_json(body)
        return
    columns: list[Column[KeyRow]] = [
        Column("key", lambda key: key.id),
        Column("here", lambda key: "seals" if key.primary else "opens" if key.accepted else "unknown"),
        Column("held by", lambda key: f"{key.members} of {answer.members}"),
    ]
    show_table(columns, answer.keys, "This pool gossips in plaintext: there are no keys.")
    for names, what in ((answer.unanswered, "said nothing yet"), (answer.behind, "hold another ring")):
        if names:
            show_line(f"{len(names)} member(s) {what}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}")
    if answer.file:
        show_line(f"Trouble: {answer.file}")


def _write_new(path: Path, text: str, mode: int = PRIVATE_MODE) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise BadRequest(f"{path} exists, and may be in use", "choose another --out, or move it away first") from None
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}", "choose a folder you may write to") from None
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
