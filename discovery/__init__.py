"""What callers ask: who is in the pool, who serves this key, what happened.

`view` is the pure part: a PoolView in, encoded answers and their indexes out. The rest is the HTTP shell around it, on
trio streams, sharing the loop with gossip and never making it late. Into this room may come `membership` (what is
known) and `ring` (who owns a key); whatever it changes, it changes through the :class:`Commands` the sidecar hands it.
"""

from rumormill.discovery.commands import Commands, Status
from rumormill.discovery.http.access import Access
from rumormill.discovery.http.limits import Limits
from rumormill.discovery.server import DiscoveryServer
from rumormill.discovery.view import Representation, RoutingView, ServiceView

__all__ = ["Access", "Commands", "DiscoveryServer", "Limits", "Representation", "RoutingView", "ServiceView", "Status"]
