"""A renewed certificate is loaded without a signal, an invalid one never is, and a warning precedes its end."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
import trio.testing
from certificates import Authority

from rumormill.sidecar.tls import DAY, POLL_SECONDS, CertificateReloader, TlsFiles, read_certificate


class Recorded:
    """A log in a list, and the wall clock of what writes to it."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.now = time.time()

    def __getattr__(self, level: str) -> Any:
        return lambda event, **words: self.lines.append((level, words))

    def texts(self, level: str) -> list[str]:
        return [words["text"] for line, words in self.lines if line == level]


class Renewal:
    """A loaded certificate, which checks its files when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.files = TlsFiles(*self.authority.issue(), None)
        self.log = Recorded()
        log: Any = self.log
        self.keeper = CertificateReloader(read_certificate(self.files), log, wall=lambda: self.log.now)

    async def check_files(self) -> None:
        """Check twice. A change is loaded once it has stayed the same."""
        await self.keeper.check_files()
        await self.keeper.check_files()


async def test_a_renewed_certificate_is_taken_without_a_signal(tmp_path: Path) -> None:
    renewal = Renewal(tmp_path)
    keeper, first = renewal.keeper, renewal.keeper.certificate
    await renewal.check_files()
    assert keeper.certificate is first
    renewal.authority.issue()
    await keeper.check_files()
    assert keeper.certificate is first, "two files change one by one"
    await keeper.check_files()
    assert keeper.certificate is not first
    second = keeper.certificate
    renewal.files.key.write_text("half a key")
    await renewal.check_files()
    await renewal.check_files()
    assert keeper.certificate is second
    assert renewal.log.texts("error") == ["the old certificate stays in use"]
    assert "do not match" in keeper.trouble
    renewal.authority.issue()
    await renewal.check_files()
    assert not keeper.trouble
    renewal.files.cert.unlink()
    await renewal.check_files()
    assert "cannot be read" in keeper.trouble


async def test_the_files_are_looked_at_for_ever(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    renewal = Renewal(tmp_path)
    first = renewal.keeper.certificate
    async with trio.open_nursery() as nursery:
        nursery.start_soon(renewal.keeper.run)
        await trio.sleep(POLL_SECONDS * 3)
        renewal.authority.issue()
        while renewal.keeper.certificate is first:
            await trio.sleep(1)
        nursery.cancel_scope.cancel()


async def test_the_expiry_of_a_certificate_is_logged_daily_from_fourteen_days_before(tmp_path: Path) -> None:
    renewal = Renewal(tmp_path)
    renewal.keeper.certificate = replace(renewal.keeper.certificate, not_before=0, not_after=100 * DAY)
    for now, warnings in ((0, 0), (85.9, 0), (86.1, 1), (86.9, 1), (87.2, 2), (101, 3)):
        renewal.log.now = now * DAY
        await renewal.check_files()
        assert len(renewal.log.texts("warning")) == warnings, now
    assert renewal.log.texts("warning")[0] == "the certificate expires in 13.9 days"
    short = replace(renewal.keeper.certificate, not_after=DAY)
    assert not short.expires_soon(0.6 * DAY), "a certificate of a day is renewed in its last third"
    assert short.expires_soon(0.7 * DAY)
