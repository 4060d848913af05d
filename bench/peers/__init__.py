"""rumormill compared with its peers, on real processes and packets: ``python -m bench.peers``.

There is one process per member and one network namespace per host. All systems run on the same hosts at the same time
and take turns with faults. The processes stamp their own events with CLOCK_MONOTONIC. ``systems`` describes how each
system is started and read (one file per system), ``scenarios`` holds the faults and the bounds as data, ``measures``
applies them, and ``report`` and ``plot`` present the results (docs/understand/results.md).
"""
