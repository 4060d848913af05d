"""Shares of the keys as people write them, in percent."""

from __future__ import annotations

import re

from rumormill.cli.exit_codes import BadRequest

_SHARE = re.compile(r"(\d{0,3}(?:\.\d{1,4})?)\s*%?")


def percent(share: float) -> str:
    return f"{share * 100:g} %"


def parse_share(text: str) -> float:
    """``5%``, ``5`` or ``0.5%`` as a fraction of 1, in steps of 0.01 %. Raises :class:`BadRequest`."""
    found = _SHARE.fullmatch(text.strip())
    if found is None or not found[1].strip("."):
        raise BadRequest(f"{text!r} is not a share", "write a percentage: 5%, 0.5% or 100%")
    share = float(found[1]) / 100
    if share > 1:
        raise BadRequest(f"a share of {text} is more than all keys", "the maximum is 100%")
    if round(share * 10_000) != round(share * 1e8) / 1e4:
        raise BadRequest(f"{text!r} is too precise for a share", "use steps of 0.01%")
    return round(share, 4)
