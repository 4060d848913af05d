"""Links between the pages lead somewhere, headings included, and every page stands in the site's contents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What links may name in a page: its headings, as Python-Markdown writes them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\]\([^)]*\)|[\[`*]", "", title)
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        number, anchor = 0, slug
        while anchor in found:
            number += 1
            anchor = f"{slug}_{number}"
        found.add(anchor)
    return found | set(re.findall(r'id="([^"]+)"', page.read_text()))


def leads_nowhere(page: Path, target: str) -> bool:
    if target.startswith(("http://", "https://")):
        return False
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    return not there.exists() or (bool(anchor) and anchor not in anchors(there))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    assert [target for target in targets if leads_nowhere(page, target)] == []


def test_every_page_stands_in_the_contents_of_the_site() -> None:
    contents = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    docs = ROOT / "docs"
    assert contents == {str(page.relative_to(docs)) for page in docs.rglob("*.md")}


def test_the_code_names_pages_that_exist() -> None:
    rooms = [room.parent for room in ROOT.glob("*/__init__.py")] + [ROOT / "tests"]
    sources = [path for room in rooms for path in room.rglob("*.py")]
    for path in [*sources, ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "ring" / "reference.mjs"]:
        for page in re.findall(r"docs/[\w/-]+\.md", path.read_text()):
            assert (ROOT / page).exists(), f"{path.relative_to(ROOT)} names {page}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_pages_name_files_that_exist(page: Path) -> None:
    rooms = "|".join(room.parent.name for room in ROOT.glob("*/__init__.py"))
    named = re.findall(rf"\b(?:tests|{rooms})/[\w/.]*\.(?:py|json|mjs)\b", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
