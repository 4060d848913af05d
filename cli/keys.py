"""``rumormill keys``: makes the group keys that seal gossip, and changes them while the pool runs."""

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
from rumormill.discovery.commands import KeyRow, KeysAnswer
from rumormill.discovery.schema.key_proof import proof_text
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

    A key file holds one base64 key per line. A member seals with the first key and opens with all of them. Every member
    of a pool needs the same file. Whoever has the file can join the pool.

    \b
    To change keys without losing a datagram, at any one sidecar:
      export RUMORMILL_KEY_FILE=pool.key  # proves that you hold a key of the pool
      rumormill keys generate --out new.key
      rumormill keys install new.key      # every member accepts the new key
      rumormill keys use new.key          # every member seals with it
      rumormill keys remove OLD-ID        # no member accepts the old key
    Each step reaches every member by gossip. It is refused while it could cut
    off a member that is present. Every sidecar rewrites its own key file.
    Before the last step, check that no member is suspended or paused.
    """


@keys.command(epilog=EPILOG)
@click.option("--out", required=True, metavar="FILE", help="File to create, mode 0600; - for standard output.")
def generate(out: str) -> None:
    """Write a new key to FILE. An existing file is never overwritten.

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
@click.option("--out", required=True, metavar="FILE", help="File to create for the private key, mode 0600.")
def ca(out: str) -> None:
    """Make an authority: only names that it has issued can then be members.

    Writes the private key to FILE, which must not be on any member, and the public key to FILE.pub, which every member
    needs as its --ca-file.

    \b
      rumormill keys ca --out pool.ca
      rumormill keys issue w1 --ca pool.ca --out w1.identity
      rumormill agent --name w1 ... --ca-file pool.ca.pub --identity-file w1.identity
    """
    issuer = Issuer(secrets.token_bytes(32))
    _write_new(Path(out), issuer.to_text())
    _write_new(Path(f"{out}.pub"), issuer.authority.to_text(), PUBLIC_MODE)
    click.echo(
        f"Wrote an authority's private key to {out}, and its public key to {out}.pub. Keep {out} away from the members."
    )


@keys.command(epilog=EPILOG)
@click.argument("name")
@click.option(
    "--ca",
    "authority",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The authority's private key.",
)
@click.option("--out", required=True, metavar="FILE", help="File to create for the identity, mode 0600.")
def issue(name: str, authority: Path, out: str) -> None:
    """Issue NAME: write the identity that lets a member use this name.

    An identity is valid as long as its authority is in use. To revoke one, make a new authority.
    """
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES or not name.isprintable() or name != name.strip() or "#" in name:
        raise BadRequest(f"{name!r} cannot be a member's name", f"1 to {MAX_NAME_BYTES} printable bytes, without #")
    try:
        credential = read_issuer(authority).issue(name, secrets.token_bytes)
    except SettingsError as error:
        raise BadRequest(error.message, error.hint) from None
    _write_new(Path(out), credential.to_text())
    click.echo(f"Issued {name} in {out}. Start it with --identity-file {out} and the authority's --ca-file.")


def _rotation_options(command: Command) -> Command:
    """Adds the options of the three rotation steps."""
    for option in (
        click.option("--force", is_flag=True, help="Do it even if it cuts members off for a moment."),
        click.option(
            "--key-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            envvar="RUMORMILL_KEY_FILE",
            required=True,
            help="The pool's current key file: it proves that you hold a key.",
        ),
    ):
        command = option(command)
    return command


def _change_keys(
    sidecar: SidecarClient, method: str, query: dict[str, str], key_file: Path, output: str, body: bytes = b""
) -> None:
    """One rotation step, with the proof that its sender holds a key of the pool."""
    now, _ = sidecar.get("/v1/keys", {}, KeysAnswer)
    target = "/v1/keys" + ("?" + urlencode(query) if query else "")
    accepted = {key.id for key in now.keys if key.accepted}
    held = _read_ring(key_file).keys
    key = next((key for key in held if key_name_of(key) in accepted), held[0])
    proof = proof_of(key, proof_text(now.process, method, target, body))
    _show_keys(*sidecar.command(method, target, KeysAnswer, body, {"Rumormill-Key-Proof": proof.hex()}), output)


