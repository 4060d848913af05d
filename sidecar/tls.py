"""The endpoint's certificate: read at the start, and again when its files have changed.

New handshakes use what was read last; connections that are open keep what they began with. Files that cannot be used
are told, and the certificate in force stays. So a renewal needs nobody to restart or to signal anything.
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

LOOK_SECONDS: Final = 10.0
"""Between looks at the files. A change is taken when two looks have seen the same, for two files change one by one."""
DAY: Final = 86400.0
WARNED_BEFORE: Final = 14 * DAY
"""Before the end of a certificate; but never more than a third of its life, for some live a day only."""
Stamp = tuple[tuple[int, int, int], ...]


class TlsFiles(NamedTuple):
    """PEM files: the certificate chain, its key, and the authorities whose certificates callers must show."""

    cert: Path
    key: Path
    authorities: Path | None

    @classmethod
    def of(cls, settings: Settings) -> TlsFiles | None:
        """None where the endpoint speaks no TLS."""
        if settings.http_cert is None or settings.http_key is None:
            return None
        return cls(settings.http_cert, settings.http_key, settings.http_ca)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the files held. Times are in seconds since the epoch."""

    files: TlsFiles
    context: ssl.SSLContext
    not_before: float
    not_after: float
    stamp: Stamp
    """What the files looked like before they were read."""

    def ends_soon(self, now: float) -> bool:
        return now >= self.not_after - min(WARNED_BEFORE, (self.not_after - self.not_before) / 3)


def read_certificate(files: TlsFiles) -> Certificate:
    """Blocks for the disk. Raises :class:`SettingsError` for files that will not do."""
    stamp = _stamp(files) or ()
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
            f"--http-cert {cert} and --http-key {key} are not a pair: {reason}",
            "both must be PEM, the key unencrypted and the certificate's own",
        ) from None
    if mode & 0o007:  # the key's; a group of its own is how distributions share one
        raise SettingsError(f"--http-key {key} can be read by everyone (mode {mode:04o})", f"chmod 600 {key}")
    return Certificate(files, context, *_validity(cert), stamp)


def _require_callers_certificates(context: ssl.SSLContext, authorities: Path | None) -> None:
    if authorities is None:
        return
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(authorities)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else "no certificate in it"
        raise SettingsError(
            f"--http-ca {authorities} cannot be used: {reason}", "give the PEM file of your authority"
        ) from None


def _check_readable(flag: str, path: Path) -> int:
    """The file's permissions."""
    try:
        with path.open("rb"):
            return stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise SettingsError(f"{flag} {path} cannot be read: {error.strerror}", "give a PEM file you can read") from None


def _validity(cert: Path) -> tuple[float, float]:
    """From when to when the first certificate of the chain, which is the endpoint's own, is valid."""
    from cryptography import x509  # 1 MB that an endpoint without TLS does without

    try:
        own = x509.load_pem_x509_certificates(cert.read_bytes())[0]
    except (OSError, ValueError) as error:
        raise SettingsError(f"--http-cert {cert} cannot be read: {error}", "give a PEM file of certificates") from None
    return own.not_valid_before_utc.timestamp(), own.not_valid_after_utc.timestamp()


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _stamp(files: TlsFiles) -> Stamp | None:
    """What changes when a file does; None while one is not there. Follows links: that is how Kubernetes renews one."""
    try:
        found = [path.stat() for path in files if path is not None]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


class CertificateKeeper:
    """The certificate in force. ``wall`` is the wall clock, in seconds since the epoch."""

    def __init__(self, certificate: Certificate, log: Log, *, wall: Callable[[], float] = time.time) -> None:
        self._log = log
        self._wall = wall
        self.trouble = ""
        """Why the files do not hold what is in force; empty when they do."""
        self._take(certificate)

    def replace(self, certificate: Certificate) -> None:
        """Use what was just read from the next handshake on, if it is another one."""
        if (certificate.files, certificate.stamp) != (self.certificate.files, self.certificate.stamp):
            self._take(certificate)

    def _take(self, certificate: Certificate) -> None:
        self.certificate = certificate
        self._seen: Stamp | None = certificate.stamp
        """What the files looked like at the last look."""
        self._tried: Stamp | None = certificate.stamp
        """What they looked like when they were last read."""
        self.trouble = ""
        self._log.info("certificate", not_after=_date(certificate.not_after))
        self._warn_again = 0.0
        self._warn_of_end()

    async def run(self) -> None:
        """Look at the files for ever."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take what the files hold, if they have changed and then stood still from one look to the next."""
        self._warn_of_end()
        files = self.certificate.files
        stamp = await trio.to_thread.run_sync(partial(_stamp, files), abandon_on_cancel=True)
        still, self._seen = stamp == self._seen, stamp
        if not still or stamp == self._tried or files is not self.certificate.files:
            return
        self._tried = stamp
        try:
            self._take(await trio.to_thread.run_sync(read_certificate, files, abandon_on_cancel=True))
        except SettingsError as error:
            self.trouble = error.message
            self._log.error("certificate", trouble=error.message, hint=error.hint, text="the one in force stays")

    def _warn_of_end(self) -> None:
        now, end = self._wall(), self.certificate.not_after
        if now >= self._warn_again and self.certificate.ends_soon(now):
            self._warn_again = now + DAY
            days = (end - now) / DAY
            text = f"the endpoint's certificate ends in {days:.1f} days" if days > 0 else "it has ended"
            self._log.warning("certificate", not_after=_date(end), text=text)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class TlsListener(trio.abc.Listener[trio.SSLStream[trio.SocketStream]]):
    """Like :class:`trio.SSLListener`, but each connection gets the certificate that is in force then."""

    def __init__(self, transport_listener: trio.SocketListener, keeper: CertificateKeeper) -> None:
        self.transport_listener = transport_listener
        self._keeper = keeper

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        stream = await self.transport_listener.accept()
        return trio.SSLStream(stream, self._keeper.certificate.context, server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        await self.transport_listener.aclose()
