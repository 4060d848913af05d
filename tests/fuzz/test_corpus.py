"""Every input that fuzzing was seeded with, or once found, and neighbors of each. No fuzzer is needed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(path for path in CORPUS.glob("*/*"))
NEIGHBORS = 200


def test_every_target_has_seeds_and_every_seed_a_target() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_input_and_its_neighbors_are_taken_or_refused(path: Path) -> None:
    target, data, rng = TARGETS[path.parent.name], path.read_bytes(), random.Random(path.name)
    target(data)
    for _ in range(NEIGHBORS):
        target(neighbor(data, rng))


def neighbor(data: bytes, rng: random.Random) -> bytes:
    """Cut, lengthened, a byte changed, or two pieces swapped."""
    position = rng.randrange(len(data))
    match rng.randrange(4):
        case 0:
            return data[:position]
        case 1:
            return data[:position] + rng.randbytes(rng.randrange(1, 16)) + data[position:]
        case 2:
            return data[:position] + rng.randbytes(1) + data[position + 1 :]
        case _:
            return data[position:] + data[:position]
