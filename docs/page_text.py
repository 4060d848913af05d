"""What docs/generate.py makes its pages of: Markdown, and what docstrings say of classes and their fields."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import msgspec

NOTE = (
    "<!-- Made by docs/generate.py from the code. Do not edit: change the code and run `make docs-reference`. -->\n\n"
)


def attribute_docs(kind: type) -> dict[str, str]:
    """The docstrings that stand behind a class's fields, its base classes' included."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("rumormill."):
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
            docs.update(docs_in(cast("ast.ClassDef", tree.body[0]).body))
    return docs


def attribute_docs_of_module(module: Any) -> dict[str, str]:
    return docs_in(ast.parse(inspect.getsource(module)).body)


def docs_in(body: list[ast.stmt]) -> dict[str, str]:
    docs: dict[str, str] = {}
    for before, after in pairwise(body):
        target = before.target if isinstance(before, ast.AnnAssign) else None
        if isinstance(before, ast.Assign):
            target = cast("ast.Name", before.targets[0])
        if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[target.id] = one_line(inspect.cleandoc(str(after.value.value)))
    return docs


def all_subclasses(kind: type) -> Iterator[type]:
    subclasses: list[type] = kind.__subclasses__()
    for inner in subclasses:
        yield inner
        yield from all_subclasses(inner)


def by_exit_code(kind: type) -> list[Any]:
    return sorted(all_subclasses(kind), key=lambda k: (k.exit_code, k.__name__))


def first_paragraph(kind: type) -> str:
    return one_line(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0])


def one_line(text: str) -> str:
    """One line of Markdown from a docstring."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").split())


def json_text(value: Any) -> str:
    return f"`{msgspec.json.encode(value).decode()}`" if value != "" else ""


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def fenced(text: str) -> str:
    return f"```text\n{text}\n```"


def anchor(title: str) -> str:
    """As Python-Markdown makes it of a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in row) + " |" for row in lines)


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def page(title: str, *parts: str) -> str:
    return NOTE + "\n\n".join((f"# {title}", *parts)) + "\n"
