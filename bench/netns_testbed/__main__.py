"""``python -m bench.netns_testbed`` exits with 0 if a testbed can be made; else it prints why not and exits with 1."""

import sys

from bench.netns_testbed import unavailable_reason

if (reason := unavailable_reason()) is not None:
    sys.stdout.write(reason + "\n")
    sys.exit(1)
