"""What the pages have a reader type exists: verbs, options, routes, metrics, settings, and Python that Python reads.

Whole walkthroughs are run by tests/processes/test_walkthroughs.py.
"""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rumormill.cli.main import rumormill
from rumormill.discovery.api.routes import ROUTES
from rumormill.sidecar.settings import fields
from rumormill.sidecar.settings_sources import OTHER_VARIABLES, load, variable_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BY_HAND = [page for page in PAGES if "docs/generate.py" not in page.read_text()[:100]]
EXTENSIONS = {"rumormill_worker", "rumormill_attempts", "rumormill_listen", "rumormill_replay"}
"""Of a client's responses, and of Envoy's node."""


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(body) for _, body in found]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `rumormill ...` in a page's blocks of shell, up to what the shell does with it."""
    for block in blocks(page, "sh"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for part in re.findall(r"(?:^|[ (;/])(rumormill [a-z].*)", line):
                yield shlex.split(part, comments=True)


def test_there_are_commands_to_look_at() -> None:
    assert sum(1 for page in PAGES for _ in commands(page)) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_and_options_exist(page: Path) -> None:
    for words in commands(page):
        command: click.Command = rumormill
        for word in words[1:]:
            if word in ("|", ">", "2>", "&", ";", "&&", "--"):
                break
            if isinstance(command, click.Group) and not word.startswith("-"):
                inner = command.get_command(click.Context(command), word)
                assert inner is not None, f"there is no {' '.join(words)}"
                command = inner
            elif word.startswith("--") or re.fullmatch("-[a-z]", word):
                options = {name for parameter in command.params for name in parameter.opts}
                assert word.partition("=")[0] in options, f"{word} in {' '.join(words)}"


ENGINE_ROUTES = {"/v1/embeddings", "/v1/completions", "/v1/chat/completions", "/v1/models"}
"""Of the workers, by OpenAI's interface."""


@pytest.mark.parametrize("page", BY_HAND, ids=lambda page: str(page.relative_to(ROOT)))
def test_routes_settings_and_metrics_exist(page: Path) -> None:
    text = page.read_text()
    routes = {route.path for route in ROUTES}
    assert set(re.findall(r"/v1/[a-z]+(?:/[a-z{}]+)*", text)) <= routes | ENGINE_ROUTES
    metrics = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    named = set(re.findall(r"`(rumormill_[a-z_]+)", text)) - EXTENSIONS
    assert [name for name in named if f"`{name}" not in metrics] == []
    variables = {variable_of(field.encode_name) for field in fields()}
    known = {*OTHER_VARIABLES, "RUMORMILL_HTTP", "RUMORMILL_SERVICE", "RUMORMILL_RELEASE", "RUMORMILL_SHARE"}
    assert set(re.findall(r"RUMORMILL_[A-Z_]+", text)) <= variables | known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_reads_the_blocks_of_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", BY_HAND, ids=lambda page: str(page.relative_to(ROOT)))
def test_numbers_and_words_are_written_in_one_way(page: Path) -> None:
    """0.5 and not .5; American spelling."""
    text = re.sub(r"`[^`]*`|^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"(?<![\w.\])])\.\d+", text) == []
    assert re.findall(r"\b\w*(?:isation|olour|aviour|eighbour|efence|centre|grey)\b", text) == []


def test_the_world_of_the_simulation_page_does_what_it_says() -> None:
    (block,) = blocks(ROOT / "docs" / "understand" / "simulation.md", "python")
    exec(compile(block, "simulation.md", "exec"), {})


def test_the_settings_file_is_taken(tmp_path: Path) -> None:
    (block,) = blocks(ROOT / "docs" / "run" / "agent.md", "toml")
    file = tmp_path / "agent.toml"
    file.write_text(block)
    assert load({}, {}, file).drain_time == 30
