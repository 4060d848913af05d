"""Certificates for tests: an authority, and what it issues for 127.0.0.1 and localhost."""

from __future__ import annotations

from pathlib import Path

import trustme


class Authority:
    """Signs what it is asked to; ``path`` holds its own certificate (PEM)."""

    def __init__(self, folder: Path, stem: str = "ca") -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.path = folder / f"{stem}.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def issue(self, stem: str = "server") -> tuple[Path, Path]:
        """A certificate chain and its key (PEM)."""
        issued = self._ca.issue_cert("127.0.0.1", "localhost", common_name=stem)
        certificate, key = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return certificate, key
