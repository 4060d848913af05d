"""Do all members beat at the same pace? One with another --period is suspected for nothing, or found dead late."""

from __future__ import annotations

from collections.abc import Iterator

from rumormill.cli.doctor.facts import Facts
from rumormill.cli.doctor.finding import Finding, ok, problem


def check(facts: Facts) -> Iterator[Finding]:
    own = float(facts.settings.period)
    others = [row for row in facts.present if abs(row.period - own) > 0.0005]
    if not others:
        yield ok(f"every known member has a period of {own * 1000:g} ms, as this one")
        return
    named = ", ".join(f"{row.name} ({row.period * 1000:g} ms)" for row in others[:8])
    yield problem(
        f"this member has a period of {own * 1000:g} ms, and these have another: {named}",
        "give every member the same --period and restart those that differ",
    )
