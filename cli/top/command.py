"""The verb: asks for the screen, and says how to get it where textual is missing."""

from __future__ import annotations

import click

from rumormill.cli.exit_codes import EPILOG, BadRequest
from rumormill.cli.http_client import SidecarClient, sidecar_options


@click.command(epilog=EPILOG)
@sidecar_options
@click.option(
    "--every",
    type=click.FloatRange(0.2, 60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Pause between two looks.",
)
def top(sidecar: SidecarClient, every: float) -> None:
    """Show the pool in this terminal, live: members, load, and what happened. It fits 80 by 24, over SSH too.

    Keys: q ends it, / shows only members that contain a text, Esc shows all again, Tab goes to the events.

    \b
      rumormill top
      rumormill top --http http://10.0.0.1:7380
    """
    try:
        from rumormill.cli.top.screen import TopScreen
    except ImportError:
        raise BadRequest("rumormill top needs textual", "pip install 'rumormill[top]'") from None
    TopScreen(sidecar, every).run()
