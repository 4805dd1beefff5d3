"""`memory://NAME`: the bus inside one process, and the reference driver.

Owns the brokers of this process by name, each with its connections, its readers and
their bounded queues; its durable logs are `memory_log`'s. It runs on asyncio and trio. It must not know what it carries.
Faults of a link are switches here (`cut`, `heal`, `block`, `unblock`); faults of single
messages are `testing.faulty`'s.

How it works. A publish appends the message to the queue of each reader and marks the
reader's connection, whose one callback in a later turn of the loop delivers all that is
queued by then. So nothing is delivered inside a publish, a message costs no task and no
event, and a reader that publishes while it reads cannot recurse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum

import anyio
import anyio.lowlevel

from remoting_bus._loop import Loop, current_loop
from remoting_bus.errors import (
    ChannelBroken,
    ChannelClosed,
    ConnectionFailed,
    LimitExceeded,
)
from remoting_bus.names import Address, Lane, LogName, check_name

from .backend import Backend, Bus, BusLimits, Deliver, LinkEvent
from .links import LinkBoard
from .log import LOG_OPTIONS, LogReader, LogStart, Retention, retention_of
from .memory_log import LinkLogs, MemoryLogs
from .urls import BusUrl, parse_url

__all__ = ["MemoryBackend", "MemoryBroker", "MemoryBus", "memory_broker"]

MAX_BYTES = 1024 * 1024
"""The largest body unless the URL says `max_bytes`: NATS's default, so that what works
here works there."""

MAX_QUEUED_BYTES = 8 * 1024 * 1024
"""Bytes that wait for one reader on one lane unless the URL says `queue_bytes`; at the
bound `publish` waits. Per lane, so that a flood of BULK stops no CONTROL. Above every
window of a session's bulk, so that it is met by floods only."""

MESSAGE_COST = 64
"""Bytes that a message counts beyond its body, so that empty ones are bounded, too."""

PUBLISHES_UNDER_WAY = 1024
"""A publish waits for nothing but room; more at once costs nothing here."""

_Key = tuple[str, str, Lane]
"""Where a message is read: namespace, name, lane."""


class _State(Enum):
    UP = "up"
    DOWN = "down"
    BLOCKED = "blocked"
    CLOSED = "closed"


class MemoryBackend(Backend):
    """The driver of `memory://NAME?max_bytes=…&queue_bytes=…&log_bytes=…&log_age=…`."""

    def open(self, url: str) -> AbstractAsyncContextManager[Bus]:
        """Open a connection to the broker NAME, which its first connection makes.

        It lasts until its last connection is closed, and belongs to the event loop that
        made it; another thread's loop is refused by name.
        """
        parsed = parse_url(url)
        return _open(parsed, _name(parsed))


def memory_broker(name: str) -> MemoryBroker:
    """Return the broker of `memory://NAME`, for a test that breaks its links.

    Raises:
        LookupError: No connection to it is open.
    """
    try:
        return _brokers[name]
    except KeyError:
        raise LookupError(f"no connection to memory://{name} is open") from None


