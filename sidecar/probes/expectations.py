"""What an answer must be like. Pure: values in, :class:`NotExpected` or nothing out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

MAX_MATCHED_CHARACTERS = 4096
"""A pattern is searched in this many characters of a text. A bad pattern takes time that grows fast with the text."""
MANY_REPETITIONS = 8
"""A text of one unit this many times is a loop. Engines with NaN logits give "!" forever (vllm#22881)."""
LONGEST_UNIT = 32
"""Characters; no tokenizer in use has many longer tokens."""


class NotExpected(Exception):
    """An answer is not as expected. The text is the reason, in plain English."""


def check_finite(numbers: Sequence[object]) -> list[float]:
    """The numbers, if all of them are numbers and finite."""
    checked = []
    for position, number in enumerate(numbers, 1):
        if number is None:
            raise NotExpected(f"number {position} of {len(numbers)} is null, as some servers write NaN")
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise NotExpected(f"element {position} of {len(numbers)} is {quoted(number)} and not a number")
        if not _finite(number):
            raise NotExpected(f"number {position} of {len(numbers)} is {_name_of(number)}")
        checked.append(float(number))
    return checked


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond the range of a float
        return False


def _name_of(number: float) -> str:
    return "NaN" if number != number else "infinite"


def check_length(vector: Sequence[float], length: int) -> None:
    if len(vector) != length:
        raise NotExpected(f"the vector has {count(len(vector), 'number')} and should have {length}")


def check_not_zero(vector: Sequence[float]) -> None:
    """Refuses a vector without a direction: an engine that computes nothing gives zeros."""
    if not vector:
        raise NotExpected("the vector is empty")
    if not any(vector):
        raise NotExpected("the vector is all zeros")


def check_norm(vector: Sequence[float], norm: float, tolerance: float) -> None:
    found = norm_of(vector)
    if not abs(found - norm) <= tolerance:
        raise NotExpected(f"the vector's norm is {found:.4g} and should be {norm:g} ± {tolerance:g}")


def norm_of(vector: Sequence[float]) -> float:
    """The Euclidean norm; infinite if it is beyond the range of a float."""
    return math.hypot(*vector)


def check_golden(vector: Sequence[float], golden: Sequence[float], tolerance: float) -> None:
    """Whether the cosine distance to the golden vector is at most the tolerance (0 to 2)."""
    check_length(vector, len(golden))
    distance = cosine_distance(vector, golden)
    if not distance <= tolerance:
        raise NotExpected(
            f"the vector's cosine distance to the golden vector is {distance:.4f} and should be at most {tolerance:g}"
        )


def cosine_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """1 - cos of the angle between two vectors of one length: 0 for one direction, 2 for the opposite.

    NaN if one of them has no direction.
    """
    scaled, other_scaled = _scaled(one), _scaled(other)
    norms = norm_of(scaled) * norm_of(other_scaled)
    if not norms:
        return math.nan
    product = math.fsum(a * b for a, b in zip(scaled, other_scaled, strict=True)) / norms
    return 1.0 - max(-1.0, min(1.0, product))


def _scaled(vector: Sequence[float]) -> list[float]:
    """The same direction with a largest element of 1, so that no square overflows or vanishes."""
    largest = max(map(abs, vector), default=0.0)
    return [number / largest for number in vector] if largest else [0.0] * len(vector)


def check_pattern(text: str, pattern: re.Pattern[str]) -> None:
    if not pattern.search(text[:MAX_MATCHED_CHARACTERS]):
        raise NotExpected(f"the text {quoted(text)} does not match the pattern {pattern.pattern!r}")


def check_not_repeated(text: str) -> None:
    """Refuses a text that is one token over and over."""
    unit = repeated_unit(text)
    if unit is not None:
        raise NotExpected(f"the text is {quoted(unit)} repeated {len(text) // len(unit)} times")


def repeated_unit(text: str) -> str | None:
    """The shortest unit that a text repeats from its begin to its end often enough to be a loop."""
    longest = min(LONGEST_UNIT, len(text) // MANY_REPETITIONS)
    return next((text[:length] for length in range(1, longest + 1) if text.startswith(text[length:])), None)


def check_schema(answer: object, validate: Callable[[Any], object]) -> None:
    """``validate`` is a schema compiled by :func:`rumormill.sidecar.probes.json_schema.compile_schema`."""
    try:
        validate(answer)
    except (ValueError, RecursionError, OverflowError) as error:
        raise NotExpected(f"the answer does not fit the JSON Schema: {shortened(str(error))}") from None


def quoted(value: object, most: int = 60) -> str:
    """A value of the worker for a log line: short, and without control characters."""
    return shortened(repr(value[: most + 1]) if isinstance(value, str) else type(value).__name__, most)


def shortened(text: str, most: int = 200) -> str:
    """One line of at most so many characters, all of them printable."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text[: 8 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def count(number: int, noun: str) -> str:
    """``1 number``, ``2 numbers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
