"""The exit codes of the verbs. They are a contract: scripts branch on them."""

from __future__ import annotations

import click

NONE_FOUND = 1
"""The sidecar has answered, and the result is empty: no worker, or no owner."""

GATE_FAILED = 7
"""A gate of a guided rollout failed; the share is back at 0."""

TAKEN_OVER = 8
"""Somebody else changed or ended the rollout; this command did nothing more."""

PROBE_SLOW = 9
"""The probed worker's answer is right but came later than the budget, or the worker is overloaded."""

PROBE_WRONG = 10
"""The probed worker's answer is wrong."""

PROBE_SILENT = 11
"""The probed worker refuses the connection, closes or resets it."""

PROBE_TIMED_OUT = 12
"""The probed worker does not answer in time."""

NOT_DRAINED = 9
"""The deadline passed while the worker still had requests. It goes on draining."""

GUARD_STOPPED = 13
"""Too many requests failed, so `chaos run` stopped and undid everything."""

DOCTOR_PROBLEM = 14
"""`rumormill doctor` has found a problem."""

DOCTOR_WARNING = 15
"""`rumormill doctor` has found nothing worse than a warning."""

INTERRUPTED = 130
"""Ctrl-C. `chaos run` undid everything, and ends with 143 after a SIGTERM."""

EPILOG = """\b
Exit codes: 0 done; 1 the result is empty; 2 wrong flags or settings;
3 no sidecar answers; 4 the sidecar refuses. An agent also exits with
5 cannot listen on an address; 6 another live member has the name.
A rollout also exits with 7 a gate failed, the share is back at 0;
8 somebody else ended it; 130 Ctrl-C, and the share stays as it is.
A drain with --wait exits with 9 when its deadline has passed.
A probe also exits with 9 right but late; 10 wrong; 11 refused; 12 silent.
A doctor also exits with 14 a problem was found; 15 only warnings.
"""


class CliError(click.ClickException):
    """An error of a verb: one line about what is wrong, a hint about what to do, and an exit code."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        """Both lines, on stderr."""
        click.echo(f"rumormill: {self.message}", err=True)
        if self.hint:
            click.echo(f"  hint: {self.hint}", err=True)


class BadRequest(CliError):
    """Wrong flags or files. Nothing was done."""

    exit_code = 2


class Unreachable(CliError):
    """No sidecar answers at the address, or it has stopped answering."""

    exit_code = 3


class Refused(CliError):
    """The sidecar refused, or something other than a sidecar answered."""

    exit_code = 4
