"""How busy the worker is and whether it makes progress, read from its engine's own counters.

Reading a page is pure and bounded; fetching it has a connection of its own and a time limit. That the page cannot be
read says nothing of the worker: then its counters are unknown.
"""

from rumormill.sidecar.counters.reading import BadCounters, CounterReading

__all__ = ["BadCounters", "CounterReading"]
