"""One row of the table of routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from rumormill.discovery.api.context import ApiContext, RequestContext
from rumormill.discovery.formats import FormatName
from rumormill.discovery.http.response import Response

Q = TypeVar("Q", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(Generic[Q]):
    """One method on one path."""

    method: str
    path: str
    """Its last segment may be a parameter in braces: a field of `query`."""
    summary: str
    query: type[Q]
    answer: Any
    """The type of the JSON of a success; None if the answer is not JSON of ours."""
    handler: Callable[[ApiContext, RequestContext[Q]], Awaitable[Response]]
    status: int = 200
    body: type[msgspec.Struct] | None = None
    """The JSON it takes."""
    problems: tuple[int, ...] = ()
    """The error statuses particular to this route."""
    media: str = "application/json"
    other_media: str = ""
    """One more media type that the caller may ask for, of text."""
    conditional: bool = False
    """Whether it has an ETag, and so a 304."""
    versioned: bool = False
    """Whether the body it takes names a version, and so a 304."""
    from_view: bool = False
    """Whether the answer is made of the request and the view of the pool alone, so that the same request gets the same
    answer until the view changes. A request that blocked is answered anew each time."""
    unhealthy: bool = False
    """Whether the same JSON may come with a 503."""
    public: bool = False
    """Answered without a token: an orchestrator's probes have none."""
    format: FormatName | None = None
    """The format of other programs that it belongs to, which a setting may turn off."""

    @property
    def command(self) -> bool:
        """Whether it changes anything. In the formats of others a POST only asks."""
        return self.method != "GET" and self.format is None

    @property
    def path_parameter(self) -> str:
        """The name of the parameter in the path; empty without one."""
        return self.path.partition("{")[2].removesuffix("}")
