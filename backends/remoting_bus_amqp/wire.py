"""The socket under aiormq, which takes the messages out before aiormq sees them.

aiormq's connection, handshake and methods (declare, bind, consume) are used as they are.
For each message, though, it makes several tasks and futures, 0.4 to 0.8 ms of Python in
all, it can neither publish without waiting nor tell that the broker has blocked us, and
it notices a silent broker after three times the heartbeat. So it is given the streams of a
`Wire`: frames of the two channels that carry messages go to their handlers, here in the
turn in which they arrive, and all others to aiormq. A whole frame is written at a time,
so what both write never mixes.

It must not know what a message is for. Next: `publishing`, `deliveries`.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

import pamqp.frame
from pamqp import commands

__all__ = ["BODY", "END", "HEAD", "HEADER", "METHOD", "UNSENT_HIGH", "Wire"]

METHOD, HEADER, BODY = 1, 2, 3
"""Types of frames (AMQP 0-9-1, 4.2.3)."""

HEAD = struct.Struct(">BHI")
"""Type, channel and size, in front of every frame."""

END = b"\xce"
"""The last byte of every frame."""

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of the largest frame we believe; RabbitMQ's are of 128 KiB unless configured."""

UNSENT_HIGH = 256 * 1024
"""Bytes that may be unsent in this process before publishing has to wait: one bulk
envelope. More would only be a queue that nothing can overtake."""

UNSENT_LOW = 64 * 1024
"""Unsent bytes at which waiting ends, so that the socket never runs dry."""

LARGE = 16 * 1024
"""Bytes of a message that is not joined: the copy would cost more than it saves."""

_CLOSE = struct.pack(">HH", 10, 50)
_CLOSE_OK = struct.pack(">HH", 10, 51)
_BLOCKED = struct.pack(">HH", 10, 60)
_UNBLOCKED = struct.pack(">HH", 10, 61)

Handler = Callable[[int, bytes], bool]
"""Takes a frame's type and payload; False if it is aiormq's."""


class Wire(asyncio.StreamReaderProtocol):
    """One TCP or TLS connection.

    Attributes:
        reader: What aiormq reads from.
        handlers: Who takes the frames of a channel, by its number.
        established: Whether the handshake is over; until then all frames are aiormq's.
        lost: Done when the connection is gone; its result is the cause, or None.
        closed_by: What the broker said when it closed the connection: code and text.
        blocked: Why the broker takes no messages; empty while it does.
        full: Whether the socket takes no more.
        heard: When something came last, by the loop's clock.
        on_change: Called when `blocked` or `full` changed.
        on_read: Called when all frames of one read were handed out.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit=2 * MAX_FRAME, loop=loop)
        super().__init__(self.reader, loop=loop)
        self._clock = loop.time
        self._socket: asyncio.Transport | None = None
        self._unread = bytearray()
        self._needed = 0
        self.handlers: dict[int, Handler] = {0: self._connection_frame}
        self.established = False
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.closed_by: tuple[int, str] | None = None
        self.blocked = ""
        self.full = False
        self.heard = loop.time()
        self.on_change: Callable[[], None] = _nothing
        self.on_read: Callable[[], None] = _nothing

    def writer(self) -> asyncio.StreamWriter:
        """What aiormq writes to."""
        assert self._socket is not None, "not connected"
        loop = asyncio.get_running_loop()
        return asyncio.StreamWriter(self._socket, self, self.reader, loop)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket."""
        super().connection_made(transport)
        self._socket = cast(asyncio.Transport, transport)
        self._socket.set_write_buffer_limits(high=UNSENT_HIGH, low=UNSENT_LOW)

    def data_received(self, data: bytes) -> None:
        """Hand out all frames that are whole."""
        self.heard = self._clock()
        unread = self._unread
        if unread:
            unread += data
            if len(unread) < self._needed:
                return
            data = bytes(unread)
            unread.clear()
        at, end = 0, len(data)
        self._needed = HEAD.size
        while end - at >= HEAD.size:
            kind, channel, size = HEAD.unpack_from(data, at)
            after = at + HEAD.size + size + 1
            if after > end:
                self._needed = after - at
                break
            if data[after - 1] != END[0]:
                self._needed = MAX_FRAME + 1
                break
            handler = self.handlers.get(channel)
            if handler is None or not handler(kind, data[at + HEAD.size : after - 1]):
                super().data_received(data[at:after])
            at = after
        if at < end:
            unread += data[at:]
            if self._needed > MAX_FRAME and self._socket is not None:
                self.abort(ValueError("what came is not AMQP"))
        self.on_read()

    def eof_received(self) -> bool:
        """The broker has closed: so do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits; aiormq, once it was told what to make of it."""
        if not self.lost.done():
            self.lost.set_result(exc)
        if not self.established:
            self.let_go(exc)
        self.on_change()

    def pause_writing(self) -> None:
        """The socket takes no more."""
        super().pause_writing()
        self.full = True
        self.on_change()

    def resume_writing(self) -> None:
        """The socket takes more again."""
        super().resume_writing()
        self.full = False
        self.on_change()

    # What the driver calls.

    @property
    def opened(self) -> bool:
        """Whether there ever was a connection."""
        return self._socket is not None

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet."""
        if self._socket is None or self.lost.done():
            return 0
        return self._socket.get_write_buffer_size()

    def send(self, pieces: list[bytes]) -> None:
        """Write whole frames, now."""
        if self._socket is None or self.lost.done():
            return
        if sum(map(len, pieces)) < LARGE:
            self._socket.write(b"".join(pieces))
        else:
            self._socket.writelines(pieces)

    def say_goodbye(self) -> None:
        """Ask the broker to close; `lost` is done when it has."""
        close = commands.Connection.Close(
            reply_code=200, reply_text="closed", class_id=0, method_id=0
        )
        self.send([pamqp.frame.marshal(close, 0)])

    def abort(self, cause: BaseException | None = None) -> None:
        """Close at once, whatever is unsent."""
        if not self.lost.done():
            self.lost.set_result(cause)
        if self._socket is not None:
            self._socket.abort()

    def let_go(self, exc: Exception | None = None) -> None:
        """Tell the streams that the connection is gone; aiormq logs it if it reads."""
        super().connection_lost(exc)

    def _connection_frame(self, kind: int, payload: bytes) -> bool:
        """Take what concerns the connection as a whole."""
        if kind != METHOD:
            return False  # heartbeats: that something came is noted already
        method = payload[:4]
        if method == _CLOSE:
            (code,) = struct.unpack_from(">H", payload, 4)
            text = payload[7 : 7 + payload[6]].decode("utf-8", "replace")
            self.closed_by = (code, text)
            if not self.established:
                return False
            close_ok = commands.Connection.CloseOk()
            self.send([pamqp.frame.marshal(close_ok, 0)])
            self._close()
        elif method == _CLOSE_OK and self.established:
            self._close()
        elif method == _BLOCKED:
            reason = payload[5 : 5 + payload[4]].decode("utf-8", "replace")
            self.blocked = reason or "it does not say why"
            self.on_change()
        elif method == _UNBLOCKED:
            self.blocked = ""
            self.on_change()
        else:
            return False
        return True

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _nothing() -> None:
    pass
