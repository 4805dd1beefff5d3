"""Byte streams as programs hold them: anyio's interfaces over an `Inlet` or `Outlet`.

Owns waiting, and what cancelling means: nothing is taken or handed over before the wait
is over, and then without an await, so a cancelled `receive` took nothing and a cancelled
`send` of one piece did it or did not. It must not know which half of the session
carries the bytes. Next: `protocol/ends`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType

import anyio
import anyio.abc

from remoting_bus._loop import current_loop
from remoting_bus.errors import LocalProtocolError, RemotingError
from remoting_bus.protocol import ends
from remoting_bus.protocol.ends import MAX_PIECE, Inlet, Outlet
from remoting_bus.protocol.pieces import Piece

__all__ = ["ReceiveStream", "SendStream", "pipe"]

_CLOSED = "the stream was closed"


class ReceiveStream(anyio.abc.ByteReceiveStream):
    """Bytes from a peer, or from the other end of a pipe.

    Attributes:
        inlet: The end itself; handing the stream to a peer moves it there.
    """

    def __init__(self, inlet: Inlet) -> None:
        self.inlet = inlet
        self._closed = False
        self._loop = current_loop()
        self._signal = self._loop.signal()
        inlet.wake = self._signal.set

    async def receive(self, max_bytes: int = MAX_PIECE) -> bytes:
        """Return at least one byte, as soon as there is one.

        Cancelling is safe: nothing was taken.

        Raises:
            anyio.EndOfStream: The writer is done.
            anyio.BrokenResourceError: The writer gave it up, or the peer is lost; the
                message says why.
            anyio.ClosedResourceError: It was closed here, or handed to a peer.
            anyio.BusyResourceError: Another task reads.
        """
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._signal.waiting:
            raise anyio.BusyResourceError("reading from")
        await self._loop.turn()
        return bytes(self._cut(await self._next(), max_bytes))

    async def receive_pieces(self, max_bytes: int) -> list[Piece]:
        """Return what is here, at least one piece: as `receive`, but nothing is copied.

        A view among them keeps the message in memory that it came in.
        """
        await self._loop.turn()
        pieces = [self._cut(await self._next(), max_bytes)]
        left = max_bytes - len(pieces[0])
        while left > 0 and self.inlet.pieces:
            piece = self.inlet.read_nowait()
            assert piece
            pieces.append(self._cut(piece, left))
            left -= len(pieces[-1])
        return pieces

    async def _next(self) -> Piece:
        """Wait for a piece, and take it."""
        while True:
            if self._closed:
                raise anyio.ClosedResourceError(_CLOSED)
            try:
                piece = self.inlet.read_nowait()
            except LocalProtocolError as error:
                raise anyio.ClosedResourceError(str(error)) from error
            except RemotingError as error:
                raise anyio.BrokenResourceError(str(error)) from error
            if piece is not None:
                if not piece:
                    raise anyio.EndOfStream
                return piece
            if self._signal.waiting:
                raise anyio.BusyResourceError("reading from")
            await self._signal.wait()

    def _cut(self, piece: Piece, most: int) -> Piece:
        """Return the beginning; what is too much is put back."""
        if len(piece) <= most:
            return piece
        view = memoryview(piece)
        self.inlet.unread(view[most:])
        return view[:most]

    def reset(self, reason: str) -> None:
        """Give it up: the writer gets `anyio.BrokenResourceError` with the reason."""
        self._closed = True
        self.inlet.reset(reason)
        self._signal.set()

    async def aclose(self) -> None:
        """Close it. A writer that is not done yet is told that nobody reads."""
        self.reset("closed by its reader")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self.reset(_reason(exc))
        await self.aclose()


class SendStream(anyio.abc.ByteSendStream):
    """Bytes to a peer, or to the other end of a pipe.

    Attributes:
        outlet: The end itself; handing the stream to a peer moves it there.
    """

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self._loop = current_loop()
        self._signal = self._loop.signal()
        outlet.wake = self._signal.set

    async def send(self, item: bytes) -> None:
        """Send all of `item`, waiting while the reader is slow.

        Cancelling a send of up to 256 KiB is safe: it was done or it was not. Of more,
        a part may have gone; `outlet.written` says how much has in all.

        Raises:
            anyio.BrokenResourceError: The reader gave it up, or the peer is lost; the
                message says why.
            anyio.ClosedResourceError: It was closed here, or handed to a peer.
            anyio.BusyResourceError: Another task sends.
        """
        if self._signal.waiting:
            raise anyio.BusyResourceError("writing to")
        await self._loop.turn()
        if len(item) <= MAX_PIECE:
            # What may be changed by its owner is copied; bytes are not.
            await self._send_piece(item if type(item) is bytes else bytes(item))
            return
        view = memoryview(item)
        for start in range(0, len(view), MAX_PIECE):
            piece = view[start : start + MAX_PIECE]
            await self._send_piece(piece if type(item) is bytes else bytes(piece))

    async def _send_piece(self, piece: Piece) -> None:
        while True:
            try:
                if self.outlet.write_nowait(piece):
                    return
            except LocalProtocolError as error:
                raise anyio.ClosedResourceError(str(error)) from error
            except RemotingError as error:
                raise anyio.BrokenResourceError(str(error)) from error
            if self._signal.waiting:
                raise anyio.BusyResourceError("writing to")
            await self._signal.wait()

    async def send_eof(self) -> None:
        """Say that no more will come; the reader gets the end after the last byte."""
        self.outlet.finish()
        self._signal.set()

    def reset(self, reason: str) -> None:
        """Give it up: the reader gets `anyio.BrokenResourceError` with the reason."""
        self.outlet.reset(reason)

    async def aclose(self) -> None:
        """Close it; the same as `send_eof`."""
        await self.send_eof()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            self.reset(_reason(exc))
        await self.aclose()


def _reason(error: BaseException) -> str:
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return "its holder was cancelled"
    return f"{type(error).__name__}: {error}"


@asynccontextmanager
async def pipe() -> AsyncGenerator[tuple[ReceiveStream, SendStream], None]:
    """Make a pipe; either end may be handed to a peer in a call, which moves it.

    Leaving closes the ends that are still here; by an exception it resets them.
    """
    inlet, outlet = ends.pipe()
    reader, writer = ReceiveStream(inlet), SendStream(outlet)
    try:
        yield reader, writer
    except BaseException as error:
        writer.reset(_reason(error))
        reader.reset(_reason(error))
        raise
    writer.outlet.finish()
    reader.reset("closed by its reader")
