"""The endpoint's certificate: read at the start, and again when its files have changed.

New handshakes use the newest certificate; open connections keep theirs. If the new files cannot be used, that is logged
and the current certificate stays. So a renewal needs no restart and no signal.
"""

from __future__ import annotations

import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import trio

from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.log import Log
from rumormill.sidecar.settings import Settings

POLL_SECONDS: Final = 10.0
"""Seconds between checks of the files. Certificate and key change one after the other, so a change is read only when
two checks in a row have found the same files."""
DAY: Final = 86400.0
EXPIRY_WARNING_SECONDS: Final = 14 * DAY
"""Seconds before the expiry of a certificate at which warnings begin; at most a third of its lifetime, because some are
valid for one day only."""
FileStamps = tuple[tuple[int, int, int], ...]


class TlsFiles(NamedTuple):
    """PEM files: the certificate chain, its key, and the authorities whose certificates callers must present."""

    cert: Path
    key: Path
    authorities: Path | None

    @classmethod
    def of(cls, settings: Settings) -> TlsFiles | None:
        """None if the endpoint uses no TLS."""
        if settings.http_cert is None or settings.http_key is None:
            return None
        return cls(settings.http_cert, settings.http_key, settings.http_ca)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The content of the files. Times are in seconds since the epoch."""

    files: TlsFiles
    context: ssl.SSLContext
    not_before: float
    not_after: float
    stamp: FileStamps
    """The state of the files before they were read."""

    def expires_soon(self, now: float) -> bool:
        return now >= self.not_after - min(EXPIRY_WARNING_SECONDS, (self.not_after - self.not_before) / 3)


def read_certificate(files: TlsFiles) -> Certificate:
    """Blocks for the disk. Raises :class:`SettingsError` for unusable files."""
    stamp = _file_stamps(files) or ()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _require_callers_certificates(context, files.authorities)
    cert, key, _ = files
    _check_readable("--http-cert", cert)
    mode = _check_readable("--http-key", key)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or str(error)
        raise SettingsError(
            f"--http-cert {cert} and --http-key {key} do not match: {reason}",
            "both must be PEM files; the key must be unencrypted and belong to the certificate",
        ) from None
    if mode & 0o007:  # group permissions are allowed: distributions share a key through its group
        raise SettingsError(f"--http-key {key} can be read by everyone (mode {mode:04o})", f"chmod 600 {key}")
    return Certificate(files, context, *_validity(cert), stamp)


def _require_callers_certificates(context: ssl.SSLContext, authorities: Path | None) -> None:
    if authorities is None:
        return
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(authorities)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else "it holds no certificate"
        raise SettingsError(
            f"--http-ca {authorities} cannot be used: {reason}", "give the PEM file of your certificate authority"
        ) from None


def _check_readable(flag: str, path: Path) -> int:
    """The file's permissions. Raises :class:`SettingsError` if it cannot be read."""
    try:
        with path.open("rb"):
            return stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise SettingsError(
            f"{flag} {path} cannot be read: {error.strerror}", "give a PEM file that this user can read"
        ) from None


def _validity(cert: Path) -> tuple[float, float]:
    """The validity period of the chain's first certificate, which is the endpoint's own."""
    from cryptography import x509  # imported here, to save an endpoint without TLS 1 MB

    try:
        own = x509.load_pem_x509_certificates(cert.read_bytes())[0]
    except (OSError, ValueError) as error:
        raise SettingsError(f"--http-cert {cert} cannot be read: {error}", "give a PEM file of certificates") from None
    return own.not_valid_before_utc.timestamp(), own.not_valid_after_utc.timestamp()


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _file_stamps(files: TlsFiles) -> FileStamps | None:
    """The state of the files, which changes when one of them does; None if one is missing. Follows symbolic links:
    Kubernetes renews files by changing a link."""
    try:
        found = [path.stat() for path in files if path is not None]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


class CertificateReloader:
    """Holds the current certificate, and reads its files again when they change.

    ``wall`` is the wall clock, in seconds since the epoch.
    """

    def __init__(self, certificate: Certificate, log: Log, *, wall: Callable[[], float] = time.time) -> None:
        self._log = log
        self._wall = wall
        self.trouble = ""
        """Why the files do not hold the current certificate; empty if they do."""
        self._use(certificate)

    def replace(self, certificate: Certificate) -> None:
        """Use this certificate from the next handshake on, if it has changed."""
        if (certificate.files, certificate.stamp) != (self.certificate.files, self.certificate.stamp):
            self._use(certificate)

    def _use(self, certificate: Certificate) -> None:
        self.certificate = certificate
        self._last_seen: FileStamps | None = certificate.stamp
        """The state of the files at the last check."""
        self._last_read: FileStamps | None = certificate.stamp
        """The state of the files when they were last read."""
        self.trouble = ""
        self._log.info("certificate", not_after=_date(certificate.not_after))
        self._next_warning = 0.0
        self._warn_of_expiry()

    async def run(self) -> None:
        """Check the files forever."""
        while True:
            await trio.sleep(POLL_SECONDS)
            await self.check_files()

    async def check_files(self) -> None:
        """Read the files if they have changed, and have not changed any more since the last check."""
        self._warn_of_expiry()
        files = self.certificate.files
        stamp = await trio.to_thread.run_sync(partial(_file_stamps, files), abandon_on_cancel=True)
        still, self._last_seen = stamp == self._last_seen, stamp
        if not still or stamp == self._last_read or files is not self.certificate.files:
            return
        self._last_read = stamp
        try:
            self._use(await trio.to_thread.run_sync(read_certificate, files, abandon_on_cancel=True))
        except SettingsError as error:
            self.trouble = error.message
            self._log.error(
                "certificate", trouble=error.message, hint=error.hint, text="the old certificate stays in use"
            )

    def _warn_of_expiry(self) -> None:
        now, end = self._wall(), self.certificate.not_after
        if now >= self._next_warning and self.certificate.expires_soon(now):
            self._next_warning = now + DAY
            days = (end - now) / DAY
            text = f"the certificate expires in {days:.1f} days" if days > 0 else "the certificate has expired"
            self._log.warning("certificate", not_after=_date(end), text=text)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class TlsListener(trio.abc.Listener[trio.SSLStream[trio.SocketStream]]):
    """Like :class:`trio.SSLListener`, but each new connection gets the current certificate."""

    def __init__(self, transport_listener: trio.SocketListener, reloader: CertificateReloader) -> None:
        self.transport_listener = transport_listener
        self._reloader = reloader

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        stream = await self.transport_listener.accept()
        return trio.SSLStream(stream, self._reloader.certificate.context, server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        await self.transport_listener.aclose()