class MemoryBroker:
    """What all connections of one name share.

    Attributes:
        name: The NAME of its URL.
        links: Its open connections, oldest first.
        logs: Its durable logs.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.links: list[MemoryBus] = []
        self.loop: Loop = current_loop()
        self.home = anyio.lowlevel.current_token()
        self.starved: dict[MemoryBus, None] = {}
        self._readers: dict[_Key, list[_Reader]] = {}
        self.logs = MemoryLogs()

    def put(self, key: _Key, body: bytes) -> bool:
        """Queue a message for each reader, or for none where one of them is full."""
        readers = self._readers.get(key)
        if readers is None:
            return True
        lane = key[2]
        size = len(body) + MESSAGE_COST
        for reader in readers:
            queued = reader.queued[lane]
            if queued and queued + size > reader.bound:
                return False
        for reader in readers:
            reader.put(body, lane, size)
        return True

    def add(self, reader: _Reader) -> None:
        """Let a reader get what is published from now on."""
        for key in reader.keys:
            self._readers.setdefault(key, []).append(reader)

    def remove(self, reader: _Reader) -> None:
        """Forget a reader; what waits for it is lost."""
        for key in reader.keys:
            readers = self._readers.get(key, [])
            if reader in readers:
                readers.remove(reader)
                if not readers:
                    del self._readers[key]
        reader.clear()
        self.room()

    def room(self) -> None:
        """Let the publishes that wait look again."""
        for bus in tuple(self.starved):
            bus.look_again()


_brokers: dict[str, MemoryBroker] = {}


class MemoryBus(Bus):
    """One connection to a `MemoryBroker`, with switches for the faults of its link."""

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        max_bytes: int,
        queue_bytes: int,
        retention: Retention,
    ) -> None:
        self.limits = BusLimits(
            max_bytes=max_bytes,
            publishes_under_way=PUBLISHES_UNDER_WAY,
            one_loop=True,
            durable_log=True,
        )
        self._broker = broker
        self._queue_bytes = queue_bytes
        self._max_bytes = max_bytes
        self._state = _State.UP
        self._board = LinkBoard(LinkEvent("up", f"memory://{broker.name} is open"))
        self._mine: list[_Reader] = []
        self._ready: deque[_Reader] = deque()
        self._scheduled = False
        # Bounded by the tasks that wait: each publish under way is one entry.
        self._waiting: dict[_Key, deque[_Turn]] = {}
        self._logs = LinkLogs(broker.logs, retention, self._up, self._board)

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        """Publish; waits while a reader is full or the link is blocked.

        Raises:
            LimitExceeded: The body is too large. Nothing was sent.
            ChannelBroken: The link is down. Nothing was sent.
            ChannelClosed: This connection is closed. Nothing was sent.
        """
        if not self.try_publish(to, lane, body, expires_in=expires_in):
            await self._publish_in_turn((to.namespace, to.name, lane), body)
        await anyio.lowlevel.checkpoint()

    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        """Publish at once, or return False while it would have to wait.

        Raises:
            LimitExceeded: The body is too large. Nothing was sent.
            ChannelClosed: This connection is closed. Nothing was sent.
        """
        self._check_size(body)
        if self._state is not _State.UP:
            self._check_open()
            return False
        key = (to.namespace, to.name, lane)
        if self._waiting and key in self._waiting:
            return False  # those that wait came first
        return self._broker.put(key, body)

    @asynccontextmanager
    async def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AsyncGenerator[None, None]:
        """Read while entered; `prefetch` messages are delivered in one turn at most.

        Raises:
            ValueError: `prefetch` is less than 1, or there is no lane.
            ChannelClosed: This connection is closed.
        """
        self._check_open()
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, not {prefetch}")
        if not lanes:
            raise ValueError("consume needs at least one lane")
        keys = [(at.namespace, at.name, Lane(lane)) for lane in dict.fromkeys(lanes)]
        reader = _Reader(keys, prefetch, self._queue_bytes, deliver, self._wake)
        self._mine.append(reader)
        if self._state is not _State.DOWN:
            self._broker.add(reader)
        try:
            yield
        finally:
            if reader in self._mine:
                self._mine.remove(reader)
            self._broker.remove(reader)

    def link_events(self) -> AbstractAsyncContextManager[AsyncIterator[LinkEvent]]:
        """Return the states of this connection, from the present one on."""
        return self._board.events()

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """Append at once; waits only while the link is blocked. See `Bus.append`."""
        self._check_size(body)
        await self._logs.append(log, key, body)

    def read(
        self, log: LogName, start: LogStart
    ) -> AbstractAsyncContextManager[LogReader]:
        """Read a log; see `Bus.read`."""
        return self._logs.read(log, start)

    async def delete_log(self, log: LogName) -> None:
        """Delete a log at once; see `Bus.delete_log`."""
        await self._logs.delete(log)

    # Faults of the link, for tests.

    def cut(self, cause: str = "cut by a test") -> None:
        """Take the link down: what waits for its readers is lost, publishes fail."""
        if self._state in {_State.CLOSED, _State.DOWN}:
            return
        self._state = _State.DOWN
        for reader in self._mine:
            self._broker.remove(reader)
        self._board.tell(LinkEvent("down", cause))
        self.look_again()

    def heal(self) -> None:
        """Bring the link up again, its readers first."""
        if self._state is not _State.DOWN:
            return
        for reader in self._mine:
            self._broker.add(reader)
        self._state = _State.UP
        self._board.tell(LinkEvent("up", "healed"))
        self.look_again()

    def block(self, cause: str = "blocked by a test") -> None:
        """Take no publishes for now; deliveries go on."""
        if self._state is _State.UP:
            self._state = _State.BLOCKED
            self._board.tell(LinkEvent("blocked", cause))

    def unblock(self) -> None:
        """Take publishes again, those that wait first."""
        if self._state is _State.BLOCKED:
            self._state = _State.UP
            self._board.tell(LinkEvent("up", "unblocked"))
            self.look_again()

    # What the broker and `_open` call.

    def look_again(self) -> None:
        """Let the first publish that waits for each place, and logs, look again."""
        for turns in self._waiting.values():
            turns[0].wake()
        self._logs.look_again()

    def close(self) -> None:
        """Break every publish that waits, and forget every reader."""
        self._state = _State.CLOSED
        for reader in self._mine:
            self._broker.remove(reader)
        self._mine.clear()
        self.look_again()

    def _wake(self, reader: _Reader) -> None:
        """Take a reader into the next turn."""
        self._ready.append(reader)
        if not self._scheduled:
            self._scheduled = True
            self._broker.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Deliver to each reader that was ready when the turn began."""
        ready = self._ready
        try:
            for _ in range(len(ready)):
                reader = ready.popleft()
                try:
                    reader.turn()
                finally:
                    if reader.scheduled:
                        ready.append(reader)
            if self._broker.starved:
                self._broker.room()
        finally:  # also where a `deliver` broke its promise and raised
            self._scheduled = bool(ready)
            if ready:
                self._broker.loop.call_soon(self._turn)

    def _check_open(self) -> None:
        if self._state is _State.CLOSED:
            raise ChannelClosed(
                f"this connection to memory://{self._broker.name} is closed"
            )

    def _up(self) -> bool:
        """Whether the link takes what is published; raises where there is none."""
        self._check_open()
        self._check_link()
        return self._state is _State.UP

    def _check_link(self) -> None:
        if self._state is _State.DOWN:
            raise ChannelBroken(f"the link is down ({self._board.present.cause})")

    def _check_size(self, body: bytes) -> None:
        if len(body) > self._max_bytes:
            raise LimitExceeded(
                f"a message of {len(body)} bytes is larger than the {self._max_bytes} "
                "that this bus carries (max_bytes)",
                limit="max_bytes",
                value=self._max_bytes,
                asked=len(body),
            )

    async def _publish_in_turn(self, key: _Key, body: bytes) -> None:
        """Wait for room or the link, behind those that came before."""
        turns = self._waiting.setdefault(key, deque())
        turn = _Turn()
        turns.append(turn)
        self._broker.starved[self] = None
        try:
            while True:
                self._check_open()
                self._check_link()
                if (
                    turns[0] is turn
                    and self._state is _State.UP
                    and self._broker.put(key, body)
                ):
                    return
                await turn.wait()
        finally:
            turns.remove(turn)
            if turns:
                turns[0].wake()
            else:
                del self._waiting[key]
                if not self._waiting:
                    self._broker.starved.pop(self, None)


