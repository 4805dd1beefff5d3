"""The driver: the bus contract on RabbitMQ, by classic, quorum or priority queues.

What is published goes from the caller's own turn into the socket, and what arrives goes
from the socket to `deliver`, with no queue or task between. `link` keeps the connection,
`queues` what is read, `publishing` what is under way, `topology` the names.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager

import anyio
from aiormq.exceptions import AMQPError

from remoting_bus.bus.backend import Backend, Bus, BusLimits, Deliver, LinkEvent
from remoting_bus.bus.log import LogReader, LogStart
from remoting_bus.errors import ChannelBroken, LimitExceeded, RemotingError
from remoting_bus.names import Address, Lane, LogName
from remoting_bus_amqp import topology
from remoting_bus_amqp.connection import Connection, words_of
from remoting_bus_amqp.link import Link
from remoting_bus_amqp.log import Logs
from remoting_bus_amqp.publishing import Outgoing, Publisher, outgoing
from remoting_bus_amqp.queues import Place, Queues
from remoting_bus_amqp.settings import MAX_BYTES, Host, Settings, parse

__all__ = ["AmqpBackend", "AmqpBus"]

CLOSE_LIMIT = 4.0
"""Seconds for closing at most: one for what is under way, one for the client's tasks
(`connection.GOODBYE`), and slack."""

PUBLISHES_UNDER_WAY = 16
"""Publishes that may wait for their confirm at once: 0.5 ms each."""

LARGEST_READ = 16 * 1024 * 1024
"""Bytes of a message that is read, if the URL allows no more; a larger one is dropped."""

PROBE_LIMIT = 2.0
"""Seconds to learn how large a message the broker takes."""

ROUTES_KEPT = 16_384
"""Addresses whose frames are kept encoded, so that it is not done for each message."""

NOT_FOUND = 404
"""The broker's code for an exchange that is not there."""

_MAX_SIZE = re.compile(r"max size (\d+)")


class AmqpBackend(Backend):
    """Opens `amqp://` and `amqps://` URLs; `settings.parse` says what they may hold."""

    def open(self, url: str) -> AbstractAsyncContextManager[Bus]:
        """Open one connection, to whichever host answers first."""
        return _opened(parse(url))


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Bus]:
    bus = AmqpBus(settings)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.aclose()


