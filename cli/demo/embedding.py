"""Embeds text with hashed character n-grams: small enough to check, and similar texts get similar vectors.

The text is lower-cased and its white space is collapsed. Each of its 3-, 4- and 5-grams (with a space at both ends)
adds +1 or -1 to one of 256 dimensions. One mmh3 hash chooses both (signed feature hashing, Weinberger et al. 2009; the
signs keep collisions unbiased). The sum is scaled to length 1. The same text gives the same numbers on every machine,
so a caller can tell a correct answer from a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mmh3

DIMENSIONS = 256
MODEL = "rumormill-ngram-256"
_GRAMS = (3, 4, 5)
_DECIMALS = 6
"""About the precision of a float32. Keeps an answer at 3 KB."""


def embed(text: str) -> list[float]:
    """A vector of 256 floats with length 1; all zeros for an empty text or white space."""
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
    """The cosine of two vectors of length 1: 1.0 for equal texts, about 0 for unrelated ones."""
    return sum(a * b for a, b in zip(one, other, strict=True))
