"""Puts a golden vector into the text of a probe file and leaves everything else as a person wrote it. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

from rumormill.sidecar.probes.probe_check import BadProbe
from rumormill.sidecar.probes.toml_lines import line_of

NUMBERS_A_LINE = 8
_ASSIGNMENT = re.compile(r"\s*golden\s*=\s*\[[^\]]*\]")


def with_golden(text: str, vector: Sequence[float]) -> str:
    """The same file with this vector as ``golden`` in ``[expect]``. Raises :class:`BadProbe` if it is written so that
    no line can be put in."""
    changed = _replaced(text, golden_text(vector))
    if changed is None or not _same_but_golden(text, changed):
        raise BadProbe(
            "the golden vector cannot be put in", ("expect",), "write [expect] on a line of its own, golden below it"
        )
    return changed


def golden_text(vector: Sequence[float]) -> str:
    """The vector as a TOML key. Seven digits keep all that an engine's numbers of 32 bits hold."""
    numbers = [f"{number:.7g}" for number in vector]
    lines = [", ".join(numbers[i : i + NUMBERS_A_LINE]) for i in range(0, len(numbers), NUMBERS_A_LINE)]
    return "golden = [\n" + "".join(f"  {line},\n" for line in lines) + "]"


def _replaced(text: str, golden: str) -> str | None:
    lines = text.splitlines(keepends=True)
    if "golden" in tomllib.loads(text).get("expect", {}):
        number = line_of(text, ("expect", "golden"))
        begin = sum(map(len, lines[: (number or 1) - 1]))
        found = _ASSIGNMENT.match(text, begin)
        return text[:begin] + golden + text[found.end() :] if found else None
    if "expect" not in tomllib.loads(text):
        return text.rstrip("\n") + "\n\n[expect]\n" + golden + "\n"
    header = next((i for i, line in enumerate(lines, 1) if re.match(r"\s*\[\s*expect\s*\]", line)), None)
    if header is None:
        return None
    above = "".join(lines[:header])
    return above + ("" if above.endswith("\n") else "\n") + golden + "\n" + "".join(lines[header:])


def _same_but_golden(before: str, after: str) -> bool:
    """Whether a file says the same as before, apart from the golden vector."""
    try:
        old, new = tomllib.loads(before), tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        return False
    for toml in (old, new):
        toml.setdefault("expect", {}).pop("golden", None)
    return old == new
