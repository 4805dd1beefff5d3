"""Durable logs: one topic of one partition for each, made by whoever touches it first.

A record is a Kafka record, its position is the offset, its time the broker's. `Logs`
makes topics, appends and deletes; `log_reader` reads. What the topology is makes no
difference, and `acks=leader` neither: a log is for what shall not be lost with a leader.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiokafka.protocol.admin import DeleteTopicsRequest

from remoting_bus.bus.backend import LinkEvent
from remoting_bus.bus.log import LogReader, LogStart, Retention, check_start, differs
from remoting_bus.errors import (
    ChannelBroken,
    ChannelClosed,
    ConnectionFailed,
    SecurityError,
)
from remoting_bus.names import LogName, check_name
from remoting_bus_kafka import topology
from remoting_bus_kafka.cluster import NOT_ALLOWED, Cluster, code_words
from remoting_bus_kafka.link import Link
from remoting_bus_kafka.log_reader import KafkaReader
from remoting_bus_kafka.send import Sender
from remoting_bus_kafka.settings import Settings
from remoting_bus_kafka.topics import Topics
from remoting_bus_kafka.wire import Broken

__all__ = ["Logs"]

GONE_LIMIT = 5.0
"""Seconds until a deleted topic is gone from what brokers say: milliseconds as a rule."""

PAUSE = 0.02
"""Seconds between two looks."""

GOODBYE = 1.0
"""Seconds that closing waits for what was appended and not yet taken."""

UNKNOWN = 3
"""There is no such topic."""

NOT_CONTROLLER = 41


class LogTopics(Topics):
    """Topics that are logs.

    Args:
        note: Called with a topic and what it keeps, where that is not what the URL says.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        note: Callable[[str, Retention], None],
    ) -> None:
        kept = settings.logs
        super().__init__(
            dataclasses.replace(
                settings, retention=kept.max_age, retention_bytes=kept.max_bytes
            ),
            cluster,
            lambda words: None,
        )
        self._note = note

    def _configs(self, replicas: int) -> dict[str, str]:
        stamped = {"message.timestamp.type": "LogAppendTime"}
        return super()._configs(replicas) | stamped

    def _compare(self, topic: str, found: dict[str, str], partitions: int) -> None:
        count = self._cluster.counts.get(topic, partitions)
        if count != partitions:
            raise ConnectionFailed(
                f"topic {topic} has {count} partitions, and a log is one: delete it, or "
                "name the log otherwise",
                final=True,
            )
        kept = Retention(
            int(found["retention.bytes"]), int(found["retention.ms"]) // 1000
        )
        if kept != self._settings.logs:
            self._note(topic, kept)


class Logs:
    """What a bus does with logs.

    Args:
        blocked: See `Sender`.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        link: Link,
        blocked: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._link = link
        self.topics = LogTopics(settings, cluster, self._compared)
        self._sender = Sender(
            dataclasses.replace(settings, acks="all"),
            cluster,
            largest_batch=lambda: self.topics.largest_batch,
            look=link.look,
            blocked=blocked,
            lost=lambda words: None,  # each append waits for its own answer
        )
        # All bounded by the logs that this bus has touched, and by its readers.
        self._names: dict[str, LogName] = {}
        self._noted: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._appending: dict[str, int] = {}
        self._readers: set[KafkaReader] = set()

    async def learn_limits(self) -> None:
        """Ask how large a record may be."""
        await self.topics.learn_limits()

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """See `Bus.append`."""
        check_name(key, "key of a record")
        self._link.check()
        topic = self._topic(log)
        # In the order in which they began, past the lock, too: from there it is sent
        # in the same turn of the loop.
        async with self._locks.setdefault(topic, asyncio.Lock()):
            if not self.topics.is_ready(topic):
                await self._ready(topic)
        self._appending[topic] = self._appending.get(topic, 0) + 1
        try:
            await self._sender.put((topic, 0), key.encode(), body)
        finally:
            self._appending[topic] -= 1
            if not self._appending[topic]:
                del self._appending[topic]

    @asynccontextmanager
    async def read(self, log: LogName, start: LogStart) -> AsyncIterator[LogReader]:
        """See `Bus.read`."""
        check_start(start)
        reader = KafkaReader(
            self._topic(log), start, self._settings, self._cluster, self._link, self
        )
        self._readers.add(reader)
        try:
            await reader.begin()
            yield reader
        finally:
            self._readers.discard(reader)
            reader.end(ChannelClosed(f"reading the log {log} was left"))

    async def delete(self, log: LogName) -> None:
        """See `Bus.delete_log`."""
        self._link.check()
        topic = self._topic(log)
        limit = round(1000 * self._settings.answer_timeout)
        deadline = asyncio.get_running_loop().time() + GONE_LIMIT
        try:
            while True:
                wire = await self._cluster.wire(self._cluster.controller)
                answer = await wire.ask(DeleteTopicsRequest([topic], limit))
                ((_, code),) = answer.topic_error_codes
                if code in (0, UNKNOWN):
                    break
                if code == NOT_ALLOWED:
                    raise SecurityError(
                        f"the brokers do not let us delete topic {topic}: allow Delete"
                    )
                if code != NOT_CONTROLLER:
                    words = f"the log {log} cannot be deleted: {code_words(code)}"
                    raise ConnectionFailed(words)
                await self._look(deadline, f"deleting the log {log}")
            self.topics.forget(topic)
            while topic in self._cluster.counts:
                await self._look(deadline, f"the log {log} is still there")
        except Broken as error:
            raise ChannelBroken(f"deleting the log {log}: {error}") from error

    async def ready(self, topic: str) -> None:
        """Make a log's topic, or check it; for readers.

        Raises:
            ConnectionFailed: It cannot be had; `Broken` where that may pass.
            SecurityError: The brokers do not let us.
        """
        await self.topics.ready(topic, 1)

    async def settle(self) -> None:
        """The cluster was asked: append to where the leaders are now."""
        for topic in list(self._appending):
            if topic not in self._cluster.counts:
                self.topics.forget(topic)
                await self.topics.ready(topic, 1)
        self._sender.leaders_changed()

    def end_readers(self) -> None:
        """End all readers: the bus is closed."""
        for reader in tuple(self._readers):
            reader.end(ChannelClosed("the bus was closed"))

    async def close(self) -> None:
        """Send what is under way, for a second."""
        await self._sender.close(GOODBYE)

    async def _ready(self, topic: str) -> None:
        try:
            async with asyncio.timeout(self._sender.patience):
                await self.topics.ready(topic, 1)
        except TimeoutError:
            cause = self._link.board.present.cause
            raise ChannelBroken(f"topic {topic} cannot be asked for: {cause}") from None
        except ConnectionFailed as error:
            if isinstance(error, Broken) or not self._link.is_up:
                raise ChannelBroken(str(error)) from error
            raise

    async def _look(self, deadline: float, words: str) -> None:
        if asyncio.get_running_loop().time() > deadline:
            raise ChannelBroken(f"{words}, after {GONE_LIMIT:g} s")
        await asyncio.sleep(PAUSE)
        await self._cluster.refresh()

    def _topic(self, log: LogName) -> str:
        topic = topology.log_topic(log)
        self._names[topic] = log
        return topic

    def _compared(self, topic: str, kept: Retention) -> None:
        if topic not in self._noted:
            self._noted.add(topic)
            words = differs(self._names[topic], kept)
            self._link.board.tell(LinkEvent("note", words))
