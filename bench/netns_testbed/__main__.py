"""``python -m bench.netns_testbed`` says why no test bed can be made here, and ends with 1; 0 where one can."""

import sys

from bench.netns_testbed import why_not

if (trouble := why_not()) is not None:
    sys.stdout.write(trouble + "\n")
    sys.exit(1)
