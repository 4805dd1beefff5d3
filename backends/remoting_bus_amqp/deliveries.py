"""One channel on which messages arrive, for all consumers of a connection.

Owns putting a message together and acknowledging it: what was handed over is acknowledged
some messages at once. It must not know queues or addresses.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from remoting_bus_amqp.wire import BODY, END, HEAD, HEADER, METHOD, Wire

__all__ = ["Deliveries"]

ACK_DELAY = 0.02
"""Seconds that an acknowledgement may wait for others. It only frees the broker's memory,
so the time of a small call is better spent otherwise."""

_DELIVER = struct.pack(">HH", 60, 60)
_CANCEL = struct.pack(">HH", 60, 30)
_CHANNEL_CLOSE = struct.pack(">HH", 20, 40)
_ACK = struct.Struct(">HHQB")

Take = Callable[[bytes, bytes, bytes | None], bool]
"""A consumer's tag, a routing key and a body (None: larger than we take). False if the
broker is to keep the message."""


class Deliveries:
    """Receives on a channel.

    Attributes:
        ack_every: Messages after which they are acknowledged without delay.
    """

    def __init__(
        self,
        wire: Wire,
        channel: int,
        max_body: int,
        take: Take,
        on_cancelled: Callable[[bytes], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self._wire = wire
        self._channel = channel
        self._max_body = max_body
        self._take = take
        self._on_cancelled = on_cancelled
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._tag = 0
        self._consumer = b""
        self._key = b""
        self._left = 0
        self._pieces: list[bytes] | None = None  # None: the message is too large
        self._last_taken = 0
        self._unacked = 0
        self._timer: asyncio.TimerHandle | None = None
        self.ack_every = 1
        wire.handlers[channel] = self._frame
        wire.on_read = self._end_of_read

    def acknowledge(self) -> None:
        """Acknowledge all that was taken."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unacked:
            self._unacked = 0
            self._say(80, self._last_taken, 1)

    def close(self) -> None:
        """Take nothing any more."""
        self._wire.handlers.pop(self._channel, None)
        if self._timer is not None:
            self._timer.cancel()

    def _frame(self, kind: int, payload: bytes) -> bool:
        if kind == METHOD:
            method = payload[:4]
            if method == _DELIVER:
                self._begin(payload)
                return True
            if method == _CANCEL:
                self._on_cancelled(payload[5 : 5 + payload[4]])
            elif method == _CHANNEL_CLOSE:
                text = payload[7 : 7 + payload[6]].decode("utf-8", "replace")
                self._on_closed(text)
            return False
        if kind == HEADER:
            (self._left,) = struct.unpack_from(">Q", payload, 4)
            self._pieces = [] if self._left <= self._max_body else None
        elif kind == BODY:
            self._left -= len(payload)
            if self._pieces is not None:
                self._pieces.append(payload)
        if self._left <= 0:
            self._end()
        return True

    def _begin(self, payload: bytes) -> None:
        """Read `basic.deliver`: consumer, tag, redelivered, exchange, routing key."""
        at = 5 + payload[4]
        self._consumer = payload[5:at]
        (self._tag,) = struct.unpack_from(">Q", payload, at)
        at += 9
        at += 1 + payload[at]
        self._key = payload[at + 1 : at + 1 + payload[at]]

    def _end(self) -> None:
        pieces, self._pieces = self._pieces, None
        body: bytes | None = None
        if pieces is not None:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._take(self._consumer, self._key, body):
            self._last_taken = self._tag
            self._unacked += 1
        else:
            self.acknowledge()
            self._say(120, self._tag, 2)

    def _end_of_read(self) -> None:
        if self._unacked >= self.ack_every:
            self.acknowledge()
        elif self._unacked and self._timer is None:
            self._timer = self._loop.call_later(ACK_DELAY, self.acknowledge)

    def _say(self, method: int, tag: int, bits: int) -> None:
        payload = _ACK.pack(60, method, tag, bits)
        self._wire.send([HEAD.pack(METHOD, self._channel, len(payload)), payload, END])
