"""What a generator yields, as bytes on its stream: each item behind its length.

Four bytes of length (big-endian) and the item's CBOR. The stream's credit is the
back-pressure: whoever does not iterate holds the generator up, and nothing is dropped.
It must not know where items come from or go.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from remoting_bus.errors import RemoteProtocolError
from remoting_bus.protocol.codec import DecodeError, EncodeError, decode

from .marshal import encode_value

__all__ = ["MAX_ITEM", "ItemReader", "frame_item"]

MAX_ITEM = 16 * 1024 * 1024
"""Bytes of one item: what one call may carry by default (`max_message`)."""

_HEAD = 4


def frame_item(value: Any) -> bytes:
    """Return an item as it stands on the stream.

    Raises:
        EncodeError: It cannot go over the bus, or is larger than `MAX_ITEM`.
    """
    data = encode_value(value, None)
    if len(data) > MAX_ITEM:
        raise EncodeError(
            "", f"it takes {len(data)} bytes; the limit max_item is {MAX_ITEM}"
        )
    return len(data).to_bytes(_HEAD, "big") + data


class ItemReader:
    """Takes pieces of the stream apart again.

    Attributes:
        items: Decoded, oldest first; as many as came in one piece.
    """

    __slots__ = ("_rest", "_wanted", "items")

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self._rest = bytearray()
        self._wanted = _HEAD

    def feed(self, piece: bytes | memoryview) -> None:
        """Take what came.

        Raises:
            RemoteProtocolError: It is nothing that a generator's stream may carry.
        """
        rest = self._rest
        rest += piece
        if len(rest) < self._wanted:
            return
        start = 0
        self._wanted = _HEAD
        while len(rest) - start >= _HEAD:
            length = int.from_bytes(rest[start : start + _HEAD], "big")
            if length > MAX_ITEM:
                raise RemoteProtocolError(
                    f"an item of {length} bytes; the limit max_item is {MAX_ITEM}"
                )
            end = start + _HEAD + length
            if end > len(rest):
                self._wanted = _HEAD + length
                break
            try:
                self.items.append(decode(bytes(rest[start + _HEAD : end])))
            except DecodeError as error:
                raise RemoteProtocolError(f"an item is {error}") from error
            start = end
        del rest[:start]

    @property
    def complete(self) -> bool:
        """No part of an item is left."""
        return not self._rest
