"""Why an agent does not start, or stops. Each error has a message, a hint that says what to do, and an exit code.

AgentError
├── SettingsError   a flag, a variable or a file is wrong: nothing was started      exit code 2
├── BindError       an address cannot be bound: nothing was started                 exit code 5
└── NameTaken       another live member has the name: this one has stopped          exit code 6
"""

from __future__ import annotations


class AgentError(Exception):
    """An error that an operator can fix. ``message`` is one line about what is wrong, ``hint`` one about what to do. It
    is shown without a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SettingsError(AgentError):
    """A flag, a variable or a file is wrong. Nothing was started."""

    exit_code = 2


class BindError(AgentError):
    """The agent cannot listen on an address. Nothing was started."""

    exit_code = 5


class NameTaken(AgentError):
    """Another live member has the same name. The second member with a name stops; the first continues."""

    exit_code = 6
