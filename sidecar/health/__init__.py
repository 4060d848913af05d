"""Whether the worker is well: what is seen of it, and what follows from that.

:class:`WorkerHealth` decides and is pure. Nothing else in this package decides anything: it sends checks and probes,
reads counters, and hands on what came. Readiness is what the pool is told; ``/worker/livez`` says whether the worker's
process should be restarted, which is another question.
"""

from rumormill.sidecar.health.observations import CheckMiss, Condition, HealthVerdict, MissKind
from rumormill.sidecar.health.worker_health import HealthSettings, WorkerHealth

__all__ = ["CheckMiss", "Condition", "HealthSettings", "HealthVerdict", "MissKind", "WorkerHealth"]
