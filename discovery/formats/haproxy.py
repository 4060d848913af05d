"""HAProxy's agent check: one line that says what HAProxy is to do with a server.

``up ready 10000%``: it takes new work, with this weight. ``up drain``: it takes none and finishes what it has.
``down #why``: it is not to be used.

HAProxy multiplies the percentage with the weight in its configuration, which is 1 by default, and cuts the result to a
whole number from 0 to 256; 0 takes no traffic. So every answer is at least 100 %, and a normal worker's is 10000 %: it
has weight 100 where the configuration gives none.
"""

from __future__ import annotations

from typing import Final

from rumormill.discovery.formats.traffic import offers, weights_of
from rumormill.discovery.service_view import ServiceView
from rumormill.discovery.workers import unroutable_reason
from rumormill.ring.worker import Worker

NORMAL_WEIGHT: Final = 100
MAX_WEIGHT: Final = 256
LAST_RESORT: Final = b"up ready 100%\n"
DRAINING: Final = b"up drain\n"
UNKNOWN: Final = b"down #not in the pool\n"


def answers(view: ServiceView) -> dict[str, bytes]:
    """The answer for each worker of a service, by its name."""
    offered = view.derived(offers)
    weights = weights_of(offered, normal=NORMAL_WEIGHT, most=MAX_WEIGHT)
    found = {}
    for offer in offered:
        name = offer.worker.name
        if not offer.ready:
            found[name] = _not_ready(offer.worker)
        elif offer.last_resort:
            found[name] = LAST_RESORT
        else:
            found[name] = b"up ready %d%%\n" % (100 * weights[name])
    return found


def service_of(view: ServiceView) -> dict[str, str]:
    """The service of each worker, by its name; from the view of all services."""
    return {worker.name: worker.service for worker in view.workers}


def _not_ready(worker: Worker) -> bytes:
    if worker.readiness == "draining" or worker.routable or worker.weight == 0:
        return DRAINING
    # What follows '#' is for people. HAProxy cuts it at the end of the line.
    return b"down #" + unroutable_reason(worker).encode("ascii", "replace") + b"\n"
