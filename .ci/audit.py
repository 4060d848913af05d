"""Known vulnerabilities of the packages in a list: what `make lint` asks an advisory service, by way of pip-audit.

    python .ci/audit.py REQUIREMENTS [--osv-url URL] [--stamp FILE]

A service is trusted to say "none" only where it first names those of an old Jinja that has some: an index that answers
in place of the real one, and knows no advisories, must not pass for good news. Where no service does, nothing has been
found and nothing cleared: one line says so, and the exit code is 0. Everything else that goes wrong is a failure. What
has been cleared is not asked about again for a day, as long as the list stays the same (``--stamp``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

PYPI = "https://pypi.org/pypi/{name}/{version}/json"
OSV = "https://api.osv.dev/v1/query"
VULNERABLE = {"name": "jinja2", "version": "2.10"}
PROBE_SECONDS = 5
AUDIT_SECONDS = 180
CLEARED_FOR = 86400


class Unanswered(Exception):
    """A service that is not there, or is none; says how that shows."""


def probe(url: str, question: bytes | None, field: str) -> None:
    """Raises :class:`Unanswered` unless the service names a vulnerability of what has some."""
    host = url.split("/")[2]
    try:
        with urllib.request.urlopen(urllib.request.Request(url, question), timeout=PROBE_SECONDS) as answer:  # noqa: S310
            found = json.loads(answer.read(1 << 24))
    except (OSError, HTTPException, ValueError) as error:
        raise Unanswered(f"{host}: {getattr(error, 'reason', error) or type(error).__name__}") from None
    if not isinstance(found, dict) or not found.get(field):
        raise Unanswered(f"{host}: knows no advisories")


def services(osv_url: str | None) -> list[tuple[str, bytes | None, str, list[str]]]:
    """URL, question and field of each probe, and how pip-audit is told to ask that service."""
    question = json.dumps(
        {"package": {"name": VULNERABLE["name"], "ecosystem": "PyPI"}, "version": VULNERABLE["version"]}
    ).encode()
    osv = (osv_url or OSV, question, "vulns", ["--vulnerability-service", "osv", "--osv-url", osv_url or OSV])
    pypi = (PYPI.format(**VULNERABLE), None, "vulnerabilities", ["--vulnerability-service", "pypi"])
    return [osv] if osv_url else [pypi, osv]


def audit(requirements: Path, service: list[str]) -> int:
    """Ask, and say what was found. Returns the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    command += ["--timeout", "10", "--format", "json", *service, "--requirement", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_SECONDS, check=False)  # noqa: S603
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"audit: the service answered once, and then not within {AUDIT_SECONDS} s; try again", file=sys.stderr)
        return 2
    except (ValueError, KeyError):
        last = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        print(f"audit: pip-audit failed: {last[0]}", file=sys.stderr)
        return 2
    bad = [(package, vulnerability) for package in packages for vulnerability in package.get("vulns", [])]
    for package, vulnerability in bad:
        fixed = ", ".join(vulnerability["fix_versions"]) or "nothing yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}", file=sys.stderr)
    if bad or done.returncode:
        print(f"audit: {len(bad)} known vulnerabilities", file=sys.stderr)
        return 1
    print(f"audit: no known vulnerability in {len(packages)} packages")
    return 0


def main() -> int:
    """Returns 0 where nothing is known or nobody can be asked, 1 for a finding, 2 where asking failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("requirements", type=Path)
    parser.add_argument("--osv-url", help="ask this service of OSV's kind, and no other")
    parser.add_argument("--stamp", type=Path, help="where to note what has been cleared")
    given = parser.parse_args()
    digest = hashlib.sha256(given.requirements.read_bytes()).hexdigest()
    stamp: Path | None = given.stamp
    if stamp and stamp.exists() and stamp.read_text() == digest and time.time() - stamp.stat().st_mtime < CLEARED_FOR:
        print("audit: cleared within the last day")
        return 0
    silent = []
    for url, question, field, service in services(given.osv_url):
        try:
            probe(url, question, field)
        except Unanswered as why:
            silent.append(str(why))
            continue
        code = audit(given.requirements, service)
        if stamp and not code:
            stamp.write_text(digest)
        return code
    print(f"not audited: advisory service not reachable ({'; '.join(silent)})")
    return 0


if __name__ == "__main__":
    os.environ.pop("PIP_AUDIT_VULNERABILITY_SERVICE", None)
    sys.exit(main())
