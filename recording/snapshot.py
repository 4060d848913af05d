"""A Node's whole state as plain data, and a Node again.

Every object that the Node reaches becomes one entry in a list; objects refer to one another by position, so shared
objects stay shared. Classes are named, never pickled: :func:`restore_untrusted` makes objects of the protocol's rooms
and nothing else, so a record from a stranger cannot run code of its own.

What must not be in a record, or means nothing outside its process, is replaced (boundary.py says by what).

=====================  ================================  =====================  ================================
entry                  object                            entry                  object
=====================  ================================  =====================  ================================
["i", bytes]           a long integer                    ["o", schema, values]  an object of the protocol
["l", parts]           a list                            ["n", schema, parts]   a named tuple
["t", parts]           a tuple                           ["e", schema, name]    a member of an enumeration
["s", parts]           a set                             ["m", owner, name]     a bound method
["f", parts]           a frozen set                      ["r", state]           a random generator
["d", items]           a dictionary                      ["x", name, data]      something from outside
["C", items]           a counter                         ["p", mapping]         a read-only mapping
["q", parts, maxlen]   a queue                           ["b", bytes]           a byte array
["a", code, numbers]   an array of numbers
=====================  ================================  =====================  ================================

A part is a scalar, or the position of an entry in a list of one. A schema is a class with the names of the values.
"""

from __future__ import annotations

import enum
import importlib
import random
import types
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

PROTOCOL_ROOMS: Final = ("rumormill.gossip.", "rumormill.membership.")
"""Classes of these packages may be in a snapshot, and no others."""
MAX_OBJECTS: Final = 4_000_000
"""Objects in a snapshot that is read: some 300 for each member of the pool."""
INT_LIMIT: Final = 1 << 63
"""Longer integers (bitmaps) are written as bytes."""

BUILTIN_METHODS: Final = frozenset({(dict, "get")})
"""Methods of Python's own classes that the protocol keeps as attributes."""

_SCALARS: Final = frozenset({type(None), bool, float, str})


class UnreadableSnapshot(ValueError):
    """Not a snapshot of this version. The text says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What stands outside of a Node, as it is written and as it is read."""

    replace: Mapping[type, Callable[[Any], tuple[str, Any]]] = field(default_factory=dict)
    """By class: what gives a name and plain data to write in place of an object."""
    provide: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    """By that name: what makes the object of the restored Node from the data."""
    blank: Mapping[type, Mapping[str, Any]] = field(default_factory=dict)
    """By class: attributes that are written with this value, whatever they hold."""
    left_out: Mapping[type, tuple[str, ...]] = field(default_factory=dict)
    """By class: attributes that are not written."""
    rebuild: Mapping[type, Callable[[Any], None]] = field(default_factory=dict)
    """By class: what makes these attributes of a restored object anew."""
    translate: Callable[[bytes], bytes] = bytes
    """What to write for a string of bytes, which may be a secret."""


# --- writing


