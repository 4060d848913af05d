"""The page for people: three files that any browser runs as they are. They hold no data; the page asks for it."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

from rumormill.discovery.api.context import ApiContext, RequestContext
from rumormill.discovery.http.response import PreparedResponse, Response, prepare
from rumormill.discovery.schema.query_params import AnyQuery

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS: Final = (("Content-Security-Policy", _POLICY), ("Referrer-Policy", "no-referrer"))


def _file(name: str, media: str) -> PreparedResponse:
    body = files("rumormill.discovery").joinpath("page", name).read_bytes()
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:16]}"'
    return prepare(body, media=f"{media}; charset=utf-8", etag=etag, headers=_HEADERS)


_PAGE: Final = _file("page.html", "text/html")
_STYLE: Final = _file("page.css", "text/css")
_SCRIPT: Final = _file("page.js", "text/javascript")


async def index(api: ApiContext, call: RequestContext[AnyQuery]) -> Response:
    """The page for a browser, and the list of routes for a program."""
    return _PAGE if b"text/html" in call.request.headers.get(b"accept", b"") else api.documents.contents


async def style(_api: ApiContext, _call: RequestContext[AnyQuery]) -> Response:
    return _STYLE


async def script(_api: ApiContext, _call: RequestContext[AnyQuery]) -> Response:
    return _SCRIPT
