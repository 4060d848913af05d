"""``python -m bench.bed`` says why no test bed can be made here, and ends with 1; 0 where one can."""

import sys

from bench.bed import why_not

if (trouble := why_not()) is not None:
    sys.stdout.write(trouble + "\n")
    sys.exit(1)