class AmqpBus(Bus):
    """One connection to RabbitMQ, kept up. Made by `AmqpBackend.open`.

    "Taken" means that the broker has confirmed the message. One that the driver sent in
    the caller's own turn (`try_publish`) is confirmed, too: that bounds how many there
    are, and a refusal is told as a "lost" event.
    """

    def __init__(self, settings: Settings) -> None:
        self.limits = BusLimits(max_bytes=0)
        self._settings = settings
        self._largest = 0  # body that the broker takes, if it has said so
        self._routes: dict[tuple[Address, Lane], Outgoing] = {}
        self._link = Link(settings, self._make, self._restore)
        self._queues = Queues(settings, self._link.lost_some)
        self._logs = Logs(settings, self._link, self._queues)

    async def start(self) -> None:
        """Connect; see `Link.start`."""
        await self._link.start()

    async def aclose(self) -> None:
        """Send what is under way, and close, within a second; also where it is cancelled."""
        self._logs.close()
        with anyio.move_on_after(CLOSE_LIMIT, shield=True):
            await self._link.close()

    @property
    def foreign(self) -> int:
        """How many messages in our queues were none of this library's, and dropped."""
        return self._queues.foreign

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        """See `Bus.publish`. While the link is down it raises at once.

        While an alarm blocks the connection it waits; "blocked" tells of that.
        """
        self._check_size(body)
        connection = self._link.connection()
        if to.namespace not in connection.exchanges:
            await self._make_exchange(connection, to.namespace)
        publisher = connection.publisher
        if publisher is None:
            raise ChannelBroken("the channel of publishing is being opened again")
        await publisher.send(self._route(to, lane, expires_in), body)

    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        """See `Bus.try_publish`. True while the broker owes few confirms."""
        self._check_size(body)
        connection = self._link.current
        if (
            connection is None
            or connection.publisher is None
            or to.namespace not in connection.exchanges
        ):
            return False
        return connection.publisher.try_send(self._route(to, lane, expires_in), body)

    @contextlib.asynccontextmanager
    async def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AsyncIterator[None]:
        """See `Bus.consume`. Readers of one address on one connection share a queue.

        Raises:
            SecurityError: The broker does not let us read there.
            ConnectionFailed: The queue or its exchange cannot be had; with `final` it
                exists with other settings.
            ChannelBroken: The link is over for good.
        """
        kind = self._settings.topology
        entries = [
            (self._queues.place(topology.spot_of(kind, at, lane)), lane)
            for lane in lanes
        ]
        places = list(dict.fromkeys(place for place, _ in entries))
        for place, lane in entries:
            place.add(lane, deliver, prefetch)
        try:
            while not await self._settle(places):
                pass
            yield
        finally:
            for place, lane in entries:
                place.remove(lane, deliver)
            connection = self._link.current
            for place in places:
                if connection is not None and not connection.lost.done():
                    connection.in_background(self._queues.settle(connection, place))
                elif not place.readers:
                    self._queues.forget(place)

    async def _settle(self, places: list[Place]) -> bool:
        """Give these places their queues; False if the connection was lost meanwhile."""
        connection = await self._link.wait_up()
        for place in places:
            if not await connection.until_lost(self._queues.settle(connection, place)):
                return False
        return True

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """See `Bus.append`; `Logs.append` has more."""
        self._check_size(body)
        await self._logs.append(log, key, body)

    def read(
        self, log: LogName, start: LogStart
    ) -> AbstractAsyncContextManager[LogReader]:
        """See `Bus.read`."""
        return self._logs.read(log, start)

    async def delete_log(self, log: LogName) -> None:
        """See `Bus.delete_log`."""
        await self._logs.delete(log)

    def link_events(self) -> AbstractAsyncContextManager[AsyncIterator[LinkEvent]]:
        """See `Bus.link_events`."""
        return self._link.board.events()

    # What the connection tells.

    def take(self, consumer: bytes, key: bytes, body: bytes | None) -> bool:
        """A message came."""
        return self._queues.take(consumer, key, body)

    def cancelled(self, connection: Connection, consumer: bytes) -> None:
        """The broker has ended a consumer."""
        self._queues.cancelled(connection, consumer)

    def changed(self, connection: Connection) -> None:
        """The connection is blocked or full, or is no longer."""
        self._link.changed(connection)

    def message_lost(self, words: str) -> None:
        """A message is known not to have arrived."""
        self._link.lost_some(words)

    def publisher_closed(self, connection: Connection, publisher: Publisher) -> None:
        """The broker has closed the channel of publishing: open another."""
        connection.publisher = None
        self._link.lost_some(publisher.closed)
        connection.in_background(self._reopen(connection, publisher.close_code))

    async def _reopen(self, connection: Connection, code: int) -> None:
        try:
            if code == NOT_FOUND:
                await self._queues.bind_again(connection)
            await connection.open_publisher()
        except (AMQPError, RemotingError) as error:
            connection.give_up(f"gives us no channel to publish on: {words_of(error)}")

    def _make(self, host: Host) -> Connection:
        largest = max(LARGEST_READ, self._settings.max_bytes or 0)
        return Connection(self._settings, host, self, largest)

    async def _restore(self, connection: Connection) -> None:
        """A new connection: learn its limits, and read again what is being read."""
        if not self.limits.max_bytes:
            size = self._settings.max_bytes
            if size is None:
                size = MAX_BYTES
                await connection.until_lost(self._learn_size(connection))
            kind = self._settings.topology
            self.limits = BusLimits(
                max_bytes=min(size, self._largest or size),
                native_expiry=True,
                keeps_while_away=kind == "quorum",
                publishes_under_way=PUBLISHES_UNDER_WAY,
                one_loop=kind == "priority",
                durable_log=True,
            )
        await connection.until_lost(self._queues.restore(connection))

    async def _learn_size(self, connection: Connection) -> None:
        """Try a message as large as we want to send, to where nobody reads.

        The broker tells its limit in no other way, and looks at the size before the
        rights: so a refusal for these means that the size is right.
        """
        nowhere = f"rb.{secrets.token_hex(8)}"
        try:
            async with (
                asyncio.timeout(PROBE_LIMIT),
                connection.channel() as channel,
            ):
                await channel.basic_publish(bytes(MAX_BYTES), routing_key=nowhere)
        except TimeoutError:
            return  # an alarm, as a rule
        except AMQPError as error:
            found = _MAX_SIZE.search(words_of(error))
            if found is not None:
                self._largest = int(found[1])

    async def _make_exchange(self, connection: Connection, namespace: str) -> None:
        try:
            made = await connection.until_lost(
                self._queues.exchange(connection, namespace)
            )
        except (RemotingError, AMQPError) as error:
            raise ChannelBroken(str(error)) from error
        if not made:
            words, lost = connection.cause()
            raise ChannelBroken(f"the AMQP link was lost: {words}") from lost

    def _check_size(self, body: bytes) -> None:
        if len(body) > self.limits.max_bytes:
            raise LimitExceeded(
                f"a message of {len(body)} bytes is larger than the max_bytes of "
                f"{self.limits.max_bytes} (the broker's max_message_size, or the URL's "
                "max_bytes)",
                limit="max_bytes",
                value=self.limits.max_bytes,
                asked=len(body),
            )

    def _route(self, to: Address, lane: Lane, expires_in: float | None) -> Outgoing:
        found = self._routes.get((to, lane)) if expires_in is None else None
        if found is None:
            priority = None
            if self._settings.topology == "priority":
                priority = topology.priority_of(lane)
            found = outgoing(
                topology.exchange_name(to.namespace),
                topology.publish_key(to, lane),
                priority=priority,
                expires_in=expires_in,
            )
            if expires_in is None:
                if len(self._routes) >= ROUTES_KEPT:
                    self._routes.clear()
                self._routes[to, lane] = found
        return found
