"""The page of an incident: what each member concluded, and a sequence picture for each member that was doubted."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from rumormill.cli.durations import utc_stamp
from rumormill.cli.replay.about_member import DoubtStory, doubted_members, explanations, story_of, told
from rumormill.gossip.wire import AnyMessage, Dead, Heartbeat, Suspect, VoteMessage
from rumormill.recording.incident import Conclusion, Exchange, Incident
from rumormill.simulations.html_page import html_page, html_table
from rumormill.simulations.record_judge import Violation

MAX_PICTURES: Final = 6
MAX_CONCLUSIONS: Final = 500
COLUMN, TOP, SECOND, RIGHT = 150, 40, 420, 60
"""Pixels: between two members, above the first second, of one second, and beside the last member."""
COLORS: Final = {
    "heartbeat": "#94a3b8",
    "probe": "#2563eb",
    "suspicion": "#d97706",
    "vote": "#7c3aed",
    "death": "#dc2626",
    "other": "#64748b",
}
"""By what a datagram says, the weightiest message first."""


def incident_page(
    incident: Incident, verdicts: Sequence[str], violations: Sequence[Violation], only: str | None
) -> str:
    """The whole page. `verdicts` has a line for each segment; with `only`, the page is about this member."""
    subjects = [only] if only else doubted_members(incident)[:MAX_PICTURES]
    stories = [story for subject in subjects if (story := story_of(incident, subject)) is not None]
    conclusions = [c for c in incident.conclusions() if only is None or only in (c.event.member, c.observer)]
    sections = [
        ("Verdict", _verdict(verdicts, violations)),
        *((f"{story.subject}: how it came to be doubted", _story(incident, story)) for story in stories),
        ("What each member concluded", _conclusions(conclusions)),
    ]
    intro = (
        f"Played from the records of {', '.join(incident.members)}. Clocks are aligned by the datagrams that they "
        "exchanged; times are UTC, by the clock of the first record."
    )
    return html_page("Incident", intro, sections)


def _verdict(verdicts: Sequence[str], violations: Sequence[Violation]) -> str:
    found = [(utc_stamp(each.at), [each.invariant, each.text]) for each in violations]
    judged = (
        html_table(["violated at", "invariant", "what"], found, kind="words")
        if found
        else "<p>No invariant is violated.</p>"
    )
    return "".join(f"<p>{escape(line)}</p>" for line in verdicts) + judged


def _conclusions(conclusions: Sequence[Conclusion]) -> str:
    rows = [(utc_stamp(c.at), [c.observer, c.event.text]) for c in conclusions[:MAX_CONCLUSIONS]]
    more = len(conclusions) - len(rows)
    note = f'<p class="n">{more} later ones are left out; `rumormill replay -o json` has all.</p>' if more else ""
    return html_table(["time", "member", "concluded"], rows, kind="words") + note


def _story(incident: Incident, story: DoubtStory) -> str:
    lines = "".join(f"<p>{escape(line)}</p>" for line in explanations(story))
    legend = "".join(
        f'<span class="k"><i style="background:{color}"></i>{kind}</span>' for kind, color in COLORS.items()
    )
    note = "A cross: lost. Dashed: one of the two kept no record. A dot: a conclusion. Point at an arrow to read it."
    return f'{lines}<p class="legend">{legend}</p><p class="n">{note}</p>{sequence_picture(incident, story)}'


def sequence_picture(incident: Incident, story: DoubtStory) -> str:
    """Time runs down; each member is a line, and each datagram an arrow from when it left to when it arrived."""
    involved = {name for each in story.exchanges for name in (each.sender, each.receiver)}
    involved |= {c.observer for c in story.conclusions}
    members = [story.subject, *sorted(involved - {story.subject})]
    columns = {name: 90 + place * COLUMN for place, name in enumerate(members)}
    width, height = 90 + (len(members) - 1) * COLUMN + RIGHT + 90, TOP + (story.end - story.begin) * SECOND + 20
    parts = [_lifeline(name, x, height, recorded=name in incident.members) for name, x in columns.items()]
    parts += _seconds(story, width)
    parts += (_arrow(incident, story, each, columns) for each in story.exchanges)
    parts += (_dot(story, each, columns[each.observer]) for each in story.conclusions)
    label = f"Datagrams about {story.subject} over time"
    return (
        f'<div class="p"><svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}" '
        f'style="min-width:{width * 0.8:.0f}px">{"".join(parts)}</svg></div>'
    )


def _y(story: DoubtStory, at: float) -> float:
    return TOP + (at - story.begin) * SECOND


def _lifeline(name: str, x: float, height: float, *, recorded: bool) -> str:
    note, dash = ("", "") if recorded else (" (no record)", ' stroke-dasharray="2,4"')
    return (
        f'<text class="t m" x="{x}" y="16">{escape(name + note)}</text>'
        f'<line class="a" x1="{x}" x2="{x}" y1="24" y2="{height:.0f}"{dash}/>'
    )


def _seconds(story: DoubtStory, width: float) -> list[str]:
    """A thin line and the time each fifth of a second."""
    tick = 0.2
    first = int(story.begin / tick) + 1
    marks = (number * tick for number in range(first, int(story.end / tick) + 1))
    return [
        f'<line class="g" x1="62" x2="{width:.0f}" y1="{_y(story, at):.1f}" y2="{_y(story, at):.1f}"/>'
        f'<text class="t" x="2" y="{_y(story, at) + 4:.1f}">{utc_stamp(at)[17:23]}</text>'
        for at in marks
    ]


def _arrow(incident: Incident, story: DoubtStory, exchange: Exchange, columns: dict[str, int]) -> str:
    """Solid if it arrived; to a cross if it was lost; dashed where nobody recorded whether it left or arrived."""
    times = [at for at in (exchange.sent, exchange.received) if at is not None]
    lost = exchange.received is None and exchange.receiver in incident.members
    x1, x2 = columns[exchange.sender], columns[exchange.receiver]
    x2 = round(x1 + (x2 - x1) * 0.8) if lost else x2
    y1, y2 = _y(story, times[0]), _y(story, times[-1])
    color = COLORS[_kind(exchange.messages)]
    says = ", ".join(dict.fromkeys(told(incident, message) for message in exchange.messages)) or "sealed"
    dash = "" if len(times) == 2 or lost else ' stroke-dasharray="4,3"'
    return (
        f"<g><title>{escape(f'{exchange.sender} to {exchange.receiver}: {says}')}{' (lost)' if lost else ''}</title>"
        f'<line x1="{x1}" y1="{y1:.1f}" x2="{x2}" y2="{y2:.1f}" stroke="{color}"{dash}/>'
        f"{_cross(x2, y2, color) if lost else _head(x1, x2, y2, color)}</g>"
    )


def _head(x1: float, x2: float, y: float, color: str) -> str:
    back = x2 - 7 if x2 > x1 else x2 + 7
    return f'<path d="M{x2:.0f} {y:.1f}L{back:.0f} {y - 3:.1f}L{back:.0f} {y + 3:.1f}Z" fill="{color}"/>'


def _cross(x: float, y: float, color: str) -> str:
    return f'<path d="M{x - 4:.0f} {y - 4:.1f}l8 8m0 -8l-8 8" stroke="{color}" fill="none"/>'


def _dot(story: DoubtStory, conclusion: Conclusion, x: float) -> str:
    y, text = _y(story, conclusion.at), f"{conclusion.observer}: {conclusion.event.text}"
    color = COLORS["death" if conclusion.event.kind == "evicted" else "suspicion"]
    return (
        f'<g><title>{escape(text)}</title><circle cx="{x}" cy="{y:.1f}" r="5" fill="{color}"/>'
        f'<text class="t" x="{x + 8}" y="{y - 5:.1f}">{escape(conclusion.event.kind)}</text></g>'
    )


def _kind(messages: Sequence[AnyMessage]) -> str:
    """What matters most in a datagram."""
    types = {type(message) for message in messages}
    for kind, wanted in (("death", Dead), ("vote", VoteMessage), ("suspicion", Suspect)):
        if wanted in types:
            return kind
    if types and types <= {Heartbeat}:
        return "heartbeat"
    return "probe" if {each.__name__ for each in types} & {"Ping", "Ack", "PingRequest", "IndirectAck"} else "other"
