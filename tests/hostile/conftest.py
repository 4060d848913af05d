"""The agents under fire are those of the sidecar's tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "sidecar"))
