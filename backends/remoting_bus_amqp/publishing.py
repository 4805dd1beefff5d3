"""One channel on which messages are published, each confirmed by the broker.

Owns what is under way: a message counts as taken when the broker has confirmed it. Several
may be unconfirmed; one more begins only when there is room, in the order asked. It must
not know addresses, nor who reopens a channel that the broker has closed.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pamqp import commands
from pamqp.commands import Basic

from remoting_bus.errors import ChannelBroken
from remoting_bus_amqp.wire import BODY, END, HEAD, HEADER, METHOD, Wire

__all__ = ["MAX_UNCONFIRMED", "Outgoing", "Publisher"]

MAX_UNCONFIRMED = 128
"""Messages that the broker may owe a confirm for; bytes are bounded by the socket, and by
what the core keeps under way."""

DIRECT = 4
"""Unconfirmed messages up to which one goes out in the caller's own turn. Past that the
broker is behind, and what gathers meanwhile shares a message: a broker's cost is per
message."""

CONFIRM_LIMIT = 10.0
"""Seconds until a message without a confirm counts as lost, though the connection stands:
a mailbox without a majority of its nodes confirms nothing. Electing takes 1."""

_ACK = struct.pack(">HH", 60, 80)
_NACK = struct.pack(">HH", 60, 120)
_CHANNEL_CLOSE = struct.pack(">HH", 20, 40)
_CONTENT = struct.Struct(">HHQ")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """How messages to one address and lane begin.

    Attributes:
        method: The payload of the method frame.
        properties: Flags and properties in the header frame.
    """

    method: bytes
    properties: bytes


def outgoing(
    exchange: str, key: str, *, priority: int | None, expires_in: float | None
) -> Outgoing:
    """Encode what is the same for each message.

    Not persistent: who reads a classic queue is gone when its broker is, and a quorum
    queue writes everything to disk anyway.
    """
    expiration = None if expires_in is None else str(max(0, int(expires_in * 1000)))
    properties = Basic.Properties(
        delivery_mode=1, priority=priority, expiration=expiration
    )
    publish = Basic.Publish(exchange=exchange, routing_key=key)
    head = struct.pack(">I", commands.Basic.Publish.index)
    return Outgoing(head + publish.marshal(), properties.marshal())


class Publisher:
    """Publishes on a channel that is in confirm mode.

    Attributes:
        closed: Why it takes no more; empty while it does.
        close_code: The broker's code, where it was the broker who closed the channel.
    """

    def __init__(
        self,
        wire: Wire,
        channel: int,
        frame_max: int,
        on_closed: Callable[[Publisher], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._wire = wire
        self._channel = channel
        self._piece = frame_max - HEAD.size - len(END)
        self._on_closed = on_closed
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._last = 0
        self._first = 1  # every tag before it is confirmed
        self._unconfirmed: dict[int, tuple[asyncio.Future[None] | None, float]] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._let_in = 0
        self.closed = ""
        self.close_code = 0
        wire.handlers[channel] = self._take

    @property
    def unconfirmed(self) -> int:
        """How many messages the broker owes a confirm for."""
        return len(self._unconfirmed)

    def try_send(self, out: Outgoing, body: bytes) -> bool:
        """Send now, or do nothing and return False."""
        if (
            len(self._unconfirmed) >= DIRECT
            or self._waiting
            or self._let_in
            or not self._has_room()
        ):
            return False
        self._send(out, body, None)
        return True

    async def send(self, out: Outgoing, body: bytes) -> None:
        """Send when there is room, and wait for the broker's confirm.

        Raises:
            ChannelBroken: There was none, or a refusal.
        """
        if self._waiting or self._let_in or not self._has_room():
            await self._wait_room()
        if self.closed:
            raise ChannelBroken(self.closed)
        confirmed: asyncio.Future[None] = self._loop.create_future()
        self._send(out, body, confirmed)
        await confirmed

    def look(self, now: float) -> None:
        """Give up what waits for too long for its confirm; called now and then."""
        late = now - CONFIRM_LIMIT
        if self._wire.blocked:
            return
        for tag, (_, since) in list(self._unconfirmed.items()):
            if since > late:
                break
            self._refused(tag, f"the broker did not confirm it in {CONFIRM_LIMIT:g} s")
        self.wake()

    def close(self, why: str) -> None:
        """Take no more; whoever waits gets `ChannelBroken`."""
        if self.closed:
            return
        self.closed = why
        self._wire.handlers.pop(self._channel, None)
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for confirmed, _ in unconfirmed.values():
            if confirmed is not None and not confirmed.done():
                confirmed.set_exception(ChannelBroken(why))
        self.wake()

    def wake(self) -> None:
        """There may be room: let the next one in."""
        while self._waiting and (
            self.closed or (not self._let_in and self._has_room())
        ):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._let_in += 1
                if not self.closed:
                    return

    def _has_room(self) -> bool:
        wire = self._wire
        return not (
            self.closed
            or wire.full
            or wire.blocked
            or len(self._unconfirmed) >= MAX_UNCONFIRMED
            or wire.lost.done()
        )

    async def _wait_room(self) -> None:
        if self.closed:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
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
            self._loop.call_soon(self.wake)

    def _send(
        self, out: Outgoing, body: bytes, confirmed: asyncio.Future[None] | None
    ) -> None:
        self._last += 1
        self._unconfirmed[self._last] = (confirmed, self._loop.time())
        channel = self._channel
        size = len(body)
        pieces = [
            HEAD.pack(METHOD, channel, len(out.method)),
            out.method,
            END,
            HEAD.pack(HEADER, channel, _CONTENT.size + len(out.properties)),
            _CONTENT.pack(Basic.frame_id, 0, size),
            out.properties,
            END,
        ]
        if size <= self._piece:
            if size:
                pieces += (HEAD.pack(BODY, channel, size), body, END)
        else:
            view = memoryview(body)
            for at in range(0, size, self._piece):
                piece = view[at : at + self._piece]
                head = HEAD.pack(BODY, channel, len(piece))
                pieces += (head, piece, END)  # type: ignore[arg-type]
        self._wire.send(pieces)

    def _take(self, kind: int, payload: bytes) -> bool:
        """Take confirms, and hear of the channel's end."""
        if kind != METHOD:
            return False
        method = payload[:4]
        if method in (_ACK, _NACK):
            tag: int
            (tag,) = struct.unpack_from(">Q", payload, 4)
            several = payload[12] & 1
            first = self._first if several else tag
            for one in range(first, min(tag, self._last) + 1):
                if method == _ACK:
                    found = self._unconfirmed.pop(one, None)
                    if found is not None:
                        confirmed = found[0]
                        if confirmed is not None and not confirmed.done():
                            confirmed.set_result(None)
                else:
                    self._refused(one, "the broker refused it")
            if several:
                self._first = tag + 1
            if self._waiting:
                self.wake()
            return True
        if method == _CHANNEL_CLOSE:
            (self.close_code,) = struct.unpack_from(">H", payload, 4)
            text = payload[7 : 7 + payload[6]].decode("utf-8", "replace")
            self.close(f"the broker closed the channel: {text}")
            self._on_closed(self)
        return False

    def _refused(self, tag: int, why: str) -> None:
        found = self._unconfirmed.pop(tag, None)
        if found is None:
            return
        confirmed = found[0]
        if confirmed is None:
            self._on_lost(f"a message was lost: {why}")
        elif not confirmed.done():
            confirmed.set_exception(ChannelBroken(f"the message may be lost: {why}"))
