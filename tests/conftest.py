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
    """Do not even import the tests of a set that is not asked for.

    Those beside other programs import what only `make test-programs` installs, so they must be asked for by name.
    """
    chosen, name = config.option.markexpr, collection_path.name
    if not chosen or name not in SETS or collection_path.parent != Path(__file__).parent:
        return None
    by_name = re.search(rf"(?<!not )\b{SETS[name]}\b", chosen)
    return True if f"not {SETS[name]}" in chosen or (name == "programs" and not by_name) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in SETS:
            item.add_marker(SETS[folder])
    items.sort(key=lambda item: item.path.name not in LONGEST)
