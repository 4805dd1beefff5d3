"""Reading a log: a channel with a consumer on the stream, credited as records are read.

The broker sends as many messages as are not acknowledged yet, so one that stands still
costs it nothing and holds a bounded number here. Offsets are kept here. A stream does not
tell where it ends, so a place is proved by the record before it: if neither that nor a
later one comes, and what comes from the end is older, the log is another one.

Messages are taken from the wire as `deliveries` does, and for the same reason. `log` has
the rest.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import AMQPError, ChannelAccessRefused
from pamqp import header

from remoting_bus.bus.ahead import AheadReader
from remoting_bus.bus.log import LogStart, Record
from remoting_bus.errors import ChannelBroken, ConnectionFailed, SecurityError
from remoting_bus.names import LogName
from remoting_bus_amqp import topology
from remoting_bus_amqp.connection import Connection, words_of
from remoting_bus_amqp.link import Link
from remoting_bus_amqp.wire import BODY, END, HEAD, HEADER, METHOD, Wire

if TYPE_CHECKING:
    from remoting_bus_amqp.log import Logs

__all__ = ["TIME", "AmqpReader"]

TIME = "rb-time"
"""The header with the appender's time, in microseconds since 1970."""

AHEAD = 64
"""Records that the broker may send ahead; it counts no bytes. 32 MiB of the largest."""

ACK_EVERY = AHEAD // 4
"""Records that are acknowledged together, and sooner where none is left."""

QUIET = 1.0
"""Seconds without a record after which a place is doubted, and then, if what comes from
the end does not reach it, given up."""

TIME_MARGIN = 60.0
"""Seconds by which we begin earlier than asked: the broker finds a time by its own clock
and to the second, and those of appenders, which records have, may differ from it."""

NEXT_MARGIN = 10.0
"""Seconds by which we begin before the time of entering, where the link was lost before
any record told where "next" was: what comes twice, or is older, is better than lost."""

PAUSE = 0.25
"""Seconds before going on after something failed."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MAIN, PROBE = b"r", b"p"
"""The tags of a channel's two consumers: the reader's, and the one that looks at the end."""

_DELIVER = struct.pack(">HH", 60, 60)
_CANCEL = struct.pack(">HH", 60, 30)
_CHANNEL_CLOSE = struct.pack(">HH", 20, 40)
_ACK = struct.Struct(">HHQB")


class _Source:
    """One channel's life: what it brings goes to a reader."""

    def __init__(self, reader: AmqpReader, wire: Wire, channel: int) -> None:
        self._reader = reader
        self._wire = wire
        self._channel = channel
        self._consumer = b""
        self._tag = 0
        self._key = ""
        self._left = 0
        self._headers: dict[str, Any] = {}
        self._pieces: list[bytes] = []
        self.came = asyncio.Event()
        self.probed = -1
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        wire.handlers[channel] = self._frame

    def close(self) -> None:
        """Take nothing more."""
        self._wire.handlers.pop(self._channel, None)

    def acknowledge(self, tag: int, *, several: bool) -> None:
        """Let the broker send more."""
        payload = _ACK.pack(60, 80, tag, several)
        self._wire.send([HEAD.pack(METHOD, self._channel, len(payload)), payload, END])

    def _frame(self, kind: int, payload: bytes) -> bool:
        if kind == METHOD:
            method = payload[:4]
            if method == _DELIVER:
                self._begin(payload)
                return True
            if method == _CANCEL:
                self._end_by("the broker has ended the consumer")
            elif method == _CHANNEL_CLOSE:
                self._end_by(payload[7 : 7 + payload[6]].decode("utf-8", "replace"))
            return False
        if kind == HEADER:
            content = header.ContentHeader()
            content.unmarshal(payload)
            self._left = content.body_size
            self._headers = content.properties.headers or {}
            self._pieces = []
        elif kind == BODY:
            self._left -= len(payload)
            self._pieces.append(payload)
        if self._left <= 0:
            self._whole()
        return True

    def _begin(self, payload: bytes) -> None:
        """Read `basic.deliver`: consumer, tag, redelivered, exchange, routing key."""
        at = 5 + payload[4]
        self._consumer = payload[5:at]
        (self._tag,) = struct.unpack_from(">Q", payload, at)
        at += 9
        at += 1 + payload[at]
        key = payload[at + 1 : at + 1 + payload[at]].decode("utf-8", "replace")
        self._key = key.rpartition(".")[2]

    def _whole(self) -> None:
        """A message is there."""
        self.came.set()
        if "x-stream-offset" not in self._headers:
            self._reader.no_stream()
            return
        offset = int(self._headers["x-stream-offset"])
        if self._consumer == PROBE:
            self.probed = max(self.probed, offset)
            self.acknowledge(self._tag, several=False)
            return
        micros = self._headers.get(TIME)
        time = (
            EPOCH + timedelta(microseconds=micros)
            if isinstance(micros, int)
            else datetime.now(UTC)  # somebody else's message
        )
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._reader.take(self, self._tag, Record(offset, time, self._key, body))

    def _end_by(self, words: str) -> None:
        if not self.over.done():
            self.over.set_result(words)
        self.came.set()


