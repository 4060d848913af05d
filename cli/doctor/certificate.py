"""Is the endpoint's certificate valid, and for how long?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem, warning

SOON: Final = timedelta(days=14)


def check(facts: Facts) -> Iterator[Finding]:
    path = facts.settings.http_cert
    if path is None:
        return
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no PEM certificate"
        yield problem(f"certificate {path}: {reason}", "put a certificate chain (PEM) there, then: rumormill reload")
        return
    yield _validity(str(path), certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    if facts.status is not None and facts.status.certificate_trouble:
        yield problem(facts.status.certificate_trouble, "correct the files, then: rumormill reload")


def _validity(path: str, begin: datetime, end: datetime) -> Finding:
    now = datetime.now(UTC)
    if now < begin:
        return problem(
            f"certificate {path} is valid only from {begin:%Y-%m-%d %H:%M} UTC", "check this machine's clock"
        )
    if now >= end:
        return problem(f"certificate {path} has expired on {end:%Y-%m-%d}", "renew it, then: rumormill reload")
    if now >= end - SOON:
        return warning(f"certificate {path} expires on {end:%Y-%m-%d}", "renew it, then: rumormill reload")
    return ok(f"certificate {path} is valid until {end:%Y-%m-%d}")
