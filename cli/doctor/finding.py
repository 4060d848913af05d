"""What a check has found."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["ok", "warning", "problem", "unknown"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``-o json`` gives these."""

    verdict: Verdict
    """A warning is no fault yet; unknown could not be looked at."""
    found: str
    """What was found, in words."""
    do: str = ""
    """What to do about it; empty where nothing is to be done."""


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warning(found: str, do: str) -> Finding:
    return Finding("warning", found, do)


def problem(found: str, do: str) -> Finding:
    return Finding("problem", found, do)


def unknown(found: str, do: str = "") -> Finding:
    return Finding("unknown", found, do)
