"""How the counters of ``/v1/status`` become Prometheus families. Every counter in the code has a place here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric


@dataclass(frozen=True, slots=True)
class CounterFamily:
    """One family, and the counters that are its samples."""

    name: str
    """Without ``rumormill_`` and ``_total``."""
    help: str
    """What it counts, and what a rise asks of the operator."""
    counters: Mapping[str, str]
    """The label's value by the counter's name. Without a label there is one counter, and its value is empty."""
    label: str = ""
    prefixes: tuple[str, ...] = ()
    """Counters that begin so belong here too; the rest of the name is the label's value."""

    def metric(self, counters: Mapping[str, int]) -> Metric:
        """Its samples. Named counters are shown from the start, at 0; those with a prefix once they have counted."""
        metric = CounterMetricFamily(f"rumormill_{self.name}", self.help, labels=(self.label,) if self.label else ())
        for counter, value in self.counters.items():
            metric.add_metric((value,) if self.label else (), counters.get(counter, 0))
        for prefix in self.prefixes:
            for counter, count in sorted(counters.items()):
                if counter.startswith(prefix) and counter not in SHOWN_ELSEWHERE and counter not in self.counters:
                    metric.add_metric((counter.removeprefix(prefix),), count)
        return metric


def _one(name: str, help: str, counter: str) -> CounterFamily:  # noqa: A002 — Prometheus's own word
    return CounterFamily(name, help, {counter: ""})


