"""What holds for every test. The folder of a test decides which make target runs it; see SETS."""

import re
import signal
from pathlib import Path

import pytest
from hypothesis import settings

SETS = {"processes": "processes", "net": "net", "programs": "programs"}
"""Folders whose tests get a marker, and with it a make target of their own. `make test` runs all others."""

# An example's wall time depends on how busy the machine is. Benches measure speed.
settings.register_profile("rumormill", deadline=None)
settings.load_profile("rumormill")

# A shell makes background jobs ignore Ctrl-C, and children inherit that. The tests of Ctrl-C need the default handler.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = {"test_machine.py", "test_policy_machine.py"}
"""Each test of these takes as long as a hundred others. They start first, so that no worker is left alone with one."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The tests beside other programs import what only `make test-programs` installs: skip them in the other sets."""
    chosen = config.option.markexpr
    others = bool(chosen) and not re.search(r"(?<!not )\bprograms\b", chosen)
    return True if others and collection_path == Path(__file__).parent / "programs" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in SETS:
            item.add_marker(SETS[folder])
    items.sort(key=lambda item: item.path.name not in LONGEST)
