"""Text to a vector by hashed character n-grams: small enough to check, real enough that alike texts lie close.

The text is lower-cased and its spaces made one; each of its 3-, 4- and 5-grams (spaces at the ends included) adds +1 or
-1 to one of 256 places, both chosen by one mmh3 hash (signed feature hashing, Weinberger et al. 2009, where the signs
keep collisions unbiased); the sum is scaled to length one. The same text gives the same numbers on every machine, so
whoever asked can tell a right answer from a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mmh3

DIMENSIONS = 256
MODEL = "rumormill-ngram-256"
_GRAMS = (3, 4, 5)
_DECIMALS = 6
"""What a float32 would hold of such numbers; keeps an answer at 3 KB."""


def embed(text: str) -> list[float]:
    """256 floats of length one; all zeros for a text without anything but spaces."""
    words = " ".join(text.lower().split())
    if not words:
        return [0.0] * DIMENSIONS
    padded = f" {words} "
    sums = [0] * DIMENSIONS
    for size in _GRAMS:
        for start in range(len(padded) - size + 1):
            hashed = mmh3.hash(padded[start : start + size], 0, False)
            sums[hashed % DIMENSIONS] += 1 if hashed & 0x8000_0000 else -1
    length = math.sqrt(sum(value * value for value in sums))
    if length == 0.0:
        return [0.0] * DIMENSIONS
    return [round(value / length, _DECIMALS) for value in sums]


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors of length one: 1.0 for equal texts, about 0 for unrelated ones."""
    return sum(a * b for a, b in zip(one, other, strict=True))
