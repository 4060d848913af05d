"""What may stand after the question mark. These structs check a request and are the parameters in /openapi.json.

Unknown parameters are refused: a misspelt `sevice=` would otherwise answer with every service there is.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

DURATION: Final = r"^[0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m)$"

Service = Annotated[str, msgspec.Meta(max_length=128, description="The service asked about; left out, all of them.")]
Index = Annotated[
    int, msgspec.Meta(ge=0, le=2**53, description="Block until the index is no longer this one; needs `process`.")
]
Process = Annotated[
    str,
    msgspec.Meta(
        max_length=128, description="The process that counted `index`; with another's it blocks .5 s at most."
    ),
]
Wait = Annotated[
    str,
    msgspec.Meta(pattern=DURATION, description="How long to block, such as `10s`, `500ms` or `5m`; cut to 10m."),
]


class NoQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """No parameters."""


class AnyQuery(msgspec.Struct, frozen=True):
    """Health routes take no parameters and mind none: probes bring their own (`?verbose`)."""


Force = Annotated[bool, msgspec.Meta(description="Do it even where that may cut members off for a moment.")]
KeyId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$", description="Which key: eight hexadecimal digits.")]


class ForceQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    force: Force = False


class KeyQuery(ForceQuery, frozen=True, kw_only=True):
    id: KeyId


class ServiceQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    service: Service = ""


class PoolQuery(ServiceQuery, frozen=True, kw_only=True):
    # Unset and not None: in a query, `index=null` is no way to leave it out.
    index: Index | msgspec.UnsetType = msgspec.UNSET
    process: Process | msgspec.UnsetType = msgspec.UNSET
    wait: Wait = "10s"


class WorkersQuery(PoolQuery, frozen=True, kw_only=True):
    ready: Annotated[bool, msgspec.Meta(description="Only those that may be sent new work.")] = False


class LookupQuery(ServiceQuery, frozen=True, kw_only=True):
    key: Annotated[str, msgspec.Meta(description="Whose owners are asked for.")]
    n: Annotated[int, msgspec.Meta(ge=1, le=128, description="How many owners, in order of preference.")] = 3


class ExplainQuery(ServiceQuery, frozen=True, kw_only=True):
    key: Annotated[str, msgspec.Meta(description="Whose way is explained.")]
    zone: (
        Annotated[str, msgspec.Meta(max_length=64, description="The caller's own zone; empty for no preference.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class RingQuery(ServiceQuery, frozen=True, kw_only=True):
    format: Annotated[Literal["svg"], msgspec.Meta(description="What the picture is made as.")] = "svg"
    key: Annotated[str, msgspec.Meta(description="Show where this key falls.")] | msgspec.UnsetType = msgspec.UNSET


class CanaryQuery(ServiceQuery, frozen=True, kw_only=True):
    release: Annotated[str, msgspec.Meta(max_length=128, description="Only this one; left out, all of them.")] = ""


class EventsQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    since: Annotated[
        int, msgspec.Meta(ge=0, le=2**53, description="Only events numbered above this; 0 is all that are kept.")
    ] = 0
    process: Process | msgspec.UnsetType = msgspec.UNSET
    wait: Annotated[
        str, msgspec.Meta(pattern=DURATION, description="Block this long where nothing newer has happened.")
    ] = "0s"
