"""The ring compared with other rings, interleaved: ``python -m bench.ring`` (half a minute).

Writes bench-ring.json too.

Read the ratios: all rings take turns within each round, and the median over rounds of the ratio to uhashring counts.
RUMORMILL_BENCH_ROUNDS sets the number of rounds (7).
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.ring_peers import RingPeer, peers, uhashring
from rumormill.ring import DEFAULT_POINTS, HashRing

ROUNDS = int(os.environ.get("RUMORMILL_BENCH_ROUNDS", "7"))
SIZES = (10, 100, 1000)
KEYS = [str(uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for number in range(20_000)]
BASE = "uhashring"

Step = Callable[[], object]


def seconds(step: Step) -> float:
    """CPU time of this process, which excludes other programs."""
    begin = time.process_time()
    step()
    return time.process_time() - begin


def interleaved(steps: dict[str, tuple[Step, int]]) -> dict[str, dict[str, float]]:
    """For each step: thousands of operations per second, and the ratio to the base. Medians."""
    rounds = [{name: count / seconds(step) / 1e3 for name, (step, count) in steps.items()} for _ in range(ROUNDS)]
    return {
        name: {
            "kops": statistics.median(one[name] for one in rounds),
            "ratio": statistics.median(one[name] / one[BASE] for one in rounds),
        }
        for name in steps
    }


def each(lookup: Callable[[str], object], keys: list[str]) -> Step:
    def step() -> None:
        for key in keys:
            lookup(key)

    return step


def lookups(size: int) -> dict[str, Any]:
    """One owner, three owners, and many keys at once. Rings without a batch lookup use a loop."""
    rings = list(peers([f"w{number}" for number in range(size)]))
    slow = {"uhashring", "hashring"}
    few = KEYS[: max(20, 20_000 // size)]
    one = {ring.name: (each(ring.one, KEYS), len(KEYS)) for ring in rings}
    three = {}
    for ring in rings:
        if ring.three is not None:
            keys = few if ring.name in slow else KEYS
            three[ring.name] = (each(ring.three, keys), len(keys))
    many = {ring.name: (_batch(ring), len(KEYS)) for ring in rings}
    return {"one": interleaved(one), "three": interleaved(three), "many": interleaved(many)}


def _batch(ring: RingPeer) -> Step:
    batch = ring.many
    return each(ring.one, KEYS) if batch is None else lambda: batch(KEYS)


def changes(size: int = 1000) -> dict[str, float]:
    """Milliseconds to add a member, remove one, change many at once, and build a ring."""
    ring = HashRing({f"w{number}": 1.0 for number in range(size)})
    half = {f"w{number}" if number % 2 else f"new{number}": 1.0 for number in range(size)}
    tenth = {f"w{number}" if number % 10 else f"new{number}": 1.0 for number in range(size)}
    larger = ring.with_member("another")
    steps: dict[str, Step] = {
        "one in": lambda: ring.with_member("another"),
        "one out": lambda: larger.without_member("another"),
        "a tenth replaced": lambda: ring.with_weights(tenth),
        "half replaced": lambda: ring.with_weights(half),
        "built": lambda: HashRing(ring.weights),
    }
    rounds = [{name: seconds(step) * 1e3 for name, step in steps.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(one[name] for one in rounds) for name in steps}


def megabytes(build: Callable[[], object]) -> float:
    """The memory that the result holds, as Python counts it."""
    gc.collect()
    tracemalloc.start()
    retained = build()
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del retained
    return size / 1e6


def memory(size: int) -> dict[str, float]:
    names = [f"w{number}" for number in range(size)]

    def indexed() -> HashRing:
        ring = HashRing(dict.fromkeys(names, 1.0))
        ring.build_index()
        return ring

    return {
        "rumormill": megabytes(lambda: HashRing(dict.fromkeys(names, 1.0))),
        "rumormill+index": megabytes(indexed),
        BASE: megabytes(lambda: uhashring(names)),
    }


def balance(size: int = 100, sets: int = 20) -> float:
    """The largest share of equal members over the mean: the median over sets of names."""
    rings = [HashRing({f"set{number}-{i}": 1.0 for i in range(size)}) for number in range(sets)]
    return statistics.median(max(ring.shares().values()) * size for ring in rings)


def show(results: dict[str, Any]) -> None:
    titles = {"one": "one owner", "three": "three distinct owners", "many": "many keys at once"}
    for verb, title in titles.items():
        rings = list(results["lookups"]["10"][verb])
        print(f"\n{title}, thousands per second (x {BASE})")
        print(f"{'members':>8}" + "".join(f"{name:>22}" for name in rings))
        for size, measured in results["lookups"].items():
            cells = [f"{measured[verb][name]['kops']:12.1f} ({measured[verb][name]['ratio']:6.1f})" for name in rings]
            print(f"{size:>8}" + "".join(f"{cell:>22}" for cell in cells))
    print("\nmemory, MB")
    for size, retained in results["memory"].items():
        print(f"{size:>8}  " + ", ".join(f"{name} {mb:.2f}" for name, mb in retained.items()))
    print(f"\n1000 members x {DEFAULT_POINTS} points, milliseconds")
    print("          " + ", ".join(f"{name} {ms:.1f}" for name, ms in results["changes"].items()))
    print(f"\nmax/mean of 100 members, median of 20 sets of names: {results['balance']:.3f}")


def main() -> None:
    try:
        import hashring  # noqa: F401
        import jump  # noqa: F401
        import uhashring  # noqa: F401
    except ImportError as missing:
        raise SystemExit(f"bench.ring compares with {missing.name}; get it with: make .venv/dev-ready") from None
    results = {
        "python": platform.python_version(),
        "rounds": ROUNDS,
        "lookups": {str(size): lookups(size) for size in SIZES},
        "memory": {str(size): memory(size) for size in SIZES},
        "changes": changes(),
        "balance": balance(),
    }
    show(results)
    Path("bench-ring.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\nwritten to bench-ring.json")


if __name__ == "__main__":
    main()
