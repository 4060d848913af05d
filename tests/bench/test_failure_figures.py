"""What the benches of failures make of the outcomes of requests."""

from __future__ import annotations

import click
import pytest

from bench.kills import Campaign, CampaignFigures, FaultSpan, report
from bench.open_loop import Sent, figures
from bench.proxies import TARGETS, chosen_cells, table
from rumormill.cli.demo.request_log import RequestOutcome


def outcome(begun: float, seconds: float, trouble: str | None = None, late: float = 0.0) -> RequestOutcome:
    return RequestOutcome(begun, begun + seconds, "w1", trouble, late=late)


def test_waiting_to_be_sent_counts_and_so_does_waiting_for_an_error() -> None:
    found = figures([Sent(0.0, 0.5, 0.6, None, "w1", 1), Sent(0.1, 0.1, 2.1, "ReadTimeout: ", None, 3)])
    assert (found.requests, found.failed) == (2, 1)
    assert (found.slowest, found.slowest_failure, found.late) == pytest.approx((2.0, 2.0, 0.5))


def test_a_request_under_way_at_a_fault_counts_for_the_fault_and_not_as_steady() -> None:
    spans = [FaultSpan("kill", begun=10.0, restarted=11.0, ended=12.0)]
    outcomes = [outcome(1.0, 0.1), outcome(9.9, 0.2), outcome(11.5, 0.1), outcome(20.0, 0.1)]
    found = CampaignFigures(Campaign(3, {"kill": 1}), spans, outcomes)
    assert found.steady() == [outcomes[0], outcomes[3]]
    assert found.during("kill") == [outcomes[1]]
    assert found.returning("kill") == [outcomes[2]]


@pytest.mark.parametrize(("seconds", "verdict"), [(0.029, "within"), (0.031, "BEYOND")])
def test_the_verdict_on_kills_is_twice_the_steady_p99_and_10_ms(seconds: float, verdict: str) -> None:
    outcomes = [*(outcome(float(n), 0.010) for n in range(100)), outcome(200.1, seconds, "broken")]
    found = CampaignFigures(Campaign(3, {"kill": 1}), [FaultSpan("kill", 200.0, 201.0, 202.0)], outcomes)
    said = report(found)
    assert "1 failed or wrong, bound 0" in said
    assert f"{verdict} twice the steady p99" in said


def test_cells_are_chosen_by_words_and_the_table_has_only_those() -> None:
    cells = chosen_cells("always:kill,envoy-default:kill")
    assert cells == [("envoy-default", "kill"), ("rumormill-always", "kill")]
    assert len(chosen_cells(None)) == 6 * len(TARGETS)
    with pytest.raises(click.UsageError, match="haproxy-tuned"):
        chosen_cells("squid")
    found = figures([Sent(0.0, 0.0, 0.25, "status 503", None, 1), Sent(0.0, 0.0, 0.1, None, "w2", 1)])
    assert table({cells[0]: found}).splitlines()[-1] == "| envoy, default | 1 / 0.25 / 0.25 |"