@keys.command("policy", epilog=EPILOG)
@click.option(
    "--out", required=True, metavar="FILE", help="File to create for the private half; FILE.pub is the public one."
)
def policy_key(out: str) -> None:
    """Make the key that signs policies (canary shares, maintenance, zone).

    Members with --policy-key accept only policies signed by it. Give the private half to the members at which you
    change policies, and the public half to the others.

    \b
      rumormill keys policy --out policy.key
      rumormill agent ... --policy-key policy.key        # can change policies
      rumormill agent ... --policy-key policy.key.pub    # only verifies them
    """
    private = Ed25519PrivateKey.generate()
    public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    _write_new(Path(out), f"{POLICY_PRIVATE} {base64.b64encode(private.private_bytes_raw()).decode()}\n")
    _write_new(Path(f"{out}.pub"), f"{POLICY_PUBLIC} {public}\n", PUBLIC_MODE)
    click.echo(f"Wrote the private half to {out}, mode 0600, and the public half to {out}.pub.")


@keys.command("list", epilog=EPILOG)
@sidecar_options
@output_option
def list_keys(sidecar: SidecarClient, output: str) -> None:
    """Show the keys by id, which one this sidecar seals with, and how many members hold each."""
    _show_keys(*sidecar.get("/v1/keys", {}, KeysAnswer), output)


@keys.command(epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@_rotation_options
@sidecar_options
@output_option
def install(sidecar: SidecarClient, output: str, file: Path, key_file: Path, force: bool) -> None:
    """Make every member accept the first key of FILE too."""
    body = msgspec.json.encode({"key": base64.b64encode(_read_key(file)).decode()})
    _change_keys(sidecar, "POST", _force_query(force), key_file, output, body)


@keys.command(epilog=EPILOG)
@click.argument("key")
@_rotation_options
@sidecar_options
@output_option
def use(sidecar: SidecarClient, output: str, key: str, key_file: Path, force: bool) -> None:
    """Make every member seal with KEY: an id from `rumormill keys list`, or a key file."""
    _change_keys(sidecar, "PUT", {"id": _id_of(key), **_force_query(force)}, key_file, output)


@keys.command(epilog=EPILOG)
@click.argument("key")
@_rotation_options
@sidecar_options
@output_option
def remove(sidecar: SidecarClient, output: str, key: str, key_file: Path, force: bool) -> None:
    """Make every member stop accepting KEY: an id from `rumormill keys list`, or a key file.

    A member that is paused meanwhile, and holds no other key, needs a new key file to come back.
    """
    _change_keys(sidecar, "DELETE", {"id": _id_of(key), **_force_query(force)}, key_file, output)


def _force_query(force: bool) -> dict[str, str]:
    return {"force": "true"} if force else {}


def _id_of(given: str) -> str:
    if re.fullmatch("[0-9a-f]{8}", given):
        return given
    if Path(given).exists():
        return key_name_of(_read_key(Path(given)))
    raise BadRequest(f"{given!r} is neither a key id nor a key file", "`rumormill keys list` shows the ids")


def _read_key(path: Path) -> bytes:
    return _read_ring(path).primary


def _read_ring(path: Path) -> KeyRing:
    try:
        return read_key_file(path).ring
    except SettingsError as error:
        raise BadRequest(error.message, error.hint) from None


def _show_keys(answer: KeysAnswer, body: bytes, output: str) -> None:
    if output == "json":
        write_json(body)
        return
    columns: list[Column[KeyRow]] = [
        Column("key", lambda key: key.id),
        Column("here", lambda key: "seals" if key.primary else "opens" if key.accepted else "unknown"),
        Column("held by", lambda key: f"{key.members} of {answer.members}"),
    ]
    show_table(columns, answer.keys, "This pool gossips in plaintext: there are no keys.")
    for names, what in ((answer.unanswered, "did not answer yet"), (answer.behind, "have another key ring")):
        if names:
            show_line(f"{len(names)} member(s) {what}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}")
    if answer.file:
        show_line(f"Key file: {answer.file}")


def _write_new(path: Path, text: str, mode: int = PRIVATE_MODE) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise BadRequest(
            f"{path} already exists, and may be in use", "choose another --out, or move the file away first"
        ) from None
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}", "choose a directory that you can write to") from None
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
