"""The screen of ``rumormill top``. Each look asks the sidecar in a thread, so that a slow one blocks no key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, RichLog, Static

from rumormill.cli.exit_codes import CliError
from rumormill.cli.http_client import SidecarClient
from rumormill.discovery.commands import Status
from rumormill.discovery.schema.answers import EventRow, EventsAnswer, MemberRow, MembersAnswer
from rumormill.discovery.schema.workers import WorkersAnswer

COLUMNS = ("NAME", "LIVENESS", "READINESS", "SERVICE", "RELEASE", "LOAD", "WHY")
SIGNS = {
    "alive": ("●", "green"),
    "suspect": ("◐", "yellow"),
    "dead": ("✖", "red"),
    "left": ("○", "dim"),
    "passing": ("✔", "green"),
    "warning": ("▲", "yellow"),
    "critical": ("✖", "red"),
    "draining": ("⇣", "dim"),
    "starting": ("…", "dim"),
}
"""A sign and a color for each state, so that neither stands alone."""
EVENT_STYLES = {"evicted": "red", "isolated": "red", "taken": "red", "suspected": "yellow", "paused": "yellow"}


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the sidecar showed."""

    status: Status
    members: list[MemberRow]
    loads: dict[str, float]
    """By instance, where known; 1.0 is full."""
    events: list[EventRow]


def look_at(sidecar: SidecarClient) -> Look:
    """Ask for everything that the screen shows. Raises :class:`CliError`."""
    workers = sidecar.get("/v1/workers", {}, WorkersAnswer)[0].workers
    loads = {worker.instance: worker.utilization for worker in workers if worker.utilization is not None}
    members = sidecar.get("/v1/members", {}, MembersAnswer)[0].members
    events = sidecar.get("/v1/events", {}, EventsAnswer)[0].events
    return Look(sidecar.get("/v1/status", {}, Status)[0], members, loads, events)


class TopScreen(App[None]):
    """One sidecar's view of the pool."""

    TITLE = "rumormill top"
    CSS = """
    #summary { height: auto; padding: 0 1; }
    #summary.trouble { background: $error 30%; text-style: bold; }
    #filter { display: none; }
    #filter.shown { display: block; }
    DataTable { height: 3fr; }
    RichLog { height: 1fr; min-height: 4; border-top: solid $primary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("slash", "filter", "Show only"),
        Binding("escape", "unfilter", "Show all"),
    ]

    def __init__(self, sidecar: SidecarClient, every: float) -> None:
        super().__init__()
        self._sidecar = sidecar
        self._every = every
        self._look: Look | None = None
        self._shown_events = 0
        self._process = ""

    def compose(self) -> ComposeResult:
        yield Static("asking …", id="summary", markup=False)
        yield Input(placeholder="a name, service, release or state", id="filter")
        yield DataTable(cursor_type="row", zebra_stripes=True)
        yield RichLog(wrap=True, markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(DataTable).add_columns(*COLUMNS)
        self.query_one(DataTable).focus()
        self.look()
        self.set_interval(self._every, self.look)

    @work(thread=True, exclusive=True)
    def look(self) -> None:
        """Ask the sidecar, and show what it says."""
        try:
            found = look_at(self._sidecar)
        except CliError as error:
            self.call_from_thread(self.show_trouble, str(error))
        else:
            self.call_from_thread(self.show, found)

    def show_trouble(self, text: str) -> None:
        summary = self.query_one("#summary", Static)
        summary.update(f"{text}. What is below may be old; trying again.")
        summary.add_class("trouble")

    def show(self, look: Look) -> None:
        self._look = look
        status = look.status
        summary = self.query_one("#summary", Static)
        summary.update(summary_of(look))
        summary.set_class(bool(status.isolated or status.stopped), "trouble")
        self._show_members()
        self._show_events(look)

    def _show_members(self) -> None:
        if self._look is None:
            return
        table, wanted = self.query_one(DataTable), self.query_one("#filter", Input).value.lower()
        place = table.cursor_row
        table.clear()
        for member in self._look.members:
            cells = row_of(member, self._look.loads.get(member.instance))
            if wanted in " ".join(str(cell) for cell in cells).lower():
                table.add_row(*cells)
        table.move_cursor(row=min(place, max(table.row_count - 1, 0)))

    def _show_events(self, look: Look) -> None:
        log = self.query_one(RichLog)
        if look.status.process != self._process:  # the sidecar was restarted and counts from 1 again
            self._process, self._shown_events = look.status.process, 0
            log.clear()
        for event in look.events:
            if event.index > self._shown_events:
                self._shown_events = event.index
                log.write(Text(f"{clock(event.at)}  {event.text}", EVENT_STYLES.get(event.kind, "")))

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.add_class("shown")
        box.focus()

    def action_unfilter(self) -> None:
        box = self.query_one("#filter", Input)
        box.value = ""
        box.remove_class("shown")
        self.query_one(DataTable).focus()

    def on_input_changed(self) -> None:
        self._show_members()

    def on_input_submitted(self) -> None:
        self.query_one(DataTable).focus()


def summary_of(look: Look) -> str:
    """The lines at the top: whose view it is, how many take work, and what is wrong."""
    status, members = look.status, look.members
    routable = [member for member in members if member.routable]
    spare = max(sum(member.liveness == "alive" for member in routable) - 1, 0)
    dead = sum(member.liveness == "dead" for member in members)
    lines = [f"{status.cluster}, as {status.name} sees it: {len(routable)} take work, {spare} may fail, {dead} dead"]
    if status.isolated:
        lines.append(f"CUT OFF: {status.connectivity_why}")
    if status.seal == "plaintext":
        lines.append("PLAINTEXT: anybody on the network can forge gossip")
    if status.unready:
        lines.append(f"own worker: {status.unready}")
    return "\n".join(lines)


def row_of(member: MemberRow, load: float | None) -> tuple[Text, ...]:
    """The cells of one member, in the order of :data:`COLUMNS`."""
    return (
        Text(member.name),
        sign(member.liveness),
        sign(member.readiness),
        Text(member.service),
        Text(member.release),
        Text("" if load is None else f"{load:.0%}"),
        Text(member.why),
    )


def sign(word: str) -> Text:
    mark, style = SIGNS.get(word, ("?", ""))
    return Text(f"{mark} {word}", style)


def clock(stamp: str) -> str:
    """The time of day of an RFC 3339 timestamp."""
    return stamp.partition("T")[2].removesuffix("Z")
