"""The reference pages say what the code does: they are made from it, and made again here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def made_again() -> dict[str, str]:
    """What docs/generate.py makes of the code as it stands."""
    sys.path.insert(0, str(DOCS))
    spec = importlib.util.spec_from_file_location("generate_reference", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DOCS))
    pages: dict[str, str] = module.pages()
    return pages


@pytest.mark.parametrize(("name", "text"), made_again().items())
def test_the_reference_pages_are_those_the_code_makes(name: str, text: str) -> None:
    assert (DOCS / "reference" / name).read_text() == text, "the code has changed: run `make docs-reference`"
