"""``rumormill doctor``: runs the checks and shows what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
import msgspec
from click.core import ParameterSource

from rumormill.cli.doctor.facts import Facts, gather
from rumormill.cli.doctor.finding import Finding, problem, unknown
from rumormill.cli.exit_codes import DOCTOR_PROBLEM, DOCTOR_WARNING, EPILOG
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.tables import show_line
from rumormill.sidecar import AgentError

STYLES = {"ok": "green", "warning": "yellow", "problem": "red", "unknown": "dim"}


class CheckedFinding(msgspec.Struct, frozen=True):
    """A finding, and the check that it is of."""

    check: str
    verdict: str
    found: str
    do: str


@click.command(epilog=EPILOG)
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings of the agent, if it does not run."
)
@click.option("--peer", multiple=True, metavar="URL", help="Another sidecar, to compare with; can be repeated.")
@output_option
@sidecar_options
@click.pass_context
def doctor(ctx: click.Context, client: SidecarClient, config: Path | None, peer: tuple[str, ...], output: str) -> None:
    """Say what is wrong with the sidecar of this machine, and what to do about it.

    \b
      rumormill doctor
      rumormill doctor --peer http://10.0.0.2:7380
    An agent that does not start:
      rumormill doctor --config agent.toml --peer http://10.0.0.2:7380

    It looks at the settings in force, or at those of --config. Nothing is changed. It exits with 0 if all is well, with
    14 if there is a problem, and with 15 if there are only warnings. A check that could not be made is not a warning.
    """
    at_default = ctx.get_parameter_source("http") is ParameterSource.DEFAULT
    findings = list(examine(client, [client.at(url) for url in peer], config, at_default=at_default))
    if output == "json":
        click.echo(msgspec.json.encode(findings))
    else:
        _show(findings)
    verdicts = {each.verdict for each in findings}
    ctx.exit(DOCTOR_PROBLEM if "problem" in verdicts else DOCTOR_WARNING if "warning" in verdicts else 0)


def examine(
    client: SidecarClient, peers: list[SidecarClient], config: Path | None, *, at_default: bool = False
) -> Iterator[CheckedFinding]:
    """All findings. Raises CliError if there is neither a sidecar that answers nor a file of settings."""
    try:
        facts = gather(client, peers, config, at_default=at_default)
    except AgentError as error:
        yield _checked("settings", problem(error.message, error.hint))
        return
    from rumormill.cli.doctor.checks import CHECKS  # what they need takes longer to import than to ask the sidecar

    for name, check in CHECKS.items():
        for finding in _run(check, facts):
            yield _checked(name, finding)


def _run(check: Callable[[Facts], Iterable[Finding]], facts: Facts) -> Iterator[Finding]:
    """The findings of one check. What the operating system does not let it see is no end of the others."""
    try:
        yield from check(facts)
    except OSError as error:
        yield unknown(f"it could not be looked at: {error}", "run doctor on the agent's machine, as its user")


def _checked(name: str, finding: Finding) -> CheckedFinding:
    return CheckedFinding(name, finding.verdict, finding.found, finding.do)


def _show(findings: list[CheckedFinding]) -> None:
    for each in findings:
        show_line(f"{each.verdict:8} {each.check}: {each.found}", STYLES[each.verdict])
        if each.do and each.verdict != "ok":
            show_line(f"         do: {each.do}")
