"""The driver: the bus contract on Kafka, shared partitions or a topic for each peer.

A consumer is a place in a partition, kept here: no groups, no commits. What is published
goes to the leader of the peer's partition, what arrives goes from the socket's reader to
`deliver`. `link` keeps watch, `topology` knows the names, `topics` makes them, `send` and
`fetch` carry.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import anyio

from remoting_bus.bus.backend import Backend, Bus, BusLimits, Deliver, LinkEvent
from remoting_bus.bus.log import LogReader, LogStart
from remoting_bus.errors import ChannelBroken, ConnectionFailed, LimitExceeded
from remoting_bus.names import Address, Lane, LogName
from remoting_bus_kafka import topology
from remoting_bus_kafka.cluster import EARLIEST, LATEST, Cluster, Partition
from remoting_bus_kafka.fetch import Fetcher
from remoting_bus_kafka.link import Link
from remoting_bus_kafka.log import Logs
from remoting_bus_kafka.send import Sender
from remoting_bus_kafka.settings import Settings, parse
from remoting_bus_kafka.topics import Topics
from remoting_bus_kafka.wire import Broken

__all__ = ["Counts", "KafkaBackend", "KafkaBus"]

CLOSE_LIMIT = 3.0
"""Seconds for closing at most: `GOODBYE`, half a second for sockets, and slack."""

GOODBYE = 1.0
"""Seconds that closing waits for what was published and not yet taken."""

PUBLISHES_UNDER_WAY = 4
"""More than 2 to 4 outstanding made no difference in bulk (speed.md, 15)."""

KEPT = 16_384
"""Keys and places kept as they are, so that they are not put together for each message."""


class KafkaBackend(Backend):
    """Opens `kafka://` URLs; `settings.parse` says what they may hold."""

    def open(self, url: str) -> AbstractAsyncContextManager[Bus]:
        """Open a connection to the cluster of whichever host answers first."""
        return _opened(parse(url))


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Bus]:
    bus = KafkaBus(settings)
    try:
        await bus.start()
        yield bus
    finally:
        await bus.aclose()


@dataclass(slots=True)
class Counts:
    """Records that were read and passed over.

    Attributes:
        foreign: For other peers that share a partition with ours.
        garbage: Not of our making at all.
    """

    foreign: int = 0
    garbage: int = 0


@dataclass(slots=True, eq=False)
class _Reading:
    """One `consume` that is entered."""

    at: Address
    lanes: tuple[Lane, ...]
    deliver: Deliver
    partitions: set[Partition] = field(default_factory=set)


class KafkaBus(Bus):
    """A connection to a cluster, kept up. Made by `KafkaBackend.open`.

    Attributes:
        counts: What was passed over.
    """

    def __init__(self, settings: Settings) -> None:
        self.limits = BusLimits(max_bytes=0)
        self.counts = Counts()
        self._settings = settings
        self._readings: list[_Reading] = []
        self._routes: dict[str, dict[bytes, list[tuple[Deliver, Lane]]]] = {}
        self._known: dict[tuple[str, bytes], list[tuple[Deliver, Lane]]] = {}
        self._keys: dict[tuple[Address, Lane], tuple[str, bytes]] = {}
        self._mapped: dict[str, int] = {}
        self._cluster = Cluster(settings)
        self._topics = Topics(settings, self._cluster, self._tell, self._in_use)
        self._link = Link(settings, self._cluster, self._settle)
        self._sender = Sender(
            settings,
            self._cluster,
            largest_batch=lambda: self._topics.largest_batch,
            look=self._link.look,
            blocked=self._tell_blocked,
            lost=self._tell_lost,
        )
        self._fetcher = Fetcher(
            settings,
            self._cluster,
            take=self._take,
            look=self._on_unread,
            well=self._link.tell_well,
            lost=self._tell_lost,
        )
        self._logs = Logs(settings, self._cluster, self._link, self._tell_blocked)

    async def start(self) -> None:
        """Connect; see `Backend.open`."""
        await self._link.start()
        await self._topics.learn_limits()
        await self._logs.learn_limits()
        self.limits = BusLimits(
            max_bytes=self._topics.max_bytes,
            publishes_under_way=PUBLISHES_UNDER_WAY,
            durable_log=True,
        )
        self._link.keep()

    async def aclose(self) -> None:
        """Send what is unsent, and close, within a second; also where it is cancelled."""
        self._logs.end_readers()
        with anyio.move_on_after(CLOSE_LIMIT, shield=True):
            await self._link.close()
            await self._fetcher.close()
            await self._sender.close(GOODBYE)
            await self._logs.close()
            await self._cluster.close()

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        """See `Bus.publish`. A partition without a leader is waited for, some seconds.

        Raises:
            SecurityError: The brokers do not let us write there, or make the topic.
        """
        self._check_size(body)
        self._link.check()
        topic, key = self._place(to, lane)
        if not self._topics.is_ready(topic):
            try:
                async with asyncio.timeout(self._sender.patience):
                    await self._topics.ready(topic, self._partitions)
            except TimeoutError:
                cause = self._link.board.present.cause
                raise ChannelBroken(
                    f"topic {topic} cannot be asked for: {cause}"
                ) from None
            except ConnectionFailed as error:
                raise ChannelBroken(str(error)) from error
        await self._sender.put(self._partition(topic, to), key, body)

    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        """See `Bus.try_publish`. True only where the leader is connected and idle.

        The broker has not answered then: should it not take the message, "lost" is told.
        """
        self._check_size(body)
        topic, key = self._place(to, lane)
        if not self._topics.is_ready(topic) or not self._link.is_up:
            return False
        return self._sender.put_now(self._partition(topic, to), key, body)

    @contextlib.asynccontextmanager
    async def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AsyncIterator[None]:
        """See `Bus.consume`. Kafka has no `prefetch`: we ask for what we want next.

        Raises:
            SecurityError: The brokers do not let us read there, or make the topic.
            ConnectionFailed: The topic is not fit; the message says why.
            ChannelBroken: The link is over for good.
        """
        reading = _Reading(at, tuple(lanes), deliver)
        self._add(reading)
        try:
            while not await self._attach(reading, LATEST):
                await self._link.wait_changed()
            yield
        finally:
            self._remove(reading)

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """See `Bus.append`. A log without a leader is waited for, some seconds."""
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

    @property
    def _partitions(self) -> int:
        """Of a topic that is made here."""
        one_each = self._settings.topology == "topic"
        return 1 if one_each else self._settings.partitions

    def _check_size(self, body: bytes) -> None:
        if len(body) > self.limits.max_bytes:
            raise LimitExceeded(
                f"a message of {len(body)} bytes is larger than {self.limits.max_bytes}, "
                "what the brokers' message.max.bytes leaves for it",
                limit="message.max.bytes",
                value=self.limits.max_bytes,
                asked=len(body),
            )

    def _place(self, to: Address, lane: Lane) -> tuple[str, bytes]:
        """The topic and key for an address."""
        found = self._keys.get((to, lane))
        if found is None:
            if len(self._keys) >= KEPT:
                self._keys.clear()
            topic = topology.topic_of(self._settings.topology, to, lane)
            found = topic, topology.key_of(to, lane)
            self._keys[to, lane] = found
        return found

    def _partition(self, topic: str, address: Address) -> Partition:
        count = self._cluster.counts[topic]
        return topic, topology.partition_of(address.name, count)

    def _in_use(self) -> set[str]:
        """Topics that must not be forgotten."""
        read = {topic for topic, _ in self._fetcher.positions}
        return read | self._routes.keys() | self._sender.topics()

    # -- reading --

    def _add(self, reading: _Reading) -> None:
        self._known.clear()
        self._readings.append(reading)
        for lane in reading.lanes:
            topic = topology.topic_of(self._settings.topology, reading.at, lane)
            routes = self._routes.setdefault(topic, {})
            entries = routes.setdefault(topology.route_of(reading.at, lane), [])
            entries.append((reading.deliver, lane))

    def _remove(self, reading: _Reading) -> None:
        self._known.clear()
        self._readings.remove(reading)
        for lane in reading.lanes:
            topic = topology.topic_of(self._settings.topology, reading.at, lane)
            route = topology.route_of(reading.at, lane)
            entries = self._routes[topic][route]
            entries.remove((reading.deliver, lane))
            if not entries:
                del self._routes[topic][route]
                if not self._routes[topic]:
                    del self._routes[topic]
        wanted = {p for each in self._readings for p in each.partitions}
        for partition in reading.partitions - wanted:
            self._fetcher.leave(partition)

    async def _attach(self, reading: _Reading, which: int) -> bool:
        """Begin to read where its messages come; False if that cannot be asked now."""
        self._link.check()
        try:
            for lane in reading.lanes:
                topic = topology.topic_of(self._settings.topology, reading.at, lane)
                await self._topics.ready(topic, self._partitions)
                partition = self._partition(topic, reading.at)
                if partition in reading.partitions:
                    continue
                if partition not in self._fetcher.positions:
                    offset = await self._cluster.offset(partition, which)
                    self._fetcher.read(partition, offset)
                reading.partitions.add(partition)
                self._mapped[topic] = self._cluster.counts[topic]
        except ConnectionFailed as error:
            if error.final:
                raise
            if isinstance(error, Broken) or not self._link.is_up:
                self._link.look(None, error)
                return False
            raise
        return True

    def _take(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        """Deliver a record where it was read, or count it as none of ours."""
        if key is None or value is None:
            self.counts.garbage += 1
            return
        entries = self._known.get((topic, key))
        if entries is None:
            if not topology.is_key(key):
                self.counts.garbage += 1
                return
            if len(self._known) >= KEPT:
                self._known.clear()
            route = key[: key.rindex(b"/")]
            entries = list(self._routes.get(topic, {}).get(route, ()))
            self._known[topic, key] = entries
        if not entries:
            self.counts.foreign += 1
        for deliver, lane in entries:
            try:
                deliver(value, lane)
            except Exception as error:  # noqa: BLE001 - it would end the reader
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a consumer of the bus raised", "exception": error}
                )

    # -- the link --

    async def _settle(self) -> str:
        """The cluster was asked: read and write where the leaders are now."""
        for topic in {topic for topic, _ in self._fetcher.positions}:
            if topic not in self._cluster.counts:
                self._topics.forget(topic)
                await self._topics.ready(topic, self._partitions)
                self._tell_lost(f"topic {topic} was deleted, and made again")
                self._mapped[topic] = 0
            if self._cluster.counts[topic] != self._mapped.get(topic):
                await self._read_anew(topic)
        await self._logs.settle()
        self._sender.leaders_changed()
        self._fetcher.regroup()
        return next(iter(self._fetcher.trouble.values()), "")

    async def _read_anew(self, topic: str) -> None:
        """A topic has other partitions than it had: names are hashed to others."""
        self._tell(f"topic {topic} has {self._cluster.counts[topic]} partitions now")
        self._mapped[topic] = self._cluster.counts[topic]
        for partition in [p for p in self._fetcher.positions if p[0] == topic]:
            self._fetcher.leave(partition)
        for reading in self._readings:
            if any(p[0] == topic for p in reading.partitions):
                reading.partitions -= {p for p in reading.partitions if p[0] == topic}
                await self._attach(reading, EARLIEST)

    def _on_unread(self, node: int | None, error: ConnectionFailed) -> None:
        if isinstance(error, Broken) and error.silent:
            self._link.tell_down(str(error), error)
        self._link.look(node, error)

    def _tell(self, words: str) -> None:
        """Tell something that an operator should know."""
        self._link.board.tell(LinkEvent("note", words))

    def _tell_lost(self, words: str) -> None:
        self._link.board.tell(LinkEvent("lost", words))

    def _tell_blocked(self, cause: str) -> None:
        state = self._link.board.present.state
        if cause and state == "up":
            self._link.board.tell(LinkEvent("blocked", cause))
        elif not cause and state == "blocked":
            self._link.board.tell(LinkEvent("up", "the brokers take messages again"))
