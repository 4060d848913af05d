"""Why an agent does not start, or stops: one line to read, one line that says what to do, one code for scripts.

AgentError
├── SettingsError   a flag, a variable, a file: nothing was started                    exit code 2
├── BindError       an address cannot be bound: nothing was started                    exit code 5
└── NameTaken       another live member holds the name: this one has fallen silent     exit code 6
"""

from __future__ import annotations


class AgentError(Exception):
    """Says in one line what is wrong and in another what to do about it. No traceback belongs with it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SettingsError(AgentError):
    """What was asked for cannot be meant."""

    exit_code = 2


class BindError(AgentError):
    """The machine will not give us the address."""

    exit_code = 5


class NameTaken(AgentError):
    """A second live node with a name in use stops; the first goes on."""

    exit_code = 6
