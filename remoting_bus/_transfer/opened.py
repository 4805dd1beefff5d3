"""A peer's open file, as its user holds it: streams that know their call.

Owns that a failure of the far side is raised as what it is, and not as a broken stream.
It must not know files: it has bytes, and a call that ends.
"""

from __future__ import annotations

from typing import Any, NoReturn

import anyio
import anyio.abc

from remoting_bus._remote.call import Call
from remoting_bus.channel.streams import ReceiveStream, SendStream

__all__ = ["RemoteReader", "RemoteWriter", "wait_opened"]


async def wait_opened(call: Call[Any], stream: ReceiveStream) -> None:
    """Wait until the far side says that the file is open, or raise why it is not."""
    try:
        await stream.receive(1)
    except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
        await _fail(call, error)


async def _fail(call: Call[Any], error: Exception) -> NoReturn:
    """Raise what ended the call; `error` if it ended well."""
    await call.result()
    raise error


class RemoteReader(anyio.abc.ByteReceiveStream):
    """A peer's file to read."""

    def __init__(self, call: Call[Any], content: ReceiveStream) -> None:
        self._call = call
        self._content = content
        self._ended = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return at least one byte of the file.

        Raises:
            anyio.EndOfStream: That was all.
            OSError: The disk failed there.
            PeerLost: The peer is gone.
        """
        try:
            return await self._content.receive(max_bytes)
        except anyio.EndOfStream:
            self._ended = True
            await self._call.result()
            raise
        except anyio.BrokenResourceError as error:
            self._ended = True
            await _fail(self._call, error)

    async def aclose(self) -> None:
        """Stop reading."""
        await self._content.aclose()

    def check(self) -> None:
        """The block is left without an error: the call need not have ended."""
        if not self._ended:
            self._call.cancel()


class RemoteWriter(anyio.abc.ByteSendStream):
    """A peer's file to write.

    Attributes:
        closed: Nothing more may be sent.
    """

    def __init__(self, call: Call[Any], content: SendStream) -> None:
        self._call = call
        self._content = content
        self.closed = False

    async def send(self, item: bytes) -> None:
        """Send bytes of the file.

        Raises:
            OSError: They cannot be written there; a full disk, say.
            PeerLost: The peer is gone.
        """
        if self.closed:
            raise anyio.ClosedResourceError("the file was closed")
        try:
            await self._content.send(item)
        except anyio.BrokenResourceError as error:
            await _fail(self._call, error)

    async def send_eof(self) -> None:
        """Say that this was all. What is written counts when the block ends."""
        self.closed = True

    async def aclose(self) -> None:
        """The same as `send_eof`."""
        self.closed = True
