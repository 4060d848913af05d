"""A URL a line, for shell scripts and generated configurations. Suspects come last."""

from __future__ import annotations

from typing import Final

from rumormill.discovery.http.response import PreparedResponse
from rumormill.discovery.service_view import ServiceView

MEDIA: Final = "text/plain; charset=utf-8"


def url_list(view: ServiceView, *, ready: bool) -> PreparedResponse:
    """The workers' URLs, each once; with `ready` only of those that take new work."""
    workers = [worker for worker in view.workers if worker.url and (worker.routable or not ready)]
    workers.sort(key=lambda worker: worker.liveness == "suspect")
    urls = dict.fromkeys(worker.url for worker in workers)
    body = "".join(f"{url}\n" for url in urls).encode()
    return view.prepare(body, "tr" if ready else "t", media=MEDIA)
