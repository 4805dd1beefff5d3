"""Values to CBOR and back (RFC 8949), with an allow-list and limits on both sides.

What `encode` accepts, `decode` accepts: a value that the peer would refuse never
leaves. It must not know annotations: conversion to them is `_remote`'s.
"""

from __future__ import annotations

import datetime
import decimal
import io
import uuid
from collections.abc import Callable
from typing import Any

import cbor2

__all__ = [
    "MAX_DEPTH",
    "DecodeError",
    "EncodeError",
    "ReferenceMark",
    "StreamMark",
    "array",
    "decode",
    "decoder",
    "encode",
]

MAX_DEPTH = 100
"""Nested containers in one value. Deeper ones are recursion by accident, and cost the
C stack of whoever walks them."""

_ENVELOPE_DEPTH = MAX_DEPTH + 4
"""A value stands inside a frame, which stands inside an envelope."""

_STREAM_TAG = 40500
_REFERENCE_TAG = 40501
"""Both unassigned in IANA's registry of CBOR tags (first come, first served range)."""


class EncodeError(ValueError):
    """A value cannot go over the bus.

    Attributes:
        path: Where in the value, as Python would index it; empty for the whole.
        reason: What is wrong there.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


class DecodeError(ValueError):
    """Bytes are not what `encode` makes."""


class StreamMark:
    """Stands in arguments and results for the stream of this index."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class ReferenceMark:
    """Stands in arguments and results for the reference of this index."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


_SCALARS = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        str,
        bytes,
        bytearray,
        memoryview,
        decimal.Decimal,
        uuid.UUID,
        datetime.date,
        StreamMark,
        ReferenceMark,
    }
)
_SCALAR_BASES = (int, float, str, bytes)
_CONTAINERS = (list, tuple, dict, set, frozenset)


def encode(value: object) -> bytes:
    """Return `value` as CBOR.

    Raises:
        EncodeError: A type that is not on the list, a naive datetime, or deeper than
            `MAX_DEPTH`; it names the path.
    """
    if type(value) not in _SCALARS:
        _check(value)
    try:
        return cbor2.dumps(value, default=_encode_mark)
    except (cbor2.CBOREncodeError, TypeError, ValueError, OverflowError) as error:
        # Found after the failure, never before: the walk costs more than the encoding.
        raise EncodeError(_find(value, "") or "", str(error)) from None


def array(items: list[bytes]) -> bytes:
    """Join encoded values into one encoded array, without encoding them again."""
    return head(len(items)) + b"".join(items)


def integer(value: int) -> bytes:
    """Encode an integer from 0 on: 0.2 µs, of which the general encoder takes three."""
    if value < 24:
        return _SMALL[value]
    if value < 256:
        return b"\x18" + value.to_bytes(1, "big")
    if value < 65536:
        return b"\x19" + value.to_bytes(2, "big")
    if value < 1 << 32:
        return b"\x1a" + value.to_bytes(4, "big")
    return b"\x1b" + value.to_bytes(8, "big")


_SMALL = tuple(bytes((value,)) for value in range(24))


def integers(values: list[int]) -> bytes:
    """Encode a list of integers from 0 on."""
    return head(len(values)) + b"".join(map(integer, values))


def head(length: int) -> bytes:
    """Return the head of an array of `length` items."""
    if length < 24:
        return bytes((0x80 | length,))
    if length < 256:
        return bytes((0x98, length))
    if length < 65536:
        return b"\x99" + length.to_bytes(2, "big")
    return b"\x9a" + length.to_bytes(4, "big")


def decode(data: bytes | memoryview) -> Any:
    """Return the value of `data`, which is the whole of it.

    Raises:
        DecodeError: Truncated, trailing bytes, a tag that is not on the list, deeper
            than allowed, a mapping with a key twice, or of indefinite length.
    """
    stream = io.BytesIO(data)
    try:
        value = decoder(stream).decode()
    except Exception as error:
        raise DecodeError(f"not a value of this protocol: {error}") from error
    if stream.tell() != len(data):
        raise DecodeError(f"{len(data) - stream.tell()} bytes after the value")
    return value


def decoder(stream: io.BytesIO) -> cbor2.CBORDecoder:
    """Return what reads values with our limits, and leaves `stream` behind each."""
    return cbor2.CBORDecoder(
        stream,
        semantic_decoders=_DECODERS,
        max_depth=_ENVELOPE_DEPTH,
        allow_indefinite=False,
        allow_duplicate_keys=False,
    )


def _encode_mark(encoder: Any, value: object) -> None:
    if type(value) is StreamMark:
        encoder.encode(cbor2.CBORTag(_STREAM_TAG, value.index))
    elif type(value) is ReferenceMark:
        encoder.encode(cbor2.CBORTag(_REFERENCE_TAG, value.index))
    else:
        raise TypeError(_unknown(value))


def _unknown(value: object) -> str:
    kind = type(value)
    return f"a {kind.__module__}.{kind.__qualname__} cannot go over the bus"


def _check(value: object) -> None:
    """Level by level: the C encoder overruns its stack on deep values."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            kind = type(item)
            if kind is list or kind is tuple:
                below += [x for x in item if type(x) not in _SCALARS]  # type: ignore[attr-defined]
            elif kind is dict:
                for pair in item.items():  # type: ignore[attr-defined]
                    below += [x for x in pair if type(x) not in _SCALARS]
            elif isinstance(item, _CONTAINERS):
                inside = item.items() if isinstance(item, dict) else item
                for x in inside:
                    below += x if isinstance(item, dict) else [x]
            elif type(item) is datetime.datetime:
                if item.tzinfo is None:
                    raise EncodeError(_find(value, "") or "", _NAIVE)
            elif type(item) not in _SCALARS and not isinstance(item, _SCALAR_BASES):
                raise EncodeError(_find(value, "") or "", _unknown(item))
        if not below:
            return
        # A list that holds itself twice would double with each level.
        level = (
            below if len(below) < 100_000 else list({id(x): x for x in below}.values())
        )
    raise EncodeError("", f"nested deeper than {MAX_DEPTH} levels (max_depth)")


