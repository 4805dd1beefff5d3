"""DATA frames whose bytes stay where they are: out until the envelope, in until the reader.

Bulk is copied once on each side: into the envelope, and out of it where a program wants
`bytes` of its own. Owns both halves of that: a frame in two parts, and an envelope's
items with the bytes of DATA as views of it. Anything else in an envelope is `codec`'s,
and so is every envelope that is not as expected. It must not know streams.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import cbor2
from cbor2 import dumps

from .codec import decode, decoder, head
from .frames import FrameKind

__all__ = ["Data", "Piece", "data", "items_of", "parts_of"]

Piece = bytes | memoryview
"""Bytes of a stream: `bytes`, or a view of some that nobody changes."""

_DATA = int(FrameKind.DATA)
_DATA_START = b"\x84" + dumps(_DATA)
_BYTES, _ARRAY = 2, 4
"""Major types of CBOR (RFC 8949, 3.1)."""

_BEFORE_FRAMES = 5
"""Items of an envelope before its frames."""

_MOST_PINNED = 4
"""A view keeps its whole envelope in memory. So a piece of less than a fourth of it is
copied out, and pieces that nobody reads hold four times their bytes at most."""

_START = 4096
"""Bytes that the items before the frames fit in; `OVERHEAD` promises half of that."""


class Data:
    """A DATA frame in two parts: its head, and bytes of which it holds a view."""

    __slots__ = ("head", "piece")

    def __init__(self, head: bytes, piece: Piece) -> None:
        self.head = head
        self.piece = piece

    def __len__(self) -> int:
        return len(self.head) + len(self.piece)


def data(stream: int, offset: int, piece: Piece) -> Data:
    """Build a DATA; the piece is not copied."""
    start = (_DATA_START, dumps(stream), dumps(offset), _bytes_head(len(piece)))
    return Data(b"".join(start), piece)


def _bytes_head(length: int) -> bytes:
    start = head(length)  # of an array: another major type, all else the same
    return bytes((start[0] ^ 0xC0,)) + start[1:]


def parts_of(frames: Sequence[bytes | Data]) -> list[Piece]:
    """Return what is to be joined, in order."""
    parts: list[Piece] = []
    for frame in frames:
        if type(frame) is Data:
            parts += (frame.head, frame.piece)
        else:
            parts.append(frame)  # type: ignore[arg-type]
    return parts


def items_of(body: Piece) -> list[Any]:
    """Return the items of an envelope of BULK or LOG.

    Raises:
        DecodeError: As `codec.decode`.
    """
    view = memoryview(body)
    try:
        items = _items(view)
    except (IndexError, ValueError, cbor2.CBORDecodeError):
        items = None
    # What is not as we write it is decoded, or refused, where all else is.
    return decode(view) if items is None else items


def _items(view: memoryview) -> list[Any] | None:
    major, count, at = _read_head(view, 0)
    if major != _ARRAY or count < _BEFORE_FRAMES:
        return None
    start = io.BytesIO(view[at : at + _START])
    reader = decoder(start)
    items: list[Any] = [reader.decode() for _ in range(_BEFORE_FRAMES)]
    at += start.tell()
    for _ in range(count - _BEFORE_FRAMES):
        if view[at : at + 2] == _DATA_START:
            frame, at = _read_data(view, at)
        else:
            rest = io.BytesIO(view[at:])
            frame = decoder(rest).decode()
            at += rest.tell()
        items.append(frame)
    return items if at == len(view) else None


def _read_data(view: memoryview, at: int) -> tuple[list[Any], int]:
    stream_major, stream, at = _read_head(view, at + len(_DATA_START))
    offset_major, offset, at = _read_head(view, at)
    major, length, at = _read_head(view, at)
    end = at + length
    if stream_major or offset_major or major != _BYTES or end > len(view):
        raise ValueError("not a DATA as we write it")
    piece: Piece = view[at:end]
    if length * _MOST_PINNED < len(view):
        piece = bytes(piece)
    return [_DATA, stream, offset, piece], end


def _read_head(view: memoryview, at: int) -> tuple[int, int, int]:
    """Return major type and number of what begins here, and where it goes on."""
    major, short = view[at] >> 5, view[at] & 31
    if short < 24:
        return major, short, at + 1
    if short > 27:
        raise ValueError("reserved, or of indefinite length")
    end = at + 1 + (1 << (short - 24))
    if end > len(view):
        raise IndexError("cut short")
    return major, int.from_bytes(view[at + 1 : end], "big"), end
