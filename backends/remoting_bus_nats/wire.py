"""The socket under nats-py, and the client that is put on it.

nats-py's own transport reads 32 KiB at a time through a second buffer, hides how much is
unsent, and can wait for ever for a server that stands still. `Wire` is a transport of the
client's own interface that reads what the kernel has, sends the first message of a turn
at once and gathers the rest, tells when there is room, and never waits. `Client` is
nats-py's, put on a wire, for one connection: reconnecting is `link`'s.

It must not know what addresses, lanes or consumers are.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast
from urllib.parse import ParseResult

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.transport import Transport
from nats.errors import StaleConnectionError

from remoting_bus_nats.reading import READ, Arrivals, Take

__all__ = ["LARGE", "UNSENT_HIGH", "Client", "Take", "Wire"]

UNSENT_HIGH = 256 * 1024
"""Bytes that may be unsent in this process before publishing has to wait: one bulk
envelope. More would only be a queue that nothing can overtake."""

UNSENT_LOW = 64 * 1024
"""Unsent bytes at which waiting ends, so that the socket never runs dry."""

LARGE = 16 * 1024
"""Bytes of a message that is not gathered: the copy would cost more than the call."""

BEHIND = 1.0
"""Seconds after a full read in which we count as behind what the server sends."""

UNREAD_HIGH = 4 * 1024 * 1024
"""Bytes read and not yet parsed at which reading stops. The parser empties all of it in
each turn, so this is met only if the client's reader has died."""


