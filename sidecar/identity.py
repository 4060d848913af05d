"""Reads the files of a cluster's authority: its keys, and the identities it issued."""

from __future__ import annotations

from pathlib import Path

from rumormill.gossip.security.credentials import (
    AUTHORITY_PUBLIC,
    Authority,
    Credential,
    InvalidCredential,
    Issuer,
    is_certified,
)
from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.secrets import MAX_BYTES, read_private_file
from rumormill.sidecar.settings import Settings

PoolCredentials = tuple[Authority | None, Credential | None]

_CREATE_HINT = "rumormill keys ca --out pool.ca"


def read_issuer(path: Path) -> Issuer:
    """The private key of an authority. Raises :class:`SettingsError`."""
    try:
        return Issuer.from_text(
            read_private_file(path, "authority's private key", _CREATE_HINT, public_prefix=AUTHORITY_PUBLIC)
        )
    except InvalidCredential as error:
        raise SettingsError(f"authority's private key {path}: {error}", _CREATE_HINT) from None


def read_authority(path: Path) -> Authority:
    """The public key of an authority. The file may be readable by everyone. Raises :class:`SettingsError`."""
    try:
        with path.open("rb") as file:
            return Authority.from_text(file.read(MAX_BYTES).decode())
    except OSError as error:
        raise SettingsError(f"authority {path} cannot be read: {error.strerror}", _CREATE_HINT) from None
    except (UnicodeDecodeError, InvalidCredential) as error:
        raise SettingsError(f"authority {path}: {error}", "use the .pub file that `rumormill keys ca` wrote") from None


def read_identity(path: Path, name: str, authority: Authority) -> Credential:
    """The credential that an authority issued to this member.

    Raises :class:`SettingsError`, also if it was issued to another name or by another authority.
    """
    issue = f"rumormill keys issue {name} --ca pool.ca --out {path}"
    try:
        credential = Credential.from_text(read_private_file(path, "identity file", issue))
    except InvalidCredential as error:
        raise SettingsError(f"identity file {path}: {error}", issue) from None
    if credential.name != name:
        raise SettingsError(f"identity file {path} was issued to {credential.name!r}, not {name!r}", issue)
    if not is_certified(credential, authority):
        raise SettingsError(f"identity file {path} was not issued by the authority in --ca-file", issue)
    return credential


def read_credentials(settings: Settings) -> PoolCredentials:
    """The pool's authority and the credential it issued to this member; (None, None) without an authority."""
    if settings.ca_file is None or settings.identity_file is None:
        return None, None
    authority = read_authority(settings.ca_file)
    return authority, read_identity(settings.identity_file, settings.name, authority)
