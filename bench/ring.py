"""The ring beside `uhashring`, interleaved on this machine: ``python -m bench.ring`` (some ten seconds).

Ratios are what to read: both sides take turns within each round, and the median of the rounds counts.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections import Counter
from collections.abc import Callable

from rumormill.ring import HashRing

POINTS = 128
ROUNDS = 5
KEYS = [str(uuid.uuid4()) for _ in range(20_000)]


def rate(work: Callable[[], object], count: int) -> float:
    """Thousands a second."""
    begin = time.perf_counter()
    work()
    return count / (time.perf_counter() - begin) / 1e3


def interleaved(ours: Callable[[], object], theirs: Callable[[], object], count: int, their_count: int) -> str:
    """Medians of both sides, in thousands a second, and of the rounds' ratios."""
    rounds = [(rate(ours, count), rate(theirs, their_count)) for _ in range(ROUNDS)]
    our_rate, their_rate = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratio = statistics.median(one / other for one, other in rounds)
    return f"{our_rate:9.1f} {their_rate:9.1f} {ratio:8.1f}x"


def spread(owned: list[str], members: int) -> float:
    """The busiest member's load over the mean."""
    return max(Counter(owned).values()) * members / len(owned)


def compare(members: int) -> None:
    from uhashring import HashRing as TheirRing

    names = [f"w{i}" for i in range(members)]
    ours, theirs = HashRing(dict.fromkeys(names, 1.0), points=POINTS), TheirRing(names, vnodes=POINTS)
    few = KEYS[: 200_000 // members]

    def their_three() -> None:
        for key in few:
            list(theirs.range(key, 3, unique=True))

    def three() -> None:
        for key in KEYS:
            ours.owners(key, 3)

    def ours_one() -> None:
        for key in KEYS:
            ours.owner(key)

    def theirs_one() -> None:
        for key in KEYS:
            theirs.get_node(key)

    many = interleaved(lambda: ours.owners_many(KEYS), theirs_one, len(KEYS), len(KEYS))
    print(f"{members:5}  one owner         {interleaved(ours_one, theirs_one, len(KEYS), len(KEYS))}")
    print(f"{members:5}  owners_many       {many}")
    print(f"{members:5}  three owners      {interleaved(three, their_three, len(KEYS), len(few))}")
    users = [f"user-{i}" for i in range(max(60_000, 300 * members))]
    even = spread(ours.owners_many(users), members)
    theirs_even = spread([theirs.get_node(user) for user in users], members)
    print(f"{members:5}  max/mean load     {even:9.2f} {theirs_even:9.2f}")


def splice(members: int = 1000, points: int = 400) -> None:
    """How long a member takes to come and to go, in milliseconds."""
    ring = HashRing({f"w{i}": 1.0 for i in range(members)}, points=points)
    joins, leaves, builds = [], [], []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        larger = ring.with_member("another")
        middle = time.perf_counter()
        larger.without_member("another")
        joins.append(middle - begin)
        leaves.append(time.perf_counter() - middle)
        begin = time.perf_counter()
        HashRing(ring.weights, points=points)
        builds.append(time.perf_counter() - begin)
    joined, left, built = (statistics.median(times) * 1e3 for times in (joins, leaves, builds))
    print(
        f"{members} x {points} points: a member comes in {joined:.1f} ms, goes in {left:.1f} ms; a build {built:.0f} ms"
    )


def main() -> None:
    try:
        import uhashring  # noqa: F401
    except ImportError:
        raise SystemExit("bench.ring compares with uhashring; get it with: .venv/bin/pip install uhashring") from None
    print(f"{POINTS} points a member, thousands a second, uuid keys     rumormill uhashring    ratio")
    for members in (10, 100, 1000):
        compare(members)
    splice()


if __name__ == "__main__":
    main()