class Wire(Transport, asyncio.BufferedProtocol):
    """One TCP or TLS connection, as the client and as the event loop see it.

    Args:
        tls_only: Nothing is sent before there is TLS.
        take: Gets large messages, where they are read.

    Attributes:
        arrivals: What came and was not taken.
        heard: Something came; whoever looks clears it.
        lost: Done when the connection is gone; its result is the cause, or None.
        on_room: Called when publishing had to wait and no longer has to.
        on_full: Called when publishing has to wait.
    """

    def __init__(self, *, tls_only: bool, take: Take) -> None:
        self._loop = asyncio.get_running_loop()
        self._tls_only = tls_only
        self._secure = False
        self._socket: asyncio.Transport | None = None
        self.arrivals = Arrivals(take)
        self.heard = False
        self._paused_reading = False
        self._full_read_at = -BEHIND
        self._ended = False
        self._reader: asyncio.Future[None] | None = None
        self._gathered: list[bytes] | None = None
        self._gathered_bytes = 0
        self._sent_in_turn = 0
        self._in_bursts = False
        self._full = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._let_in = 0
        self.lost: asyncio.Future[BaseException | None] = self._loop.create_future()
        self.on_room: Callable[[], None] = lambda: None
        self.on_full: Callable[[], None] = lambda: None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket."""
        self._use(cast(asyncio.Transport, transport))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Tell where to put what the kernel has."""
        return self.arrivals.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Keep what came for the client's reader, or give it away."""
        self.heard = True
        if nbytes >= READ:
            self._full_read_at = self._loop.time()
        if not self.arrivals.filled(nbytes):
            return
        if self.arrivals.unread >= UNREAD_HIGH and self._socket is not None:
            self._paused_reading = True
            self._socket.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        """The server has closed: so do we."""
        self._ended = True
        self._wake_reader()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits."""
        self._ended = True
        self._gathered = None
        self._gathered_bytes = 0
        self._wake_reader()
        if not self.lost.done():
            self.lost.set_result(exc)
        self._wake_waiting(all_of_them=True)

    def pause_writing(self) -> None:
        """The socket takes no more."""
        self._full = True
        self.on_full()

    def resume_writing(self) -> None:
        """The socket takes more again."""
        self._full = False
        self.on_room()
        self._wake_waiting()

    # What the client calls.

    async def connect(
        self, uri: ParseResult, buffer_size: int, connect_timeout: float
    ) -> None:
        """Open the TCP connection."""
        assert uri.hostname is not None
        assert uri.port is not None
        async with asyncio.timeout(connect_timeout):
            await self._loop.create_connection(lambda: self, uri.hostname, uri.port)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        """Put TLS on the connection."""
        assert self._socket is not None
        name = uri if isinstance(uri, str) else uri.hostname
        async with asyncio.timeout(connect_timeout):
            transport = await self._loop.start_tls(
                self._socket, self, ssl_context, server_hostname=name
            )
        if transport is None:
            raise ConnectionResetError(
                "the connection was lost during the TLS handshake"
            )
        self._secure = True
        self._use(transport)

    def write(self, payload: bytes) -> None:
        """Send, after what was gathered.

        Raises:
            ConnectionRefusedError: TLS was asked for and the server does not speak it.
                Nothing was sent, credentials least of all.
        """
        if self._tls_only and not self._secure:
            raise ConnectionRefusedError("the server does not offer TLS")
        if self._socket is None or self._ended:
            return
        if self._gathered_bytes:
            self._send_gathered()
        self._socket.write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """Send several, after what was gathered."""
        self.write(b"".join(payload))

    async def read(self, buffer_size: int) -> bytes:
        """All that has come; empty at the end."""
        while not self.arrivals.unread and not self._ended:
            await self._wait_for_data()
        data = self.arrivals.get()
        if self._paused_reading and self._socket is not None and not self._ended:
            self._paused_reading = False
            self._socket.resume_reading()
        return data

    async def readline(self) -> bytes:
        """One line (the greeting); what came after it stays."""
        while (line := self.arrivals.get_line()) is None and not self._ended:
            await self._wait_for_data()
        return line or b""

    async def drain(self) -> None:
        """Nothing: publishing is bounded by `room`, and the rest is small."""

    def close(self) -> None:
        """Close at once, whatever is unsent: `flushed` is for those who care."""
        if self._socket is not None:
            self._socket.abort()

    async def wait_closed(self) -> None:
        """Until the event loop has let go of the socket; the next turn."""
        if self._socket is not None:
            await asyncio.wait([self.lost])

    def at_eof(self) -> bool:
        """Nothing more will be read."""
        return self._ended and not self.arrivals.unread

    def __bool__(self) -> bool:
        return True

    # What the driver calls.

    @property
    def opened(self) -> bool:
        """Whether there ever was a connection."""
        return self._socket is not None

    @property
    def behind(self) -> bool:
        """Whether more was waiting to be read than we had taken, just now."""
        return self._loop.time() - self._full_read_at < BEHIND

    @property
    def room(self) -> bool:
        """Whether a message may be sent now, ahead of nobody."""
        return (
            not self._full
            and not self._waiting
            and not self._let_in
            and self._gathered_bytes < UNSENT_HIGH
            and not self._ended
        )

    async def wait_room(self) -> None:
        """Wait in line for room. Returns at once when the connection is lost."""
        if self.room or self._ended:
            return
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            if waiter.done() and not waiter.cancelled():
                self._let_in -= 1
            else:
                with suppress(ValueError):
                    self._waiting.remove(waiter)
            # Who was let in passes it on: there may be room for more than one.
            self._loop.call_soon(self._wake_waiting)

    def send(self, message: bytes) -> None:
        """Send now if it is alone, else together with others of its turn.

        Whether it is alone is guessed from the turn before: a first message sent by
        itself wakes the peer for it, and for the rest again.
        """
        if self._socket is None or self._ended:
            return
        gathered = self._begin_turn()
        if self._sent_in_turn == 1 and not self._in_bursts:
            self._socket.write(message)
        else:
            gathered.append(message)
            self._gathered_bytes += len(message)

    def send_large(self, *parts: bytes) -> None:
        """Send a message of `LARGE` bytes or more now, in parts: none is copied."""
        if self._socket is None or self._ended:
            return
        if self._begin_turn():
            self._send_gathered()
        self._socket.writelines(parts)

    async def flushed(self) -> None:
        """Until nothing is unsent here, or the connection is lost."""
        if self._gathered_bytes:
            self._send_gathered()
        while self._socket is not None and not self._ended:
            if not self._socket.get_write_buffer_size():
                return
            await asyncio.wait([self.lost], timeout=0.01)

    def _use(self, transport: asyncio.Transport) -> None:
        self._socket = transport
        transport.set_write_buffer_limits(high=UNSENT_HIGH, low=UNSENT_LOW)

    def _begin_turn(self) -> list[bytes]:
        if self._gathered is None:
            self._gathered = []
            self._loop.call_soon(self._end_turn)
        self._sent_in_turn += 1
        return self._gathered

    def _end_turn(self) -> None:
        if self._gathered:
            self._send_gathered()
        self._gathered = None
        self._in_bursts = self._sent_in_turn > 1
        self._sent_in_turn = 0
        self._wake_waiting()

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        if gathered and self._socket is not None and not self._ended:
            self._socket.write(b"".join(gathered))

    async def _wait_for_data(self) -> None:
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_waiting(self, *, all_of_them: bool = False) -> None:
        while self._waiting and (
            all_of_them
            or (
                not self._full
                and not self._let_in
                and self._gathered_bytes < UNSENT_HIGH
            )
        ):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._let_in += 1
                if not all_of_them:
                    return


class Client(NatsClient):
    """nats-py's client on a `Wire`, giving messages away where they are parsed.

    nats-py puts each message into a queue that a task empties, and drops it when the
    queue is full. Its `msg_class` is asked first, in the reader's own turn, and what it
    takes goes no further: no queue, so nothing to overflow, and TCP slows the server.
    """

    def __init__(self, wire: Wire, take: Take) -> None:
        super().__init__()
        self._transport = self._wire = wire
        self._take = take
        wire.arrivals.parser = self._ps
        self.msg_class = cast(type[Msg], self._offer)

    async def _ping_interval(self) -> None:
        """Ask whether the server lives, as nats-py does; but all that comes is an answer.

        That to the ping stands behind what we have not read yet.
        """
        while True:
            await asyncio.sleep(self.options["ping_interval"])
            if not self.is_connected:
                continue
            if self._wire.heard:
                self._wire.heard = False
                self._pings_outstanding = 0
            self._pings_outstanding += 1
            if self._pings_outstanding > self.options["max_outstanding_pings"]:
                await self._process_op_err(StaleConnectionError())
                return
            await self._send_ping()

    def _offer(
        self,
        *,
        subject: str,
        reply: str,
        data: bytes,
        headers: dict[str, str] | None,
        **rest: Any,
    ) -> Msg | None:
        if self._take(subject, reply, data, headers):
            return None
        return Msg(subject=subject, reply=reply, data=data, headers=headers, **rest)
