"""`python -m bench` runs the benches that end within minutes, `python -m bench NAME ...` the named ones; `--list` lists
all of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final

BY_NAME_ONLY: Final = frozenset(
    {"drains", "grey_workers", "mass_kills", "proxies", "records", "vanished_hosts", "worker_faults"}
)
"""Benches that take more than five minutes."""


def _benches() -> dict[str, str]:
    """The name and first docstring line of each module here that has a ``main``."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = path.read_text()
        if not path.stem.startswith("_") and "\ndef main(" in source:
            found[path.stem] = source.partition('"""')[2].partition("\n")[0].removesuffix('"""')
    return found


def main(asked: list[str]) -> int:
    benches = _benches()
    if "--list" in asked or "--help" in asked:
        width = max(map(len, benches))
        notes = {name: " (only by name: it takes long)" if name in BY_NAME_ONLY else "" for name in benches}
        print("\n".join(f"{name:{width}}  {about}{notes[name]}" for name, about in benches.items()))
        return 0
    unknown = [name for name in asked if name not in benches]
    if unknown:
        print(f"error: there is no bench {unknown[0]!r}; there are {', '.join(benches)}", file=sys.stderr)
        return 2
    for name in asked or [name for name in benches if name not in BY_NAME_ONLY]:
        print(f"\n=== {name}: {benches[name]}\n", flush=True)
        importlib.import_module(f"bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
