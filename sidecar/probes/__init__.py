"""Deep probes: a known request to the worker, and a judgement of its answer.

A health path says that a server is up. A probe finds out whether the engine behind it computes, and computes right.
Each kind of probe gives one :class:`ProbeOutcome` for each run. What becomes of the worker is decided elsewhere. The
expectations are pure; the rest opens a connection of its own for each run.
"""

from rumormill.sidecar.probes.outcome import Probe, ProbeOutcome, ProbeVerdict

__all__ = ["Probe", "ProbeOutcome", "ProbeVerdict"]