class _Turn:
    """The place of one publish in a queue of those that wait."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def wake(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()


class _Reader:
    """One `consume`: its queue, and how much of each lane waits in it."""

    __slots__ = (
        "_deliver",
        "_prefetch",
        "_queue",
        "_wake",
        "bound",
        "keys",
        "queued",
        "scheduled",
    )

    def __init__(
        self,
        keys: list[_Key],
        prefetch: int,
        bound: int,
        deliver: Deliver,
        wake: Callable[[_Reader], None],
    ) -> None:
        self.keys = keys
        self.bound = bound
        self.queued = [0] * len(Lane)
        self._prefetch = prefetch
        self._deliver = deliver
        self._queue: deque[tuple[bytes, Lane, int]] = deque()
        self.scheduled = False
        self._wake = wake

    def put(self, body: bytes, lane: Lane, size: int) -> None:
        """Queue a message; the broker has looked for room."""
        self._queue.append((body, lane, size))
        self.queued[lane] += size
        if not self.scheduled:
            self.scheduled = True
            self._wake(self)

    def turn(self) -> None:
        """Deliver up to `prefetch` messages; still `scheduled` if more wait."""
        queue, queued, deliver = self._queue, self.queued, self._deliver
        try:
            for _ in range(min(self._prefetch, len(queue))):
                if not queue:
                    break  # the reader was left, or its link cut, by `deliver`
                body, lane, size = queue.popleft()
                queued[lane] -= size
                deliver(body, lane)
        finally:
            self.scheduled = bool(queue)

    def clear(self) -> None:
        """Lose all that waits."""
        self._queue.clear()
        self.queued[:] = [0] * len(self.queued)


def _name(url: BusUrl) -> str:
    """Return the broker's name, or say what is wrong with it."""
    host = url.hosts[0]
    if len(url.hosts) > 1 or host.port or host.user is not None or url.path:
        raise ValueError(
            "a memory bus is memory://NAME?OPTIONS, with one name, no port, user or path"
        )
    url.check_options({"max_bytes", "queue_bytes"} | LOG_OPTIONS)
    return check_name(host.name, "name of a memory bus")


def _join(name: str) -> MemoryBroker:
    """Return the broker of this name on this loop, made if need be."""
    broker = _brokers.get(name)
    if broker is not None and broker.home != anyio.lowlevel.current_token():
        if not broker.loop.closed:
            raise ConnectionFailed(
                f"memory://{name} is in use on another event loop of this process; it "
                "connects one loop with itself. Use another name, or a broker"
            )
        broker = None  # its loop is over, and nobody closed it
    if broker is None:
        broker = _brokers[name] = MemoryBroker(name)
    return broker


@asynccontextmanager
async def _open(url: BusUrl, name: str) -> AsyncGenerator[MemoryBus, None]:
    max_bytes = url.int_option("max_bytes", MAX_BYTES)
    queue_bytes = url.int_option("queue_bytes", MAX_QUEUED_BYTES)
    retention = retention_of(url)
    broker = _join(name)
    bus = MemoryBus(
        broker,
        max_bytes=max_bytes,
        queue_bytes=queue_bytes,
        retention=retention,
    )
    broker.links.append(bus)
    try:
        yield bus
    finally:
        bus.close()
        broker.links.remove(bus)
        if not broker.links and _brokers.get(name) is broker:
            del _brokers[name]
