"""One worker's companion: reads its settings, checks its worker, and wires gossip and discovery into one process.

This room is the shell of shells: it opens the sockets and files, hears the signals, and holds no rule of the protocol.
Into it may come everything but client, cli and simulations. Others need :func:`load` (settings from flags, variables
and TOML), :func:`run` (an agent's whole life) and the errors that stand in the way of either.
"""

import rumormill.sidecar.log  # noqa: F401  first: it decides what structlog brings with it

# isort: split
from rumormill.sidecar.agent import run
from rumormill.sidecar.errors import AgentError, BindError, NameTaken, SettingsError
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_sources import load

__all__ = ["AgentError", "BindError", "NameTaken", "Settings", "SettingsError", "load", "run"]
