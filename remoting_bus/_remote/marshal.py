"""Arguments and results to bytes and back, with the streams that travel in them.

The common case pays for nothing: plain values are encoded one by one and joined. Other
ones are made plain first (`values`), and what is wrong is looked for only after a
failure. It must not know annotations (`shapes` does), nor who sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from remoting_bus.channel.streams import ReceiveStream, SendStream
from remoting_bus.protocol.codec import (
    EncodeError,
    ReferenceMark,
    StreamMark,
    array,
    encode,
)
from remoting_bus.protocol.ends import Inlet, Outlet, StreamEnd

from .values import AS_IT_IS, plain

__all__ = ["as_stream", "encode_arguments", "encode_value", "insert_streams"]

_NO_NAMES = encode({})

_HEADS = tuple(array([b"", b""]) + array([b""] * count) for count in range(16))
"""What `[[…], {…}]` begins with, for so many arguments: made once, not for each call."""


def encode_arguments(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    ends: list[StreamEnd],
    *,
    names: Sequence[str] = (),
    items: StreamEnd | None = None,
) -> bytes:
    """Encode what a function is called with.

    Args:
        args: By position.
        kwargs: By name.
        ends: Gets the ends of streams that travel.
        names: What the positional ones are called, for messages.
        items: The end over which the function sends what it yields.

    Raises:
        EncodeError: Something cannot go; its path begins with the parameter's name.
    """
    encoded: list[bytes] = []
    for value in args:
        try:
            encoded.append(
                encode(value) if type(value) in AS_IT_IS else encode_value(value, ends)
            )
        except EncodeError as error:
            at = len(encoded)
            name = names[at] if at < len(names) else f"args[{at}]"
            raise EncodeError(name + error.path, error.reason) from None
    named = _encode_named(kwargs, ends) if kwargs else _NO_NAMES
    if items is not None:
        ends.append(items)
        mark = encode(StreamMark(len(ends) - 1))
        return array([array(encoded), named, mark])
    if len(encoded) < len(_HEADS):
        return _HEADS[len(encoded)] + b"".join(encoded) + named
    return array([array(encoded), named])


def _encode_named(kwargs: Mapping[str, Any], ends: list[StreamEnd]) -> bytes:
    made: dict[str, Any] = {}
    for name, value in kwargs.items():
        try:
            made[name] = value if type(value) in AS_IT_IS else plain(value, ends)
        except EncodeError as error:
            raise EncodeError(name + error.path, error.reason) from None
    try:
        return encode(made)
    except EncodeError as error:
        found = _located(made, EncodeError("", error.reason))
        name, _, path = found.path[2:].partition("']")
        raise EncodeError(name + path, found.reason) from None


def encode_value(value: Any, ends: list[StreamEnd] | None) -> bytes:
    """Encode one value; ends of streams in it are added to `ends`.

    Raises:
        EncodeError: Something in it cannot go; it names the path.
    """
    kind = type(value)
    if kind in AS_IT_IS:
        return encode(value)
    if kind is list or kind is dict or kind is tuple:
        try:
            return encode(value)
        except EncodeError:
            pass  # not plain, or not to be sent at all: then `plain` says where
    made = plain(value, ends)
    try:
        return encode(made)
    except EncodeError as error:
        raise _located(made, error) from None


def _located(value: Any, error: EncodeError) -> EncodeError:
    """Return the error with the path of what cannot be encoded in a plain value."""
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, list):
        parts = enumerate(value)
    elif isinstance(value, dict):
        parts = value.items()
    if not error.path:
        for key, part in parts:
            try:
                encode(part)
            except EncodeError as inner:
                found = _located(part, inner)
                return EncodeError(f"[{key!r}]{found.path}", found.reason)
    return error


def insert_streams(value: Any, streams: Sequence[Any], seen: set[int]) -> Any:
    """Put streams where their marks stand, in containers in place.

    Args:
        value: What was decoded.
        streams: What stands for each index.
        seen: Gets the indexes that were met.

    Raises:
        ValueError: A mark that stands for nothing.
    """
    if type(value) is StreamMark:
        index = value.index
        if index >= len(streams) or index in seen:
            raise ValueError("it names a stream that did not come with it")
        seen.add(index)
        return streams[index]
    if type(value) is ReferenceMark:
        raise ValueError("it names an object, and none was handed over")
    if isinstance(value, list):
        for index, item in enumerate(value):
            if type(item) not in _WITHOUT_MARKS:
                value[index] = insert_streams(item, streams, seen)
    elif isinstance(value, dict):
        for key, item in value.items():
            if type(item) not in _WITHOUT_MARKS:
                value[key] = insert_streams(item, streams, seen)
    return value


_WITHOUT_MARKS = AS_IT_IS - {StreamMark, ReferenceMark}


def as_stream(end: StreamEnd) -> Any:
    """Return an end as functions get it."""
    if isinstance(end, Inlet):
        return ReceiveStream(end)
    if isinstance(end, Outlet):
        return SendStream(end)
    return end