class SnapshotWriter:
    """Writes one object graph."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._entries: list[Any] = []
        self._positions: dict[int, int] = {}
        self._kept: list[Any] = []
        """Everything written, so that no object made meanwhile gets the id of another."""
        self._schemas: dict[tuple[type, tuple[str, ...]], int] = {}
        self._declared: dict[type, tuple[str, ...]] = {}
        self._writers: dict[type, Callable[[Any], list[Any]]] = {
            int: lambda value: ["i", value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)],
            list: lambda value: ["l", self._parts(value)],
            tuple: lambda value: ["t", self._parts(value)],
            set: lambda value: ["s", self._parts(value)],
            frozenset: lambda value: ["f", self._parts(value)],
            dict: lambda value: ["d", self._items(value)],
            Counter: lambda value: ["C", self._items(value)],
            deque: lambda value: ["q", self._parts(value), value.maxlen],
            bytearray: lambda value: ["b", bytes(value)],
            array: lambda value: ["a", value.typecode, list(value)],
            msgspec.Raw: lambda value: ["x", "raw", bytes(value)],
            types.MappingProxyType: lambda value: ["p", self._value(dict(value))],
            types.MethodType: lambda value: ["m", self._value(value.__self__), value.__name__],
            types.BuiltinMethodType: self._builtin_method,
            random.Random: lambda value: ["r", self._value(value.getstate())],
        }

    def write(self, root: object) -> list[Any]:
        """The graph as data for msgpack: the schemas, the entries, and where the root is.

        Raises TypeError for an object that a record cannot keep.
        """
        place = self._value(root)
        schemas = [[f"{kind.__module__}:{kind.__qualname__}", names] for kind, names in self._schemas]
        return [schemas, self._entries, place]

    def _value(self, value: Any) -> Any:
        """A scalar as it is; anything else as its position in a list of one."""
        kind = type(value)
        if kind in _SCALARS or (kind is int and -INT_LIMIT <= value < INT_LIMIT):
            return value
        if kind is bytes:
            return self._outside.translate(value)
        if kind is not int and isinstance(value, (float, str, int)) and not isinstance(value, enum.Enum):
            return self._value(_plain(value))
        position = self._positions.get(id(value))
        if position is None:
            position = self._positions[id(value)] = len(self._entries)
            self._kept.append(value)
            self._entries.append(None)  # the place is taken before the children, which may refer back to it
            self._entries[position] = self._entry(value, kind)
        return [position]

    def _entry(self, value: Any, kind: type) -> list[Any]:
        if (replace := self._outside.replace.get(kind)) is not None:
            name, data = replace(value)
            return ["x", name, self._value(data)]
        if (write := self._writers.get(kind)) is not None:
            return write(value)
        if isinstance(value, enum.Enum):
            return ["e", self._schema(kind, ()), value.name]
        if isinstance(value, tuple):
            return ["n", self._schema(kind, ()), self._parts(value)]
        names = self._names(value, kind)
        blank = self._outside.blank.get(kind, {})
        values = [self._value(blank[name] if name in blank else getattr(value, name)) for name in names]
        return ["o", self._schema(kind, names), values]

    def _parts(self, values: Any) -> list[Any]:
        return [self._value(value) for value in values]

    def _items(self, mapping: Mapping[Any, Any]) -> list[Any]:
        return [self._value(part) for item in mapping.items() for part in item]

    def _builtin_method(self, value: Any) -> list[Any]:
        if (type(value.__self__), value.__name__) not in BUILTIN_METHODS:
            raise TypeError(f"a record cannot keep {value!r}, which a Node holds")
        return ["m", self._value(value.__self__), value.__name__]

    def _names(self, value: Any, kind: type) -> tuple[str, ...]:
        declared = self._declared.get(kind)
        if declared is None:
            if not kind.__module__.startswith(PROTOCOL_ROOMS):
                raise TypeError(
                    f"a record cannot keep {value!r}, a {kind.__module__}.{kind.__qualname__} that a Node holds"
                )
            left_out = self._outside.left_out.get(kind, ())
            declared = self._declared[kind] = tuple(name for name in _declared(kind) if name not in left_out)
        names = (*declared, *getattr(value, "__dict__", ()))
        return tuple(name for name in names if hasattr(value, name))

    def _schema(self, kind: type, names: tuple[str, ...]) -> int:
        return self._schemas.setdefault((kind, names), len(self._schemas))


def _plain(value: float | str) -> float | str:
    """A value without the class that its owner gave it, such as a setting in seconds."""
    return next(base(value) for base in (str, int, float) if isinstance(value, base))


def _declared(kind: type) -> Iterator[str]:
    """The attributes that a class declares by ``__slots__`` or as a struct, those of its bases first."""
    if issubclass(kind, msgspec.Struct):
        yield from kind.__struct_fields__
        return
    for base in reversed(kind.__mro__):
        slots = base.__dict__.get("__slots__", ())
        yield from (name for name in ((slots,) if isinstance(slots, str) else slots) if not name.startswith("__"))


# --- reading


def restore_untrusted(data: Any, outside: Outside) -> Any:
    """The object graph again. Raises :class:`UnreadableSnapshot`; never runs anything that the data brings."""
    try:
        schemas, entries, place = data
        if len(entries) > MAX_OBJECTS:
            raise UnreadableSnapshot(f"a snapshot of {len(entries)} objects is too large to be one")
        return _Reader([_class_of(path, names) for path, names in schemas], entries, outside).value(place)
    except UnreadableSnapshot:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError, OverflowError, ImportError) as error:
        raise UnreadableSnapshot(f"the snapshot is damaged, or of another version: {error!r}") from None


def _class_of(path: str, names: list[str]) -> tuple[Any, list[str]]:
    module, _, name = path.partition(":")
    if not module.startswith(PROTOCOL_ROOMS) or any(name.startswith("__") for name in names):
        raise UnreadableSnapshot(f"a snapshot must not name {path!r}")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = found.__dict__[part]
    if not isinstance(found, type) or found.__module__ != module:
        raise UnreadableSnapshot(f"{path!r} is no class of the protocol")
    return found, names


class _Reader:
    """Makes the objects of one snapshot, each when it is first needed.

    Containers and objects take their place before their parts are made, because these may refer back to them.
    """

    def __init__(self, schemas: list[tuple[Any, list[str]]], entries: list[Any], outside: Outside) -> None:
        self._schemas = schemas
        self._entries = entries
        self._outside = outside
        self._made: dict[int, Any] = {}
        self._readers: dict[str, Callable[..., Any]] = {
            "i": lambda _, digits: int.from_bytes(digits, "big", signed=True),
            "l": self._list,
            "t": lambda _, parts: tuple(map(self.value, parts)),
            "s": self._set,
            "f": lambda _, parts: frozenset(map(self.value, parts)),
            "d": lambda at, items: self._mapping(at, {}, items),
            "C": lambda at, items: self._mapping(at, Counter(), items),
            "q": self._queue,
            "b": lambda _, content: bytearray(content),
            "a": lambda _, typecode, values: array(typecode, values),
            "p": lambda _, mapping: types.MappingProxyType(self.value(mapping)),
            "m": self._method,
            "r": self._generator,
            "e": lambda _, schema, name: self._enumeration(schema)[name],
            "n": lambda _, schema, parts: self._named_tuple(schema)(*map(self.value, parts)),
            "o": self._object,
            "x": lambda _, name, data: self._outside.provide[name](self.value(data)),
        }

    def value(self, written: Any) -> Any:
        if not isinstance(written, list):
            return written
        (at,) = written
        if at not in self._made:
            kind, *fields = self._entries[at]
            self._made[at] = self._readers[kind](at, *fields)
        return self._made[at]

    def _list(self, at: int, parts: list[Any]) -> list[Any]:
        made = self._made[at] = []
        made.extend(map(self.value, parts))
        return made

    def _set(self, at: int, parts: list[Any]) -> set[Any]:
        made = self._made[at] = set()
        made.update(map(self.value, parts))
        return made

    def _queue(self, at: int, parts: list[Any], maxlen: int | None) -> deque[Any]:
        made = self._made[at] = deque(maxlen=maxlen)
        made.extend(map(self.value, parts))
        return made

    def _mapping(self, at: int, made: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
        self._made[at] = made
        for position in range(0, len(items), 2):
            made[self.value(items[position])] = self.value(items[position + 1])
        return made

    def _method(self, _: int, written: Any, name: str) -> Any:
        owner = self.value(written)
        ours = type(owner).__module__.startswith(PROTOCOL_ROOMS) and not name.startswith("__")
        if not ours and (type(owner), name) not in BUILTIN_METHODS:
            raise UnreadableSnapshot(f"a snapshot must not name the method {name!r} of {type(owner).__qualname__}")
        return getattr(owner, name)

    def _generator(self, _: int, state: Any) -> random.Random:
        made = random.Random()
        made.setstate(self.value(state))
        return made

    def _enumeration(self, schema: int) -> Any:
        kind = self._schemas[schema][0]
        if not issubclass(kind, enum.Enum):
            raise UnreadableSnapshot(f"{kind.__qualname__} is no enumeration")
        return kind

    def _named_tuple(self, schema: int) -> Any:
        kind = self._schemas[schema][0]
        if not issubclass(kind, tuple):
            raise UnreadableSnapshot(f"{kind.__qualname__} is no tuple")
        return kind

    def _object(self, at: int, schema: int, values: list[Any]) -> Any:
        kind, names = self._schemas[schema]
        if issubclass(kind, msgspec.Struct):
            return kind(**dict(zip(names, map(self.value, values), strict=True)))
        made = self._made[at] = object.__new__(kind)
        for name, value in zip(names, values, strict=True):
            object.__setattr__(made, name, self.value(value))
        if (rebuild := self._outside.rebuild.get(kind)) is not None:
            rebuild(made)
        return made