COUNTER_FAMILIES: Final = (
    _one(
        "misses",
        "Heartbeats that were due from members monitored here and did not come in time. Many without an eviction: the "
        "network loses or delays datagrams.",
        "misses",
    ),
    _one("suspicions", "Members suspected here. Many that are refuted: raise --period.", "event_suspected"),
    CounterFamily(
        "refutations",
        "Suspicions that their subject refuted: of this member (self), or of others. Many of self: this host pauses.",
        {"refutations": "self", "event_refuted": "other"},
        label="subject",
    ),
    CounterFamily(
        "votes",
        "Votes to evict a member: cast here (self), or received and verified (other).",
        {"votes_cast": "self", "votes_received": "other"},
        label="voter",
    ),
    CounterFamily(
        "evictions",
        "Members evicted here: they missed heartbeats, their host refused our datagrams, or they were lost with many "
        "others at once. See the run book on `evicted`.",
        {
            "evictions_missed": "missed_heartbeats",
            "evictions_refused": "refused_by_host",
            "evictions_mass_loss": "mass_loss",
        },
        label="cause",
    ),
    CounterFamily(
        "events",
        "Other events of the pool, by kind. The run book says what each means and what to do.",
        {"event_joined": "joined", "event_left": "left", "event_returned": "returned"},
        label="kind",
        prefixes=("event_",),
    ),
    CounterFamily(
        "gossip_datagrams_dropped",
        "Datagrams not processed, by reason (docs/reference/counters.md). A steady rise of `label`, `key`, "
        "`unknown_key`, `plaintext` or `version`: another pool, another key or another version sends here.",
        {"outbox_full": "outbox_full"},
        label="reason",
        prefixes=("dropped_",),
    ),
    CounterFamily("gossip_receive_errors", "Errors while reading the socket.", {}, "error", ("receive_",)),
    CounterFamily(
        "gossip_send_errors",
        "Datagrams that the kernel would not send. Check routes and firewalls.",
        {},
        "error",
        ("send_",),
    ),
    _one("network_errors", "Errors that the network reported, such as host unreachable.", "network_errors"),
    _one("icmp_refusals", "ICMP port unreachable errors for our datagrams: nothing listens there.", "refusals"),
    _one(
        "icmp_refusals_unmatched",
        "ICMP refusals that quote no ping of ours, and so are no evidence. Many: somebody forges them.",
        "refusals_unmatched",
    ),
    _one(
        "icmp_refusals_false",
        "Members heard again after their kernel seemed to refuse. Any: set --no-icmp-evidence.",
        "refusals_false",
    ),
    _one("heartbeats_stale", "Heartbeats older than one already seen.", "stale_heartbeats"),
    _one(
        "indirect_acks_ignored",
        "Reports of helpers that they heard a subject, ignored because it has not answered this member for long.",
        "hearsay_ignored",
    ),
    _one("syncs", "Syncs begun with another member because tables differed.", "syncs"),
    _one("updates_left_to_sync", "Updates not broadcast because too many waited; a sync brings them.", "left_to_sync"),
    _one(
        "process_pauses",
        "Times this process did not run for a period or more. Any: the host is overloaded or was suspended.",
        "pauses",
    ),
    _one("name_conflicts", "Names of others that two live members claimed.", "names_contested"),
    _one("clones", "Times this member met its own later state: its machine was copied or set back.", "clones"),
    CounterFamily(
        "join_messages_rejected",
        "Messages of a join that were not accepted, by reason (docs/reference/counters.md).",
        {
            name: name
            for name in (
                "short_join",
                "bad_cookie",
                "stale_challenges",
                "stale_welcomes",
                "stale_who",
                "who_suppressed",
                "invalid_record",
                "uncertified",
            )
        },
        label="reason",
    ),
    _one("signatures_checked", "Signatures checked.", "checked_signatures"),
    CounterFamily(
        "signatures_rejected",
        "Signatures that were wrong, or not checked because their sender had just passed on a wrong one. Any: a "
        "member misbehaves.",
        {"bad_signatures": "wrong", "unchecked_signatures": "unchecked"},
        label="reason",
    ),
    CounterFamily(
        "policies_rejected",
        "Policies that were not accepted.",
        {
            "invalid_policy": "invalid",
            "policy_unsigned": "unsigned",
            "policy_leap": "leap",
            "policies_full": "full",
        },
        label="reason",
    ),
    _one("key_rings_rejected", "Key rings of other members that were not adopted.", "keys_refused"),
    _one("seal_notices", "Notices of other members that they cannot open what we seal.", "notices"),
    _one("http_connections", "Connections accepted by the endpoint.", "http_connections"),
    CounterFamily(
        "http_connections_ended",
        "Connections that did not end well, by reason. `refused` and `accepts_failed`: callers find no room; raise "
        "the limit of open files or spread the callers.",
        {
            "http_connections_broken": "broken",
            "http_connections_displaced": "displaced",
            "http_connections_overdue": "overdue",
            "http_connections_refused": "refused",
            "http_accepts_failed": "accepts_failed",
        },
        label="reason",
    ),
    _one("http_waits_refused", "Blocked queries and streams turned away for lack of room.", "http_waits_refused"),
    CounterFamily(
        "haproxy_checks",
        "Agent checks of HAProxy: answered, or left without an answer while this sidecar did not know its pool.",
        {"haproxy_checks_answered": "answered", "haproxy_checks_unanswered": "unanswered"},
        label="outcome",
    ),
    CounterFamily(
        "dns_queries",
        "DNS queries: answered, ignored (the message was not a query), or lost (the answer could not be sent).",
        {"dns_queries_answered": "answered", "dns_queries_ignored": "ignored", "dns_answers_lost": "lost"},
        label="outcome",
    ),
    _one("log_lines_dropped", "Log lines dropped because nothing read stderr.", "log_lines_dropped"),
)

SHOWN_ELSEWHERE: Final = frozenset(
    {
        # By kind and bytes, or by route and status.
        "received",
        "sent",
        "http_requests",
        "http_requests_refused",
        "http_requests_failed",
        # In a family of their own.
        "event_suspected",
        "event_refuted",
        "event_evicted",
    }
)


def counter_metrics(counters: Mapping[str, int]) -> Iterable[Metric]:
    """All counters of this sidecar as families."""
    return (family.metric(counters) for family in COUNTER_FAMILIES)


def is_exported(counter: str) -> bool:
    """Whether a counter of this name appears in `/metrics`."""
    return counter in SHOWN_ELSEWHERE or any(
        counter in family.counters or counter.startswith(family.prefixes) for family in COUNTER_FAMILIES
    )