class AmqpReader(AheadReader):
    """One reader's place, and what it has ahead."""

    def __init__(self, log: LogName, start: LogStart, link: Link, logs: Logs) -> None:
        super().__init__()
        self._log = log
        self._start = start
        self._link = link
        self._logs = logs
        self._entered = datetime.now(UTC)
        self._tags: deque[tuple[_Source, int]] = deque()
        self._unacked = 0
        self._task: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        if isinstance(start, int):
            self.wanted = self.position = start

    async def begin(self) -> None:
        """Have a consumer at the place."""
        self._task = asyncio.create_task(self._keep(), name=f"log {self._log}")
        await self._begun.wait()
        if self.ended is not None:
            raise self.ended

    def end(self, error: Exception) -> None:
        """Give out nothing more."""
        super().end(error)
        self._tags.clear()
        if self._task is not None:
            self._task.cancel()
        self._begun.set()

    def anew(self, first: int | None) -> None:
        """What comes next is of another log, which is read from its beginning."""
        self._start = "first"
        super().anew(first)

    def passed(self, position: int) -> bool:
        """Keep account: each segment of a stream begins with an entry of the broker's.

        It has an offset, too, so a hole holds one position at least that was no record.
        """
        hole = self.position is not None and position > self.position
        if not super().passed(position):
            return False
        self.lost -= hole
        return True

    def take(self, source: _Source, tag: int, record: Record) -> None:
        """Take a record from a source."""
        early = (
            isinstance(self._start, datetime)
            and self.wanted is None
            and record.time < self._start
        )
        if early or not self.put(record):
            source.acknowledge(tag, several=False)
        else:
            self._tags.append((source, tag))

    def no_stream(self) -> None:
        """Something came that is in no stream."""
        self.end(
            ConnectionFailed(
                f"the queue {topology.log_stream(self._log)} is no stream: delete it, or "
                "name the log otherwise",
                final=True,
            )
        )

    def taken(self, record: Record) -> None:
        """Acknowledge some at once."""
        source, tag = self._tags.popleft()
        self._unacked += 1
        if (
            self._unacked >= ACK_EVERY
            or not self._tags
            or self._tags[0][0] is not source
        ):
            self._unacked = 0
            source.acknowledge(tag, several=True)

    async def _keep(self) -> None:
        """Read on, whatever happens to connections and consumers."""
        try:
            while True:
                connection = await self._link.wait_up()
                try:
                    await self._read_on(connection)
                except (ChannelBroken, ConnectionFailed) as error:
                    final = isinstance(error, ConnectionFailed) and (
                        error.final or not self._begun.is_set()
                    )
                    if final and not connection.lost.done():
                        raise
                    await asyncio.sleep(PAUSE)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where records are awaited
            self.end(error)

    async def _read_on(self, connection: Connection) -> None:
        """Read by one channel, until it or the connection is gone."""
        made = await self._logs.ready(connection, self._log)
        if made and self._begun.is_set():
            self.anew(None)
        channel = await self._open(connection)
        source = _Source(self, connection.wire, channel.number)
        try:
            await self._consume(channel, MAIN, self._offset())
            self._begun.set()
            if self.wanted and not await self._is_proved(connection, channel, source):
                self.anew(None)
                return
            await self._until(connection, source, None)
            self._logs.forget(self._log)
        finally:
            source.close()
            if not connection.lost.done():
                connection.in_background(channel.close())

    async def _open(self, connection: Connection) -> AbstractChannel:
        """A channel of our own; one that comes too late is closed by the connection."""
        opened: list[AbstractChannel] = []

        async def work() -> None:
            opened.append(await connection.client.channel(publisher_confirms=False))
            await opened[0].basic_qos(prefetch_count=AHEAD)

        try:
            done = await connection.until_lost(work())
        except AMQPError as error:
            raise ChannelBroken(
                f"no channel to read a log: {words_of(error)}"
            ) from error
        if not done:
            raise ChannelBroken("the AMQP link was lost")
        return opened[0]

    async def _consume(self, channel: AbstractChannel, tag: bytes, offset: Any) -> None:
        try:
            await channel.basic_consume(
                topology.log_stream(self._log),
                _unused,
                arguments={"x-stream-offset": offset},
                consumer_tag=tag.decode(),
            )
        except ChannelAccessRefused as error:
            raise SecurityError(
                f"RabbitMQ does not let us read the log {self._log}: {words_of(error)}"
            ) from error
        except (AMQPError, OSError) as error:
            self._logs.forget(self._log)
            raise ChannelBroken(
                f"the log {self._log} is not read: {words_of(error)}"
            ) from error

    def _offset(self) -> Any:
        """What the broker is asked for: the record before the one that is wanted."""
        if self.wanted is not None:
            return max(0, self.wanted - 1)
        if isinstance(self._start, datetime):
            margin = timedelta(seconds=TIME_MARGIN)
            return max(EPOCH, self._start.astimezone(UTC) - margin)
        if self._start == "next":
            if not self._begun.is_set():
                self._entered = datetime.now(UTC)
                return "next"
            return self._entered - timedelta(seconds=NEXT_MARGIN)
        return "first"

    async def _is_proved(
        self, connection: Connection, channel: AbstractChannel, source: _Source
    ) -> bool:
        """Whether the log reaches to where we read; True as well where it is over.

        A record has come, or would have: the one before the place, if the log has it.
        """
        before = self.wanted
        assert before is not None
        if await self._until(connection, source, QUIET):
            return True
        await self._consume(channel, PROBE, "last")
        while True:
            reached = source.probed
            if await self._until(connection, source, QUIET) and source.over.done():
                return True
            if connection.lost.done() or source.probed >= before - 1:
                return True
            if source.probed == reached:
                return False

    async def _until(
        self, connection: Connection, source: _Source, limit: float | None
    ) -> bool:
        """Wait until it is over or, with a limit, until anything came; False if not."""
        source.came.clear()
        either: set[asyncio.Future[Any]] = {source.over, connection.lost}
        coming = asyncio.ensure_future(source.came.wait())
        if limit is not None:
            either.add(coming)
        try:
            done, _ = await asyncio.wait(
                either, timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            coming.cancel()
        return bool(done)


async def _unused(message: DeliveredMessage) -> None:
    """Messages never come this way."""
