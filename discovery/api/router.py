"""Finds the route and the checked parameters of a request, or the rejection that says what to do instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from rumormill.discovery.api.query_parsing import parse_foreign_query_untrusted, parse_query_untrusted
from rumormill.discovery.api.route import Route
from rumormill.discovery.http.access import AccessControl
from rumormill.discovery.http.request import Request
from rumormill.discovery.http.response import RequestRejected, refuse
from rumormill.discovery.schema.query_params import AnyQuery, ConsulAgentQuery

RouteMatch = tuple[Route[Any], msgspec.Struct]

MAX_CACHED_TARGETS: Final = 512
"""Most targets whose parsed parameters are cached: pollers send the same target again and again."""
MAX_CACHED_TARGET_LENGTH: Final = 256


class Router:
    """Matches requests against the table of routes, and checks access. Health routes need no access."""

    def __init__(self, access_control: AccessControl, routes: Iterable[Route[Any]]) -> None:
        self.access_control = access_control
        """May be replaced at any time: each request reads it."""
        self._by_path: dict[str, dict[str, Route[Any]]] = {}
        self._by_prefix: dict[str, dict[str, Route[Any]]] = {}
        """Routes with a parameter in the path, under what precedes it."""
        for route in routes:
            prefix, slash, _ = route.path.partition("/{")
            place = self._by_prefix if slash else self._by_path
            place.setdefault(prefix, {})[route.method] = route
        self._cached_targets: dict[tuple[bytes, bytes], RouteMatch] = {}

    def find(self, request: Request) -> RouteMatch:
        """The route and its parameters. Raises :class:`RequestRejected`: 400, 401, 403, 404, 405, 421."""
        key = (request.method, request.target)
        found = self._cached_targets.get(key)
        if found is None:
            found = self._find(request)
            if len(request.target) <= MAX_CACHED_TARGET_LENGTH:
                if len(self._cached_targets) >= MAX_CACHED_TARGETS:
                    self._cached_targets.clear()
                self._cached_targets[key] = found
        route = found[0]
        if not route.public:
            self.access_control.check(request, command=route.command)
        return found

    def _find(self, request: Request) -> RouteMatch:
        path, query = _split_untrusted(request.target)
        methods, parameter = self._by_path.get(path), ""
        if methods is None:
            prefix, _, parameter = path.rpartition("/")
            methods = self._by_prefix.get(prefix) if parameter else None
        if methods is None:
            raise self._unknown(path)
        method = request.method.decode("ascii")
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            raise self._not_allowed(path, method, methods)
        return route, _parameters_untrusted(route, query, parameter)

    def _unknown(self, path: str) -> RequestRejected:
        near = difflib.get_close_matches(path[:64], [*self._by_path, *self._by_prefix], 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "the routes are listed at / and in /openapi.json"
        return refuse(404, f"there is nothing at {path[:64]!r}", hint)

    def _not_allowed(self, path: str, method: str, methods: dict[str, Route[Any]]) -> RequestRejected:
        allowed = [name for known in methods for name in ([known, "HEAD"] if known == "GET" else [known])]
        allow = ", ".join(allowed)
        return refuse(405, f"{path} does not answer {method}", f"use {allow}", headers=(("Allow", allow),))


def _parameters_untrusted(route: Route[Any], query: str, parameter: str) -> msgspec.Struct:
    if route.query is AnyQuery:
        return AnyQuery()
    kind: type[msgspec.Struct] = route.query
    if not issubclass(kind, ConsulAgentQuery):
        return parse_query_untrusted(query, kind)
    in_path = {route.path_parameter: unquote(parameter, errors="replace")} if route.path_parameter else {}
    return parse_foreign_query_untrusted(query, kind, in_path)


def _split_untrusted(target: bytes) -> tuple[str, str]:
    """Path and query of a request target, in origin form or absolute."""
    text = target.decode("latin-1")
    if not text.startswith("/"):
        try:
            parts = urlsplit(text)
        except ValueError:
            raise refuse(400, "the request target is not a URL", "send a path, such as /v1/workers") from None
        return parts.path or "/", parts.query
    path, _, query = text.partition("?")
    return path, query.partition("#")[0]
