"""rumormill beside its peers on real processes and packets: ``python -m bench.peers`` (docs/understand/results.md).

One process a member, one network namespace a host; every system stands on the same hosts at the same time, and takes
its turn: a kill here, a kill there. Times are CLOCK_MONOTONIC of this machine, stamped by the processes themselves as
they conclude something. ``systems`` is what is compared and how each is started and understood (one file a system),
``scenarios`` what is done to them, as data, and what is promised; ``measures`` does it; ``report`` and ``plot`` tell.
"""
