"""Python values as plain ones: dataclasses, enums, paths, streams and the like, going out.

What comes out of `plain` is what `protocol.codec` encodes: containers and scalars, and a
mark where a stream stands, whose end is put into the list of those that travel. It must
not know annotations: what a value is says how it goes.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from remoting_bus.channel.streams import ReceiveStream, SendStream
from remoting_bus.protocol.codec import (
    MAX_DEPTH,
    EncodeError,
    ReferenceMark,
    StreamMark,
)
from remoting_bus.protocol.ends import Carried, Inlet, Outlet, StreamEnd

__all__ = ["AS_IT_IS", "plain"]

AS_IT_IS = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        str,
        bytes,
        bytearray,
        decimal.Decimal,
        uuid.UUID,
        datetime.date,
        datetime.datetime,
        StreamMark,
        ReferenceMark,
    }
)
"""Types that the codec takes without a look inside."""

_Ends = list[StreamEnd]


def plain(value: Any, ends: list[StreamEnd] | None = None, depth: int = 0) -> Any:
    """Return `value` as the codec takes it.

    Args:
        value: Anything that can go over the bus.
        ends: Where ends of streams in it are put; None where none may be.
        depth: How deep in a larger value it stands.

    Raises:
        EncodeError: Something in it cannot go; it names the path.
    """
    kind = type(value)
    if kind in AS_IT_IS:
        return value
    if depth > MAX_DEPTH:
        raise EncodeError("", f"nested deeper than {MAX_DEPTH} levels (max_depth)")
    if kind is list or kind is tuple:
        return _items(value, ends, depth)
    if kind is dict:
        return _mapping(value, ends, depth)
    known = _KINDS.get(kind)
    if known is None:
        known = _KINDS[kind] = _how(kind)
        if len(_KINDS) > _MAX_KINDS:
            _KINDS.clear()
    return known(value, ends, depth)


_How = Callable[[Any, _Ends | None, int], Any]

_KINDS: dict[type, _How] = {}
"""How each type met so far goes; emptied when it holds too many."""

_MAX_KINDS = 4096
"""Types that are made at run time would fill the table for ever."""


def _at(path: str, error: EncodeError) -> EncodeError:
    return EncodeError(path + error.path, error.reason)


def _items(value: Any, ends: _Ends | None, depth: int) -> list[Any]:
    made: list[Any] = []
    for item in value:
        try:
            made.append(plain(item, ends, depth + 1))
        except EncodeError as error:
            raise _at(f"[{len(made)}]", error) from None
    return made


def _mapping(value: Mapping[Any, Any], ends: _Ends | None, depth: int) -> Any:
    made: dict[Any, Any] = {}
    for key, item in value.items():
        try:
            made[_hashable(plain(key, None, depth + 1))] = plain(item, ends, depth + 1)
        except EncodeError as error:
            raise _at(f"[{key!r:.80}]", error) from None
    return made


def _hashable(key: Any) -> Any:
    if type(key) is list:
        return tuple(_hashable(each) for each in key)
    if type(key) is dict:
        raise EncodeError("", "a mapping cannot be the key of another")
    return key


def _set(value: Any, ends: _Ends | None, depth: int) -> Any:
    items = _items(value, ends, depth)
    try:
        return {_hashable(item) for item in items}
    except (EncodeError, TypeError):
        return items  # what is a set of classes there is a list of their fields here


def _how(kind: type) -> _How:
    """Choose how values of a type go."""
    special = _special(kind)
    if special is not None:
        return special
    if dataclasses.is_dataclass(kind):
        names = tuple(each.name for each in dataclasses.fields(kind))
        return lambda value, ends, depth: _fields(value, names, names, ends, depth)
    if hasattr(kind, "__struct_config__"):
        return _struct(kind)
    if hasattr(kind, "__attrs_attrs__"):
        attrs_names = tuple(each.name for each in kind.__attrs_attrs__)
        return lambda value, ends, depth: _fields(
            value, attrs_names, attrs_names, ends, depth
        )
    return _derived(kind)


def _special(kind: type) -> _How | None:
    if issubclass(kind, enum.Enum):
        return lambda value, ends, depth: plain(value.value, ends, depth)
    if issubclass(kind, pathlib.PurePath):
        return lambda value, ends, depth: str(value)
    if issubclass(kind, ReceiveStream):
        return lambda value, ends, depth: _stream(value.inlet, ends)
    if issubclass(kind, SendStream):
        return lambda value, ends, depth: _stream(value.outlet, ends)
    if issubclass(kind, Inlet | Outlet | Carried):
        return lambda value, ends, depth: _stream(value, ends)
    if issubclass(kind, datetime.timedelta):
        return lambda value, ends, depth: _duration(value)
    if issubclass(kind, datetime.time):
        return lambda value, ends, depth: value.isoformat()
    if issubclass(kind, memoryview):
        return lambda value, ends, depth: bytes(value)
    return None


def _derived(kind: type) -> _How:
    """Subclasses of plain types go as what they derive from."""
    if issubclass(kind, set | frozenset):
        return _set
    if issubclass(kind, list | tuple | deque):
        return _items
    if issubclass(kind, Mapping):
        return _mapping
    for base in (bool, int, float, str, bytes, decimal.Decimal):
        if issubclass(kind, base):
            return lambda value, ends, depth: base(value)
    if issubclass(kind, datetime.datetime | datetime.date | uuid.UUID | bytearray):
        return lambda value, ends, depth: value
    return _refuse


def _refuse(value: Any, ends: _Ends | None, depth: int) -> Any:
    kind = type(value)
    raise EncodeError(
        "", f"a {kind.__module__}.{kind.__qualname__} cannot go over the bus"
    )


def _fields(
    value: Any,
    names: tuple[str, ...],
    keys: tuple[str, ...],
    ends: _Ends | None,
    depth: int,
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, key in zip(names, keys, strict=True):
        try:
            made[key] = plain(getattr(value, name), ends, depth + 1)
        except EncodeError as error:
            raise _at(f".{name}", error) from None
    return made


def _struct(kind: Any) -> _How:
    """A msgspec struct: its own names of fields, its tag, or an array."""
    names, keys = kind.__struct_fields__, kind.__struct_encode_fields__
    config = kind.__struct_config__

    def to_map(value: Any, ends: _Ends | None, depth: int) -> Any:
        made = _fields(value, names, keys, ends, depth)
        if config.tag is not None:
            return {config.tag_field: config.tag, **made}
        return made

    def to_array(value: Any, ends: _Ends | None, depth: int) -> Any:
        made = list(_fields(value, names, keys, ends, depth).values())
        return made if config.tag is None else [config.tag, *made]

    return to_array if config.array_like else to_map


def _stream(end: StreamEnd, ends: _Ends | None) -> StreamMark:
    if ends is None:
        raise EncodeError("", "a stream cannot travel here")
    for index, each in enumerate(ends):
        if each is end:
            raise EncodeError("", f"the stream stands here twice (stream {index})")
    ends.append(end)
    return StreamMark(len(ends) - 1)


def _duration(value: datetime.timedelta) -> str:
    """Return ISO 8601, exactly; msgspec reads it."""
    sign = "-" if value < datetime.timedelta(0) else ""
    value = abs(value)
    fraction = f".{value.microseconds:06}" if value.microseconds else ""
    return f"{sign}P{value.days}DT{value.seconds}{fraction}S"
