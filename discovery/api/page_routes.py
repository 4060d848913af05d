"""The routes of the page for people. Anybody may load the page; what it shows, it asks for with the caller's token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from rumormill.discovery.api import page_handlers
from rumormill.discovery.api.context import ApiContext, RequestContext
from rumormill.discovery.api.route import Route
from rumormill.discovery.http.response import Response
from rumormill.discovery.schema.answers import IndexAnswer
from rumormill.discovery.schema.query_params import AnyQuery


def _file(
    path: str, summary: str, handler: Callable[[ApiContext, RequestContext[AnyQuery]], Awaitable[Response]], media: str
) -> Route[Any]:
    return Route(
        method="GET",
        path=path,
        summary=summary,
        query=AnyQuery,
        answer=None,
        handler=handler,
        media=media,
        conditional=True,
        public=True,
    )


PAGE_ROUTES: Final[tuple[Route[Any], ...]] = (
    _file("/page.css", "The style of the page", page_handlers.style, "text/css"),
    _file("/page.js", "The program of the page", page_handlers.script, "text/javascript"),
    Route(
        method="GET",
        path="/",
        summary="The list of routes; for a browser, a page that shows the pool",
        query=AnyQuery,
        answer=IndexAnswer,
        handler=page_handlers.index,
        conditional=True,
        public=True,
    ),
)
