"""The reference page of the engine profiles."""

from __future__ import annotations

from collections.abc import Iterator

from page_text import page, table

from rumormill.sidecar.engines import ENGINES, Alternatives, EngineProfile, PrometheusCounters


def engines_page() -> str:
    """Every engine with what its profile says."""
    rows = [
        (
            f"[`{profile.name}`](#{profile.name.replace('.', '')})",
            profile.title,
            f"`{profile.readiness_path}`",
            f"{profile.readiness_timeout:g} s",
            _where(profile),
            f"`{profile.probe.value}`",
            _capacity(profile),
        )
        for profile in ENGINES.values()
    ]
    head = ("`--engine`", "is", "readiness path", "time-out", "counters", "probe", "capacity")
    return page(
        "Engines",
        "What `--engine` sets, and in which cases each engine is known to report its health wrongly. "
        "[Check the worker](../run/worker-check.md) says what the agent concludes. A `kserve` probe needs a "
        "[probe file](../run/probes.md) that names the model and its inputs; without one, the engine is not probed.",
        table(head, rows),
        *[part for profile in ENGINES.values() for part in _section(profile)],
    )


def _capacity(profile: EngineProfile) -> str:
    if (page := profile.capacity_page) is not None:
        return f"`{page.key}` of `{page.path}`"
    return str(profile.capacity or "")


def _where(profile: EngineProfile) -> str:
    if profile.counters is None:
        return "none"
    return f"`{profile.counters.path}`" + (f", port {profile.counters.port}" if profile.counters.port else "")


def _section(profile: EngineProfile) -> Iterator[str]:
    yield f"## {profile.name}"
    yield "\n".join(f"- {lie[0].upper()}{lie[1:]}." for lie in profile.lies)
    yield f"**Drained** when {profile.drained}"
    if isinstance(profile.counters, PrometheusCounters):
        counters = profile.counters
        figures = (
            ("running", counters.running),
            ("waiting", counters.waiting),
            ("cache use", counters.cache_use),
            ("capacity", counters.capacity),
            ("awake", counters.awake),
            ("progress", counters.progress),
        )
        yield table(("figure", "series"), [(name, _ways(ways)) for name, ways in figures])


def _ways(alternatives: Alternatives) -> str:
    """The newest name first."""
    return "; else ".join(" + ".join(f"`{one}`" for one in way) for way in alternatives) or "not given"
