"""The Redis server that the tests of this folder start is real and answers."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def test_redis_is_installed_and_starts() -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed; as root, `make test-programs` installs it")
    assert "Redis server" in subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
