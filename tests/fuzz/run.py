"""Fuzz the targets with atheris: ``python tests/fuzz/run.py SECONDS [TARGET …]``, the time shared among them.

New inputs are kept in ``.fuzz/TARGET`` (not under version control), and so are findings, as ``.fuzz/TARGET-crash-…``: a
finding is fixed, and its input put into ``tests/fuzz/corpus/TARGET``, where every test run tries it again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOUND = Path(".fuzz")
SLOWEST = 5
"""Seconds that one input may take."""
MEGABYTES = 1024


def fuzz(name: str, arguments: list[str]) -> None:
    """In a process of its own: libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["rumormill", "tomllib"]):
        from targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def main(seconds: int, names: list[str]) -> int:
    failed = []
    for name in names:
        found = FOUND / name
        found.mkdir(parents=True, exist_ok=True)
        limits = [
            f"-max_total_time={max(seconds // len(names), 1)}",
            f"-timeout={SLOWEST}",
            f"-rss_limit_mb={MEGABYTES}",
        ]
        files = [f"-artifact_prefix={FOUND}/{name}-", "-print_final_stats=1", "-verbosity=0", "-max_len=4096"]
        command = [sys.executable, __file__, "--one", name, *limits, *files, str(found), str(HERE / "corpus" / name)]
        print(f"fuzzing {name} …", flush=True)
        ran = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        runs = [line for line in ran.stderr.splitlines() if "executed_units" in line]
        print(*runs, sep="\n", flush=True)
        if ran.returncode:
            failed.append(name)
            print(ran.stderr[-8000:], flush=True)
    print(f"{len(names) - len(failed)} passed, {len(failed)} failed", flush=True)
    return len(failed)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        fuzz(sys.argv[2], sys.argv[3:])
    else:
        everything = sorted(folder.name for folder in (HERE / "corpus").iterdir())
        sys.exit(main(int(sys.argv[1]), sys.argv[2:] or everything))
