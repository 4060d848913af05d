"""Query parameters. These structs check a request, and /openapi.json lists their fields.

Unknown parameters are refused: a misspelled `sevice=` would otherwise return every service.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

DURATION: Final = r"^[0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h)$"

Service = Annotated[str, msgspec.Meta(max_length=128, description="The service; all services if it is left out.")]
Index = Annotated[
    int, msgspec.Meta(ge=0, le=2**53, description="Block until the index is no longer this one; needs `process`.")
]
Process = Annotated[
    str,
    msgspec.Meta(
        max_length=128,
        description="The `process` of the answer that the index is from. With another process, the query blocks for "
        "0.5 s at most.",
    ),
]
Wait = Annotated[
    str,
    msgspec.Meta(
        pattern=DURATION, description="How long to block, such as `10s`, `500ms` or `5m`; 10 minutes at most."
    ),
]


class NoQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """No parameters."""


class AnyQuery(msgspec.Struct, frozen=True):
    """Any parameters, all ignored: probes of health routes bring their own (`?verbose`)."""


Force = Annotated[bool, msgspec.Meta(description="Do it even if that may cut members off for a moment.")]
KeyId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$", description="Which key: eight hexadecimal digits.")]


class ForceQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    force: Force = False


class KeyQuery(ForceQuery, frozen=True, kw_only=True):
    id: KeyId


class DrainQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    restart: Annotated[
        bool, msgspec.Meta(description="The worker is about to be restarted: end the drain once it is ready again.")
    ] = False


class WeightQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    weight: Annotated[float, msgspec.Meta(ge=0, le=1000, description="The share of the keys; 0 for no traffic.")]


class ServiceQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    service: Service = ""


class PoolQuery(ServiceQuery, frozen=True, kw_only=True):
    # Unset and not None: `index=null` in a query does not mean that it is left out.
    index: Index | msgspec.UnsetType = msgspec.UNSET
    process: Process | msgspec.UnsetType = msgspec.UNSET
    wait: Wait = "10s"


class WorkersQuery(PoolQuery, frozen=True, kw_only=True):
    ready: Annotated[bool, msgspec.Meta(description="Only workers that take new work.")] = False
    format: Annotated[Literal["json", "text"], msgspec.Meta(description="`text` is one URL per line.")] = "json"


class LookupQuery(ServiceQuery, frozen=True, kw_only=True):
    key: Annotated[str, msgspec.Meta(description="The key whose owners to return.")]
    n: Annotated[int, msgspec.Meta(ge=1, le=128, description="How many owners, in order of preference.")] = 3


class ExplainQuery(ServiceQuery, frozen=True, kw_only=True):
    key: Annotated[str, msgspec.Meta(description="The key to explain.")]
    zone: (
        Annotated[str, msgspec.Meta(max_length=64, description="The caller's own zone; empty for no preference.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class RingQuery(ServiceQuery, frozen=True, kw_only=True):
    format: Annotated[Literal["svg"], msgspec.Meta(description="The format of the picture.")] = "svg"
    key: Annotated[str, msgspec.Meta(description="Show where this key falls.")] | msgspec.UnsetType = msgspec.UNSET


class CanaryQuery(ServiceQuery, frozen=True, kw_only=True):
    release: Annotated[str, msgspec.Meta(max_length=128, description="Only this release; all if left out.")] = ""


class EventsQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    since: Annotated[
        int,
        msgspec.Meta(
            ge=0, le=2**53, description="Only events with a number above this; 0 for all events that are kept."
        ),
    ] = 0
    process: Process | msgspec.UnsetType = msgspec.UNSET
    wait: Annotated[
        str, msgspec.Meta(pattern=DURATION, description="How long to block if there is no newer event.")
    ] = "0s"


# What Consul's clients send. They send more than is listed here, and the rest does not change the answer. What would
# change it (`filter`, another datacenter) is listed and refused.

ConsulService = Annotated[str, msgspec.Meta(min_length=1, max_length=128, description="The service.")]
ConsulState = Literal["any", "passing", "warning", "critical"]


class ConsulAgentQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Any parameters, all ignored but the datacenter."""

    dc: Annotated[str, msgspec.Meta(max_length=128, description="The datacenter: the cluster's label, or nothing.")] = (
        ""
    )


class ConsulQuery(ConsulAgentQuery, frozen=True, kw_only=True):
    index: Annotated[
        int, msgspec.Meta(ge=0, le=2**63 - 1, description="X-Consul-Index of an earlier answer: block until it moves.")
    ] = 0
    wait: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^([0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h))?$",
            description="How long to block, 10 minutes at most. Up to a sixteenth is added, as Consul does.",
        ),
    ] = "5m"
    filter: Annotated[str, msgspec.Meta(max_length=0, description="Not supported: refused unless it is empty.")] = ""


class ConsulServiceQuery(ConsulQuery, frozen=True, kw_only=True):
    service: ConsulService
    tag: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=64)]],
        msgspec.Meta(max_length=4, description="Only workers with this tag, such as `zone=a`; can be repeated."),
    ] = []


class ConsulHealthQuery(ConsulServiceQuery, frozen=True, kw_only=True):
    passing: Annotated[
        Literal["", "0", "1", "f", "t", "false", "true"],
        msgspec.Meta(description="Only workers whose check passes; without a value it means true."),
    ] = "false"


class ConsulStateQuery(ConsulQuery, frozen=True, kw_only=True):
    state: Annotated[ConsulState, msgspec.Meta(description="Only checks in this state.")]
