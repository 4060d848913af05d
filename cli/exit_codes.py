"""What the verbs' exit codes mean. They are a contract: scripts branch on them."""

from __future__ import annotations

import click

NONE_FOUND = 1
"""The question was answered, and the answer is nobody: no such worker, no owner."""

GATE_FAILED = 7
"""A guided rollout failed a gate; the share is back at 0."""

OUT_OF_HAND = 8
"""Somebody else changed or ended the rollout; nothing was done about it."""

INTERRUPTED = 130
"""Ctrl-C."""

EPILOG = """\b
Exit codes: 0 done; 1 the answer is nobody; 2 wrong flags or settings;
3 no sidecar answers; 4 the sidecar refuses; an agent also ends with
5 cannot listen on an address; 6 the name is taken by another live member.
A rollout also ends with 7 a gate failed, the share is back at 0;
8 somebody else ended it; 130 Ctrl-C, and the share stays as it is.
"""


class CliError(click.ClickException):
    """One line about what is wrong, one about what to do, and an exit code."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        """Both lines, on stderr."""
        click.echo(f"rumormill: {self.message}", err=True)
        if self.hint:
            click.echo(f"  hint: {self.hint}", err=True)


class BadRequest(CliError):
    """Wrong flags or files; nothing was done."""

    exit_code = 2


class Unreachable(CliError):
    """No sidecar answers at the address, or no longer."""

    exit_code = 3


class Refused(CliError):
    """A sidecar (or something else) answers, and not with what was asked for."""

    exit_code = 4
