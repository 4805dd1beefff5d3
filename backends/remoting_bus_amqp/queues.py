"""The queues that consumers read, and who reads what: made, put back, given up.

Owns, for each spot (a peer's calls, or its bulk), the consumers here and the queue on the
broker, and makes the second follow the first: `settle` is the one way in which a queue
comes, changes and goes. It must not know how messages are published.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable

from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from remoting_bus.bus.backend import Deliver
from remoting_bus.errors import ConnectionFailed, RemotingError, SecurityError
from remoting_bus.names import Lane
from remoting_bus_amqp import topology
from remoting_bus_amqp.connection import Connection, words_of
from remoting_bus_amqp.settings import Settings
from remoting_bus_amqp.topology import LANE_TOKENS, Spot

__all__ = ["Place", "Queues"]

TAKE_OVER = 1.0
"""Seconds, about, between attempts to get a mailbox that somebody else reads."""

SETTLED_AT_ONCE = 8
"""Queues that are put back at the same time after a reconnect: what keeps one node busy."""

_LANE_BYTES = {lane: token.encode() for lane, token in LANE_TOKENS.items()}


class Place:
    """A spot that is read here.

    Attributes:
        readers: Who gets what of which lane, the lane as in a routing key.
        prefetch: The largest that a reader asked for.
        owner: Whether it reads the spot's mailbox, not a queue of its own.
        leaving: It is being given up: what comes is the mailbox's again.
    """

    def __init__(self, spot: Spot, tag: str) -> None:
        self.spot = spot
        self.tag = tag
        self.prefix = topology.read_prefix(spot).encode()
        self.readers: dict[bytes, list[tuple[Deliver, Lane]]] = {}
        self.prefetch = 1
        self.lock = asyncio.Lock()
        self.connection: Connection | None = None
        self.queue = ""
        self.bound: set[Lane] = set()
        self.owner = False
        self.leaving = False

    def add(self, lane: Lane, deliver: Deliver, prefetch: int) -> None:
        """Let a reader have a lane."""
        self.readers.setdefault(_LANE_BYTES[lane], []).append((deliver, lane))
        self.prefetch = max(prefetch, self.prefetch)

    def remove(self, lane: Lane, deliver: Deliver) -> None:
        """Let it have no more, from now on."""
        token = _LANE_BYTES[lane]
        self.readers[token].remove((deliver, lane))
        if not self.readers[token]:
            del self.readers[token]

    @property
    def lanes(self) -> set[Lane]:
        """The lanes that somebody reads."""
        return {entries[0][1] for entries in self.readers.values()}


class Queues:
    """All places of a bus.

    Args:
        settings: Of the bus.
        on_lost: Told what went wrong where nobody waits for it.
    """

    def __init__(self, settings: Settings, on_lost: Callable[[str], None]) -> None:
        self._settings = settings
        self._on_lost = on_lost
        self._numbers = itertools.count(1)
        self._places: dict[Spot, Place] = {}
        self._by_tag: dict[bytes, Place] = {}
        self._exchange_lock = asyncio.Lock()
        self.foreign = 0

    def place(self, spot: Spot) -> Place:
        """The place of a spot, made where there is none."""
        found = self._places.get(spot)
        if found is None:
            found = Place(spot, str(next(self._numbers)))
            self._places[spot] = found
        return found

    def forget(self, place: Place) -> None:
        """Nobody reads there any more, and there is no connection to settle it on."""
        self._places.pop(place.spot, None)
        self._by_tag.pop(place.tag.encode(), None)

    def take(self, consumer: bytes, key: bytes, body: bytes | None) -> bool:
        """Hand a message to its readers; see `deliveries.Take`."""
        place = self._by_tag.get(consumer)
        if place is None or place.leaving:
            return place is not None and not place.owner
        prefix = place.prefix
        if body is None or not key.startswith(prefix):
            self._drop(place, key, body)
            return True
        entries = place.readers.get(key[len(prefix) :].partition(b".")[0])
        if entries is None:
            if key.count(b".") != 4:
                self._drop(place, key, body)
            return True  # a reader of the other lane of a pair has left
        for deliver, lane in entries:
            try:
                deliver(body, lane)
            except Exception as error:  # noqa: BLE001 - it would end the connection
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a consumer of the bus raised", "exception": error}
                )
        return True

    def _drop(self, place: Place, key: bytes, body: bytes | None) -> None:
        self.foreign += 1
        if self.foreign.bit_count() == 1:  # the 1st, 2nd, 4th, 8th …
            why = "too large" if body is None else "not of this library"
            shown = key[:80].decode("utf-8", "backslashreplace")
            self._on_lost(
                f"{self.foreign} messages at {place.spot} were dropped so far; the "
                f"last, with the key {shown!r}, was {why}"
            )

    async def restore(self, connection: Connection) -> None:
        """Put all queues back on a new connection.

        Raises:
            ConnectionFailed: One cannot be put back.
        """
        places = list(self._places.values())
        for at in range(0, len(places), SETTLED_AT_ONCE):
            work = [
                self._put_back(connection, place)
                for place in places[at : at + SETTLED_AT_ONCE]
            ]
            await asyncio.gather(*work)

    async def _put_back(self, connection: Connection, place: Place) -> None:
        try:
            await self.settle(connection, place)
        except SecurityError as error:
            self._on_lost(str(error))  # the others go on

    async def bind_again(self, connection: Connection) -> None:
        """The exchange may have been deleted: make it, and bind all queues again."""
        connection.exchanges.clear()
        for place in list(self._places.values()):
            place.bound.clear()
        await self.restore(connection)

    def cancelled(self, connection: Connection, consumer: bytes) -> None:
        """The broker ended a consumer: its queue was deleted, or its node went."""
        place = self._by_tag.get(consumer)
        if place is None or place.connection is not connection:
            return
        self._on_lost(
            f"the queue {place.queue} was deleted; what was in it is lost, and it is "
            "made again"
        )
        place.connection = None
        connection.in_background(self._make_again(connection, place))

    async def _make_again(self, connection: Connection, place: Place) -> None:
        try:
            await self.settle(connection, place)
        except (RemotingError, AMQPError) as error:
            connection.give_up(f"has no queue for us any more: {words_of(error)}")

    async def settle(self, connection: Connection, place: Place) -> None:
        """Make what the broker has follow what is read here.

        Raises:
            SecurityError: The broker does not let us read there.
            ConnectionFailed: The queue or the exchange cannot be as it has to be.
        """
        async with place.lock:
            with connection.asking(f"the queue of {place.spot}"):
                await self._follow(connection, place)

    async def _follow(self, connection: Connection, place: Place) -> None:
        """Settle, with the place's lock held."""
        try:
            if not place.readers:
                await self._give_up(connection, place)
                return
            await self.exchange(connection, place.spot.namespace)
            if place.connection is not connection:
                await self._make(connection, place)
            else:
                await self._bind(connection, place)
        except ChannelAccessRefused as error:
            raise SecurityError(
                f"RabbitMQ does not let us read at {place.spot}: {words_of(error)}"
            ) from error
        except ChannelPreconditionFailed as error:
            raise _other_settings(f"the queue of {place.spot}", error) from error
        except ChannelLockedResource as error:
            raise ConnectionFailed(
                f"the queue of {place.spot} is another's: {words_of(error)}",
                final=True,
            ) from error
        except AMQPError as error:
            raise ConnectionFailed(
                f"the queue of {place.spot} cannot be had now: {words_of(error)}"
            ) from error

    async def exchange(self, connection: Connection, namespace: str) -> None:
        """Make sure that a namespace has its exchange, as it has to be.

        Raises:
            SecurityError: There is none, and we may not make it.
            ConnectionFailed: There is one with other settings.
        """
        async with self._exchange_lock:
            if namespace in connection.exchanges:
                return
            name = topology.exchange_name(namespace)
            try:
                async with connection.channel() as channel:
                    await channel.exchange_declare(
                        name, exchange_type="topic", durable=True
                    )
            except ChannelPreconditionFailed as error:
                raise _other_settings(f"the exchange {name}", error) from error
            except ChannelAccessRefused as error:
                await self._look_for(connection, name, error)
            connection.exchanges.add(namespace)

    async def _look_for(
        self, connection: Connection, name: str, refusal: ChannelAccessRefused
    ) -> None:
        """Accept an exchange that only others may make."""
        try:
            async with connection.channel() as channel:
                await channel.exchange_declare(name, passive=True)
        except ChannelNotFoundEntity as error:
            raise SecurityError(
                f"there is no exchange {name}, and RabbitMQ does not let us make it: "
                f"{words_of(refusal)}. Let whoever may open the namespace first"
            ) from error

    # -- one place, with its lock held --

    async def _make(self, connection: Connection, place: Place) -> None:
        self._by_tag.pop(place.tag.encode(), None)
        place.connection = None
        place.bound = set()
        place.owner = False
        place.leaving = False
        if self._settings.topology == "quorum" and await _hold(connection, place):
            await self._read_mailbox(connection, place)
            return
        await self._read_own(connection, place)
        if self._settings.topology == "quorum":
            connection.in_background(self._take_over(connection, place))

    async def _read_own(self, connection: Connection, place: Place) -> None:
        """Read by a queue of this connection."""
        settings = self._settings
        place.queue = topology.own_queue_name(place.spot)
        async with connection.channel() as channel:
            await channel.queue_declare(
                place.queue,
                exclusive=True,
                auto_delete=False,
                arguments=topology.own_queue_arguments(
                    settings.topology, settings.mailbox_bytes
                ),
            )
        await self._start(connection, place)

    async def _read_mailbox(self, connection: Connection, place: Place) -> None:
        """Read the mailbox, which we hold."""
        settings = self._settings
        place.queue = topology.mailbox_name(place.spot)
        async with connection.channel() as channel:
            await channel.queue_declare(
                place.queue,
                durable=True,
                arguments=topology.mailbox_arguments(
                    settings.mailbox_bytes, settings.mailbox_age, settings.replicas
                ),
            )
        place.owner = True
        await self._start(connection, place)

    async def _start(self, connection: Connection, place: Place) -> None:
        place.connection = connection
        await self._bind(connection, place)
        place.tag = str(next(self._numbers))
        self._by_tag[place.tag.encode()] = place
        every = max(1, place.prefetch // 4)
        deliveries = connection.deliveries
        deliveries.ack_every = min(deliveries.ack_every, every)
        await connection.consume(place.queue, place.tag, place.prefetch)

    async def _bind(self, connection: Connection, place: Place) -> None:
        """Bind the queue to all lanes that are read, and to no other.

        A mailbox stays bound: it keeps what comes while nobody reads.
        """
        wanted = place.lanes
        gone = set() if place.owner else place.bound - wanted
        if wanted <= place.bound and not gone:
            return
        exchange = topology.exchange_name(place.spot.namespace)
        async with connection.channel() as channel:
            for lane in sorted(wanted - place.bound):
                key = topology.binding_key(place.spot, lane)
                await channel.queue_bind(place.queue, exchange, key)
            for lane in sorted(gone):
                key = topology.binding_key(place.spot, lane)
                await channel.queue_unbind(place.queue, exchange, key)
        place.bound = (place.bound | wanted) - gone

    async def _take_over(self, connection: Connection, place: Place) -> None:
        """Read the mailbox as soon as whoever reads it now has left."""
        while not connection.lost.done():
            pause = random.uniform(0.5, 1.5) * TAKE_OVER  # noqa: S311 - jitter
            await asyncio.sleep(pause)
            async with place.lock:
                if place.connection is not connection or place.owner:
                    return
                try:
                    with connection.asking(f"the mailbox of {place.spot}"):
                        if await _hold(connection, place):
                            await self._change_over(connection, place)
                except (RemotingError, AMQPError) as error:
                    connection.give_up(f"does not give us a mailbox: {words_of(error)}")

    async def _change_over(self, connection: Connection, place: Place) -> None:
        """Read the mailbox, then leave the own queue: what comes twice is a copy."""
        own, tag = place.queue, place.tag
        place.bound = set()
        await self._read_mailbox(connection, place)
        await connection.stop_consuming(tag)
        self._by_tag.pop(tag.encode(), None)
        async with connection.channel() as channel:
            await channel.queue_delete(own)

    async def _give_up(self, connection: Connection, place: Place) -> None:
        """Let a queue go; a mailbox stays, with what was not read."""
        if place.connection is connection:
            place.leaving = True
            if place.owner:
                connection.deliveries.acknowledge()
            await connection.stop_consuming(place.tag)
            async with connection.channel() as channel:
                name = topology.hold_name(place.spot) if place.owner else place.queue
                await channel.queue_delete(name)
            place.connection = None
        self._by_tag.pop(place.tag.encode(), None)
        if not place.readers:
            self._places.pop(place.spot, None)
            return
        await self._make(connection, place)  # somebody came meanwhile


async def _hold(connection: Connection, place: Place) -> bool:
    """Get the right to read a mailbox, until the connection ends; False if it is taken."""
    try:
        async with connection.channel() as channel:
            await channel.queue_declare(topology.hold_name(place.spot), exclusive=True)
    except ChannelLockedResource:
        return False
    return True


def _other_settings(what: str, error: ChannelPreconditionFailed) -> ConnectionFailed:
    return ConnectionFailed(
        f"{what} exists with other settings: {words_of(error)}. Delete it, or use the "
        "options that it was made with, or another namespace",
        final=True,
    )
