"""The routes about load and draining."""

from __future__ import annotations

from msgspec import UNSET

from rumormill.discovery.activity import DOUBTS_HEADER, REPORT_HEADER, parse_doubts_untrusted, parse_report_untrusted
from rumormill.discovery.api.context import LOADS_TOPIC, ApiContext, RequestContext
from rumormill.discovery.http.request import Request
from rumormill.discovery.http.response import Response, prepare_json
from rumormill.discovery.schema.load import LoadAnswer, LoadRow
from rumormill.discovery.schema.query_params import NoQuery, PoolQuery


async def load(api: ApiContext, call: RequestContext[PoolQuery]) -> Response:
    """Blocks until any load changes. A caller says with it what it has under way itself, and whom it doubts."""
    query = call.query
    api.require_pool()
    take_report(api, call.request)
    if query.index is not UNSET:
        await api.block_until_change(call, LOADS_TOPIC, index=query.index, process=query.process, wait=query.wait)
    now = api.commands.activity.now()
    rows = [
        LoadRow(worker.name, worker.instance, known.utilization, known.queue, round(max(now - known.heard, 0.0), 3))
        for worker, known in api.view.loads(query.service)
    ]
    return prepare_json(LoadAnswer(query.service, api.view.load_index, api.process, rows))


def take_report(api: ApiContext, request: Request) -> None:
    """Take in what the caller reports and doubts, if anything. What cannot be read is ignored."""
    value = request.headers.get(REPORT_HEADER)
    if value is not None and (report := parse_report_untrusted(value)) is not None:
        api.commands.activity.take_report(report)
    value = request.headers.get(DOUBTS_HEADER)
    if value is not None and (doubts := parse_doubts_untrusted(value)):
        api.commands.activity.take_doubts(doubts)


async def drain_state(api: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    return prepare_json(api.commands.activity.drain_state())
