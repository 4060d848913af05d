"""The sidecar process: it reads the settings, checks its worker, and runs gossip and discovery in one process.

This package opens the sockets and files and handles the signals. It holds no protocol rules. It may import every other
package but client, cli and simulations. Others use :func:`load` (reads settings from flags, variables and TOML), the
errors, and :func:`rumormill.sidecar.agent.run` (runs an agent from start to end), which stands apart because it imports
all that an agent is made of: a verb that only reads a key file or the settings must not wait for that.
"""

from rumormill.sidecar.errors import AgentError, BindError, NameTaken, SettingsError
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_sources import load

__all__ = ["AgentError", "BindError", "NameTaken", "Settings", "SettingsError", "load"]