_NAIVE = "a datetime without a time zone means another time on another machine"


def _find(value: object, path: str, depth: int = 0) -> str | None:
    """Return the path of the first part that cannot be encoded, or None."""
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, dict):
        for key, item in value.items():
            found = _find(key, f"{path}.keys()", depth + 1)
            if found is None:
                found = _find(item, f"{path}[{key!r}]", depth + 1)
            if found is not None:
                return found
        return None
    if isinstance(value, _CONTAINERS):
        for index, item in enumerate(value):
            found = _find(item, f"{path}[{index}]", depth + 1)
            if found is not None:
                return found
        return None
    if isinstance(value, datetime.datetime):
        return path if value.tzinfo is None else None
    if type(value) in _SCALARS or isinstance(value, _SCALAR_BASES):
        return None
    return path


def _refuse(value: object, immutable: bool) -> object:
    raise ValueError("a tag that is not on the list")


# Every tag that cbor2 would decode by itself and that is not on our list: what arrives
# names no regular expression, no address, no shared reference.
_DECODERS: dict[int, Callable[[Any, bool], Any]] = dict.fromkeys(
    (5, 25, 28, 29, 30, 35, 36, 256, 260, 261, 43000, 55799), _refuse
)


def _index(value: object) -> int:
    if type(value) is not int or not 0 <= value < 256:
        raise ValueError("a mark's index is from 0 to 255")
    return value


_DECODERS[_STREAM_TAG] = lambda value, immutable: StreamMark(_index(value))
_DECODERS[_REFERENCE_TAG] = lambda value, immutable: ReferenceMark(_index(value))
