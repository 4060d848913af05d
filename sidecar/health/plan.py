"""How one worker is looked at: its engine's profile, with what the settings say instead."""

from __future__ import annotations

from dataclasses import dataclass, field

from rumormill.sidecar.counters.counter_reader import CounterSource
from rumormill.sidecar.engines import ENGINES, EngineProfile
from rumormill.sidecar.health.worker_health import HealthSettings
from rumormill.sidecar.probes import Probe
from rumormill.sidecar.probes.specification import ProbeSpec
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import HostPort, WorkerUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """Times in seconds."""

    url: WorkerUrl
    path: str
    """Path of the readiness check; :data:`rumormill.sidecar.settings_values.NO_CHECK` for none."""
    timeout: float
    """Seconds that the readiness check may take."""
    judge: HealthSettings
    busy_statuses: frozenset[int] = frozenset()
    counters: CounterSource | None = None
    probe: Probe | None = field(default=None, compare=False)

    @property
    def unit(self) -> str:
        """What one step of progress is."""
        return self.counters.counters.progress_unit if self.counters else "counter moved"


def plan_of(settings: Settings, spec: ProbeSpec | None, probe: Probe | None) -> WorkerPlan:
    """The plan that these settings make, and the probe that was read with them."""
    profile = ENGINES[settings.engine]
    return WorkerPlan(
        url=settings.worker,
        path=settings.worker_check or profile.readiness_path,
        timeout=settings.worker_check_timeout or profile.readiness_timeout,
        judge=HealthSettings(
            period=settings.worker_check_period,
            stall_time=settings.stall_time,
            restart_after=settings.restart_after,
            probe_budget=spec.budget if spec else None,
        ),
        busy_statuses=profile.busy_statuses,
        counters=counter_source(settings.worker, profile, settings.worker_metrics, settings.worker_capacity),
        probe=probe,
    )


def counter_source(
    worker: WorkerUrl, profile: EngineProfile, page: WorkerUrl | None = None, capacity: int | None = None
) -> CounterSource | None:
    """Where an engine's counters are; None if it has none. ``page`` and ``capacity`` win over what the profile says."""
    counters = profile.counters
    if counters is None:
        return None
    capacity = capacity or profile.capacity
    if page is not None:
        return CounterSource(page, "", counters, capacity)
    if counters.port is None:
        return CounterSource(worker, counters.path, counters, capacity, profile.capacity_page)
    scheme = "https" if worker.secure else "http"
    beside = HostPort(worker.endpoint.host, counters.port)
    return CounterSource(WorkerUrl(f"{scheme}://{beside}"), counters.path, counters, capacity)
