"""Durable logs: one stream for each, made and bound by whoever touches it first.

A record is a message to the namespace's exchange, by which the stream is bound; its
position is the stream's offset. A stream tells nobody when a message was stored, so a
record carries the appender's time. `Logs` makes streams, appends and deletes; `log_reader`
reads. What the topology is makes no difference.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)
from pamqp import commands, header
from pamqp.commands import Basic

from remoting_bus.bus.backend import LinkEvent
from remoting_bus.bus.log import LogReader, LogStart, check_start
from remoting_bus.errors import (
    ChannelBroken,
    ChannelClosed,
    ConnectionFailed,
    SecurityError,
)
from remoting_bus.names import LogName, check_name
from remoting_bus_amqp import topology
from remoting_bus_amqp.connection import Connection, words_of
from remoting_bus_amqp.link import Link
from remoting_bus_amqp.log_reader import TIME, AmqpReader
from remoting_bus_amqp.publishing import Outgoing, Publisher
from remoting_bus_amqp.queues import Queues
from remoting_bus_amqp.settings import Settings
from remoting_bus_amqp.wire import HEADER, METHOD, Wire

__all__ = ["LogPublisher", "Logs"]

ACCESS_REFUSED = 403
INTERNAL_ERROR = 541

ATTEMPTS = 3
"""How often a record is appended that no stream took up, or over which the broker broke
down: both are seen where the stream was deleted just before."""

_RETURN = struct.pack(">HH", 60, 50)
_PUBLISH = struct.pack(">I", commands.Basic.Publish.index)


class LogPublisher(Publisher):
    """A channel that learns of messages that no stream takes up.

    The broker confirms those, too; before that it sends them back (`mandatory`).
    """

    def __init__(self, wire: Wire, channel: int, frame_max: int) -> None:
        super().__init__(wire, channel, frame_max, lambda _: None, lambda _: None)
        self._returning = False
        self._number = 0
        # Bounded by what is under way.
        self._returned: set[str] = set()

    async def store(self, exchange: str, key: str, body: bytes) -> bool:
        """Publish, and wait for the confirm; False if no stream took it up.

        Raises:
            ChannelBroken: There was no confirm, or a refusal.
        """
        self._number += 1
        name = str(self._number)
        properties = Basic.Properties(
            delivery_mode=2,
            message_id=name,
            headers={TIME: int(datetime.now(UTC).timestamp() * 1_000_000)},
        )
        publish = Basic.Publish(exchange=exchange, routing_key=key, mandatory=True)
        try:
            await self.send(
                Outgoing(_PUBLISH + publish.marshal(), properties.marshal()), body
            )
            return name not in self._returned
        finally:
            self._returned.discard(name)

    def _take(self, kind: int, payload: bytes) -> bool:
        if kind == METHOD:
            self._returning = payload[:4] == _RETURN
            return self._returning or super()._take(kind, payload)
        if kind == HEADER and self._returning:
            content = header.ContentHeader()
            content.unmarshal(payload)
            self._returned.add(str(content.properties.message_id))
        return True


class Logs:
    """What a bus does with logs."""

    def __init__(self, settings: Settings, link: Link, queues: Queues) -> None:
        self._settings = settings
        self._link = link
        self._queues = queues
        # All bounded by the logs that this bus has touched, and by its readers.
        self._locks: dict[LogName, asyncio.Lock] = {}
        self._there: dict[LogName, Connection] = {}
        self._noted: set[LogName] = set()
        self._readers: set[AmqpReader] = set()
        self._opening = asyncio.Lock()

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """See `Bus.append`. While the link is down it raises at once.

        While an alarm blocks the connection it waits; "blocked" tells of that. RabbitMQ
        3.10 on several nodes may close it with an internal error where a stream is made
        again that was deleted just before: then it is appended once more.
        """
        check_name(key, "key of a record")
        for attempt in range(ATTEMPTS):
            connection = self._link.connection()
            try:
                stored = await self._append_once(connection, log, key, body)
            except ChannelBroken as error:
                closed_by = connection.wire.closed_by
                broke_down = closed_by is not None and closed_by[0] == INTERNAL_ERROR
                if not broke_down or attempt + 1 == ATTEMPTS:
                    raise
                await self._link_back(error)
                continue
            if stored:
                return
            self._there.pop(log, None)  # it was deleted: make it again
        raise ChannelBroken(f"no stream takes up what is appended to the log {log}")

    async def _append_once(
        self, connection: Connection, log: LogName, key: str, body: bytes
    ) -> bool:
        """Append; False if no stream took it up."""
        route = topology.log_key(log, key)
        # In the order in which they began, past the lock, too: from there it is sent, or
        # put in line, in the same turn of the loop.
        async with self._locks.setdefault(log, asyncio.Lock()):
            await self.ready(connection, log)
            publisher = await self._publisher(connection)
        try:
            return await publisher.store(
                topology.exchange_name(log.namespace), route, body
            )
        except ChannelBroken as error:
            if publisher.close_code == ACCESS_REFUSED and f"'{route}'" in str(error):
                raise SecurityError(
                    f"RabbitMQ does not let us append to {log} as {key}: {error}"
                ) from error
            raise

    async def _link_back(self, error: ChannelBroken) -> None:
        """Wait for the next connection, as long as one may take; or raise `error`."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await self._link.wait_up()
        except TimeoutError:
            raise error from None

    @asynccontextmanager
    async def read(self, log: LogName, start: LogStart) -> AsyncIterator[LogReader]:
        """See `Bus.read`."""
        check_start(start)
        reader = AmqpReader(log, start, self._link, self)
        self._readers.add(reader)
        try:
            await reader.begin()
            yield reader
        finally:
            self._readers.discard(reader)
            reader.end(ChannelClosed(f"reading the log {log} was left"))

    async def delete(self, log: LogName) -> None:
        """See `Bus.delete_log`."""
        connection = self._link.connection()
        self._there.pop(log, None)
        try:
            await self._do(connection, self._delete(connection, log))
        except ChannelAccessRefused as error:
            raise SecurityError(
                f"RabbitMQ does not let us delete the log {log}: {words_of(error)}"
            ) from error
        except AMQPError as error:
            words = f"deleting the log {log}: {words_of(error)}"
            raise ChannelBroken(words) from error

    def close(self) -> None:
        """End all readers."""
        for reader in tuple(self._readers):
            reader.end(ChannelClosed("the bus was closed"))

    def forget(self, log: LogName) -> None:
        """It may be gone: look before it is used next."""
        self._there.pop(log, None)

    async def ready(self, connection: Connection, log: LogName) -> bool:
        """Make sure that a log has its stream; True if it was made here and now.

        Raises:
            ConnectionFailed: It cannot be had; the message says why.
            ChannelBroken: The connection was lost.
            SecurityError: There is none, and the broker does not let us make it.
        """
        if self._there.get(log) is connection:
            return False
        made: list[bool] = []
        await self._do(connection, self._make(connection, log, made))
        self._there[log] = connection
        return bool(made)

    async def _do(self, connection: Connection, work: Coroutine[Any, Any, Any]) -> None:
        """Do what needs an answer of the broker.

        Raises:
            ChannelBroken: The connection was lost.
        """
        if not await connection.until_lost(work):
            words, error = connection.cause()
            raise ChannelBroken(f"the AMQP link was lost: {words}") from error

    async def _publisher(self, connection: Connection) -> LogPublisher:
        """The channel of appending; opened when it is needed first."""
        found = connection.log_publisher
        if isinstance(found, LogPublisher) and not found.closed:
            return found
        async with self._opening:
            found = connection.log_publisher
            if not isinstance(found, LogPublisher) or found.closed:
                await self._do(connection, self._open_publisher(connection))
        found = connection.log_publisher
        assert isinstance(found, LogPublisher)
        return found

    async def _open_publisher(self, connection: Connection) -> None:
        channel = await connection.client.channel(publisher_confirms=True)
        connection.log_publisher = LogPublisher(
            connection.wire, channel.number, connection.client.connection_tune.frame_max
        )

    async def _delete(self, connection: Connection, log: LogName) -> None:
        async with connection.channel() as channel:
            await channel.queue_delete(topology.log_stream(log))

    async def _make(
        self, connection: Connection, log: LogName, made: list[bool]
    ) -> None:
        try:
            await self._queues.exchange(connection, log.namespace)
            if await self._exists(connection, log):
                await self._compare(connection, log)
            else:
                made.append(True)
                await self._declare(connection, log)
            await self._bind(connection, log)
        except ChannelAccessRefused as error:
            raise SecurityError(
                f"RabbitMQ does not let us make the log {log}: {words_of(error)}. Let "
                "whoever may touch it first"
            ) from error
        except ChannelPreconditionFailed as error:
            raise ConnectionFailed(
                f"the log {log} cannot be had: {words_of(error)}. Delete the queue "
                f"{topology.log_stream(log)}, or name the log otherwise",
                final=True,
            ) from error
        except AMQPError as error:
            raise ConnectionFailed(
                f"the log {log} cannot be had now: {words_of(error)}"
            ) from error

    async def _exists(self, connection: Connection, log: LogName) -> bool:
        try:
            async with connection.channel() as channel:
                await channel.queue_declare(topology.log_stream(log), passive=True)
        except ChannelNotFoundEntity:
            return False
        return True

    async def _declare(self, connection: Connection, log: LogName) -> None:
        kept = self._settings.logs
        async with connection.channel() as channel:
            await channel.queue_declare(
                topology.log_stream(log),
                durable=True,
                arguments=topology.log_arguments(
                    kept.max_bytes, kept.max_age, self._settings.replicas
                ),
            )

    async def _compare(self, connection: Connection, log: LogName) -> None:
        """Declare it again: the broker tells what is otherwise, and changes nothing."""
        try:
            await self._declare(connection, log)
        except ChannelAccessRefused:
            return  # it is there, and others may change it
        except ChannelPreconditionFailed as error:
            words = words_of(error)
            await self._check_kind(connection, log)
            if log not in self._noted:
                self._noted.add(log)
                self._link.board.tell(
                    LinkEvent(
                        "note",
                        f"the log {log} is there with other settings, and is used as it "
                        f"is: {words}. Delete it to have it made anew",
                        error,
                    )
                )

    async def _check_kind(self, connection: Connection, log: LogName) -> None:
        """Raise ChannelPreconditionFailed if it is no stream.

        The broker tells one difference at a time, and not this one first.
        """
        try:
            async with connection.channel() as channel:
                await channel.queue_declare(
                    topology.log_stream(log),
                    durable=True,
                    arguments={"x-queue-type": "stream"},
                )
        except ChannelPreconditionFailed as error:
            if "x-queue-type" in words_of(error) or "'durable'" in words_of(error):
                raise

    async def _bind(self, connection: Connection, log: LogName) -> None:
        try:
            async with connection.channel() as channel:
                await channel.queue_bind(
                    topology.log_stream(log),
                    topology.exchange_name(log.namespace),
                    topology.log_key(log, "*"),
                )
        except ChannelAccessRefused:
            return  # whoever made it has bound it; if not, appends are sent back
