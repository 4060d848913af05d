"""The sidecar process: it reads the settings, checks its worker, and runs gossip and discovery in one process.

This package opens the sockets and files and handles the signals. It holds no protocol rules. It may import every other
package but client, cli and simulations. Others use :func:`load` (reads settings from flags, variables and TOML),
:func:`run` (runs an agent from start to end) and the errors that both raise.
"""

import rumormill.sidecar.log  # noqa: F401  must be first: it hides rich from structlog

# isort: split
from rumormill.sidecar.agent import run
from rumormill.sidecar.errors import AgentError, BindError, NameTaken, SettingsError
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_sources import load

__all__ = ["AgentError", "BindError", "NameTaken", "Settings", "SettingsError", "load", "run"]
