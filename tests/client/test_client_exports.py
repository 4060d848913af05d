"""What a caller can import from `rumormill.client`, and the arguments that both pools share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

import rumormill.client
from rumormill.client import Pool, SyncPool

EXPORTED = {name: getattr(rumormill.client, name) for name in rumormill.client.__all__}
CLASSES = [one for one in EXPORTED.values() if isinstance(one, type)]


def returned(kind: type) -> Iterator[tuple[str, Any]]:
    """The name and the type of everything that an object of this class gives its caller."""
    for name, member in inspect.getmembers(kind):
        call = member.fget if isinstance(member, property) else inspect.unwrap(member) if callable(member) else None
        public = not name.startswith("_") or name in ("__enter__", "__aenter__")
        if public and inspect.isfunction(call) and call.__module__.startswith("rumormill."):
            yield name, get_type_hints(call).get("return")
    if issubclass(kind, msgspec.Struct) or kind.__module__.startswith("rumormill.client"):
        for name, annotation in get_type_hints(kind).items():
            if not name.startswith("_"):
                yield name, annotation


def classes_in(annotation: Any) -> Iterator[type]:
    """The product's classes that an annotation names, inside its generics too."""
    if isinstance(annotation, type) and annotation.__module__.startswith("rumormill."):
        yield annotation
    for inner in get_args(annotation):
        yield from classes_in(inner)


@pytest.mark.parametrize(
    "kind", [one for one in CLASSES if one is not EXPORTED["Routing"]], ids=lambda kind: kind.__name__
)
def test_everything_that_a_public_method_returns_can_be_imported_from_the_client(kind: type) -> None:
    missing = {
        f"{kind.__name__}.{name} returns {found.__name__}"
        for name, annotation in returned(kind)
        for found in classes_in(annotation)
        if EXPORTED.get(found.__name__) is not found
    }
    assert not missing


def test_the_check_above_sees_methods_properties_context_managers_and_fields() -> None:
    def found(kind: type, name: str) -> set[str]:
        return {one.__name__ for owner, hint in returned(kind) if owner == name for one in classes_in(hint)}

    assert found(Pool, "workers") == found(Pool, "owners") == found(Pool, "acquire") == {"Worker"}
    assert found(SyncPool, "transport") == {"SyncPoolTransport"}
    assert found(EXPORTED["Figures"], "figures") == {"ReleaseFigures"}
    assert found(EXPORTED["Topology"], "policy") == {"RoutingPolicy"}
    assert found(EXPORTED["RoutingPolicy"], "canary") == {"CanaryShare"}
    assert found(EXPORTED["Attempt"], "failure") == {"Failure"}


def test_both_pools_take_the_same_arguments_and_have_them_checked() -> None:
    assert inspect.signature(Pool) == inspect.signature(SyncPool)
    for make in (Pool, SyncPool):
        refuses(make, "no sidecar's URL", ["127.0.0.1:7380"], "embed")
        refuses(make, "needs a sidecar", [], "embed")
        refuses(make, "is no service", "http://127.0.0.1:7380", "")
        refuses(make, "is no cluster", "http://127.0.0.1:7380", "embed", cluster="")
        refuses(make, "choose one of", "http://127.0.0.1:7380", "embed", replay="sometimes")


def refuses(make: Callable[..., Any], hint: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=hint):
        make(*arguments, **options)


def test_a_pool_shows_its_token_to_nobody_who_prints_it() -> None:
    assert "secret" not in repr(Pool("http://127.0.0.1:7380", "embed", token="secret"))
